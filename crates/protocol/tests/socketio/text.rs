//! The default parser: every rule, and attachments.

use tidegate_protocol::socketio::{Decoder, ID_MAX, Packet, Parser, RESERVED_EVENTS, Violation};
use tidegate_protocol::value;

use crate::vectors::unhex;
use crate::{BYTES_MAX, connect, event, server, wire};

#[test]
fn text_packets_of_clients_are_read() {
    for (text, packet) in [
        ("0", connect("/", None)),
        ("0{\"token\":\"abc\"}", connect("/", Some("{\"token\":\"abc\"}"))),
        ("0/chat,{}", connect("/chat", Some("{}"))),
        ("0/chat", connect("/chat", None)),
        ("0/nope?x=1,", connect("/nope?x=1", None)),
        ("1", Packet::Disconnect { namespace: "/".to_owned() }),
        ("1/chat,", Packet::Disconnect { namespace: "/chat".to_owned() }),
        ("2[\"e\"]", event("/", None, "[\"e\"]")),
        ("20[\"e\",\"x\"]", event("/", Some(0), "[\"e\",\"x\"]")),
        ("2/chat,12[\"e\",{\"a\":[1]}]", event("/chat", Some(12), "[\"e\",{\"a\":[1]}]")),
        ("2[7,1]", event("/", None, "[7,1]")),
        ("2[-1.5]", event("/", None, "[-1.5]")),
        ("2[\"Connect\"]", event("/", None, "[\"Connect\"]")),
        (
            "2[\"e\",{\"_placeholder\":true,\"num\":0}]",
            event("/", None, "[\"e\",{\"_placeholder\":true,\"num\":0}]"),
        ),
        ("33[]", Packet::Ack { namespace: "/".to_owned(), id: 3, data: vec![0x90] }),
        ("33", Packet::Ack { namespace: "/".to_owned(), id: 3, data: vec![0x90] }),
        ("3/a,3[1]", Packet::Ack { namespace: "/a".to_owned(), id: 3, data: vec![0x91, 1] }),
        ("29007199254740991[\"e\"]", event("/", Some(ID_MAX), "[\"e\"]")),
    ] {
        assert_eq!(server().text(text), Ok(Some(packet)), "{text}");
    }
}

#[test]
fn packets_that_ask_for_nothing_are_passed_over() {
    for text in ["2", "25", "2/chat,", "3[]", "3"] {
        assert_eq!(server().text(text), Ok(None), "{text}");
    }
}

#[test]
fn an_event_of_sixteen_items_is_read() {
    let items = format!("[\"e\"{}]", ",0".repeat(15));
    assert_eq!(server().text(&format!("2{items}")), Ok(Some(event("/", None, &items))));
    let reserved = format!("2[\"disconnect\"{}]", ",0".repeat(15));
    assert_eq!(server().text(&reserved), Err(Violation::ReservedEvent));
}

#[test]
fn what_no_client_may_send_closes_the_connection() {
    let placeholder = "{\"_placeholder\":true,\"num\":0}";
    for (text, violation) in [
        ("", Violation::Type),
        ("7", Violation::Type),
        ("x[\"e\"]", Violation::Type),
        ("0[1]", Violation::Payload),
        ("0null", Violation::Payload),
        ("0\"x\"", Violation::Payload),
        ("1{}", Violation::Payload),
        ("1null", Violation::Payload),
        ("2[]", Violation::Payload),
        ("2{}", Violation::Payload),
        ("2\"e\"", Violation::Payload),
        ("2[null]", Violation::Payload),
        ("2[true]", Violation::Payload),
        ("2[[\"e\"]]", Violation::Payload),
        ("2[{}]", Violation::Payload),
        ("2[1e999]", Violation::Payload),
        ("30{}", Violation::Payload),
        ("30null", Violation::Payload),
        ("2abc[\"e\"]", Violation::Value(value::Error::Json { at: 0 })),
        ("2[\"e\"", Violation::Value(value::Error::Json { at: 4 })),
        ("2[\"e\"]x", Violation::Value(value::Error::Json { at: 5 })),
        ("29007199254740992[\"e\"]", Violation::Id),
        ("4{\"message\":\"x\"}", Violation::Direction),
        ("4", Violation::Direction),
        ("50-[\"e\"]", Violation::Attachments),
        ("511-[\"e\"]", Violation::Attachments),
        ("5[\"e\"]", Violation::Attachments),
        ("51-", Violation::Payload),
        ("61-4", Violation::Payload),
        ("51-[]", Violation::Payload),
        (&format!("51-[{placeholder}]"), Violation::Payload),
        ("51-[\"connect\"]", Violation::ReservedEvent),
        ("51-[\"e\",{\"_placeholder\":true,\"num\":1}]", Violation::Value(value::Error::Placeholder)),
        (&format!("52-[\"e\",{placeholder},{placeholder}]"), Violation::Value(value::Error::Placeholder)),
        ("61-0{}", Violation::Payload),
    ] {
        assert_eq!(server().text(text), Err(violation), "{text}");
    }
    for name in RESERVED_EVENTS {
        assert_eq!(server().text(&format!("2[\"{name}\"]")), Err(Violation::ReservedEvent), "{name}");
    }
    // The name is compared after its escapes are read.
    assert_eq!(server().text("2[\"\\u0063onnect\"]"), Err(Violation::ReservedEvent));
}

#[test]
fn attachments_take_the_places_of_their_numbers() {
    let mut decoder = server();
    let text = "52-/a,7[\"e\",{\"_placeholder\":true,\"num\":1},{\"x\":{\"num\":0,\"_placeholder\":true}}]";
    assert_eq!(decoder.text(text), Ok(None));
    assert_eq!(decoder.binary(&[1]), Ok(None));
    let data = unhex(&"93a165c4020202".to_owned().into());
    let data = [&data[..], &unhex(&"81a178c40101".into())].concat();
    let packet = Packet::Event { namespace: "/a".to_owned(), id: Some(7), data };
    assert_eq!(decoder.binary(&[2, 2]), Ok(Some(packet)));
    assert_eq!(decoder.binary(&[3]), Err(Violation::BinaryUnasked));
}

#[test]
fn an_acknowledgement_may_have_attachments() {
    let mut decoder = server();
    assert_eq!(decoder.text("61-12[\"ok\",{\"_placeholder\":true,\"num\":0}]"), Ok(None));
    let data = unhex(&"92a26f6bc40101".into());
    let packet = Packet::Ack { namespace: "/".to_owned(), id: 12, data };
    assert_eq!(decoder.binary(&[1]), Ok(Some(packet)));
    // Without an id it acknowledges nothing, but its attachments are still taken.
    assert_eq!(decoder.text("61-[{\"_placeholder\":true,\"num\":0}]"), Ok(None));
    assert_eq!(decoder.binary(&[1]), Ok(None));
    assert_eq!(decoder.binary(&[1]), Err(Violation::BinaryUnasked));
}

#[test]
fn text_between_attachments_closes_the_connection() {
    let mut decoder = server();
    decoder.text("52-[\"e\",{\"_placeholder\":true,\"num\":1}]").unwrap();
    decoder.binary(&[1]).unwrap();
    assert_eq!(decoder.text("2[\"e\"]"), Err(Violation::TextWhileAssembling));
}

#[test]
fn a_packet_is_bounded_with_its_attachments() {
    let text = "52-[\"e\",{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":1}]";
    let mut decoder = Decoder::server(text.len() + 10);
    for _ in 0..2 {
        assert_eq!(decoder.text(text), Ok(None));
        assert_eq!(decoder.binary(&[0; 6]), Ok(None));
        assert!(decoder.binary(&[0; 4]).unwrap().is_some());
    }
    let too_large = Err(Violation::TooLarge { bytes_max: u32::try_from(text.len()).unwrap() + 10 });
    assert_eq!(decoder.text(text), Ok(None));
    assert_eq!(decoder.binary(&[0; 6]), Ok(None));
    assert_eq!(decoder.binary(&[0; 5]), too_large);

    assert!(Decoder::server(5).text("2[12]").is_ok());
    assert_eq!(Decoder::server(5).text("2[123]"), Err(Violation::TooLarge { bytes_max: 5 }));
    assert_eq!(Decoder::server(5).binary(&[0; 6]), Err(Violation::TooLarge { bytes_max: 5 }));
}

#[test]
fn servers_send_what_clients_may_not() {
    let mut client = Decoder::client(Parser::Text, BYTES_MAX);
    let refusal = |namespace: &str, json: &str| {
        Ok(Some(Packet::ConnectError { namespace: namespace.to_owned(), data: wire(json) }))
    };
    assert_eq!(client.text("4{\"message\":\"no\"}"), refusal("/", "{\"message\":\"no\"}"));
    assert_eq!(client.text("4/a,\"no\""), refusal("/a", "\"no\""));
    assert_eq!(client.text("4[1]"), Err(Violation::Payload));
    assert_eq!(client.text("4"), Err(Violation::Payload));
}
