//! Frames that were captured between stock peers.

use tidegate_msgpack::write;
use tidegate_protocol::socketio::{Decoder, Head, Packet, Parser};

use crate::vectors::{self, hex, unhex};
use crate::{BYTES_MAX, connect, encoded, event, server, wire};

#[test]
fn captured_text_frames_decode_and_encode_to_the_byte() {
    let vectors = vectors::client_wire();
    let mut client = Decoder::client(Parser::Text, BYTES_MAX);
    let mut server = server();
    let mut sent: Vec<String> = Vec::new();
    let mut packets = 0;
    for frame in vectors["text"].as_array().unwrap() {
        let decoder = if frame["from"] == "client" { &mut server } else { &mut client };
        let data = frame["data"].as_str().unwrap();
        let packet = if frame["binary"] == true {
            decoder.binary(&unhex(&frame["data"])).unwrap()
        } else {
            decoder.text(data).unwrap()
        };
        sent.push(data.to_owned());
        let Some(packet) = packet else { continue };
        packets += 1;
        let encoded = encoded(Parser::Text, &packet).unwrap();
        let Head::Text(text) = &encoded.head else { panic!("{packet:?}") };
        let mut ours = vec![String::from_utf8(text.to_vec()).unwrap()];
        ours.extend(encoded.attachments.iter().map(|attachment| hex(attachment)));
        assert_eq!(ours, std::mem::take(&mut sent));
    }
    assert_eq!(packets, 15);
}

#[test]
fn captured_messagepack_frames_decode_and_encode() {
    let vectors = vectors::client_wire();
    let frames = vectors["messagepack"].as_array().unwrap();
    let read = |index: usize| {
        let frame = &frames[index];
        let mut decoder = match frame["from"].as_str().unwrap() {
            "client" => server(),
            _ => Decoder::client(Parser::MessagePack, BYTES_MAX),
        };
        decoder.binary(&unhex(&frame["data"])).unwrap().unwrap()
    };
    let all_types = |name: &str| {
        // The name, 1, undefined, null, Date(1700000000123), bytes 01 02, an array buffer of 03, 1.5, -1.
        let rest = "01c0c0d7ff1d5353006553f100c4020102c40103cb3ff8000000000000ff";
        let mut data = vec![0x99];
        write::str(&mut data, name);
        data.extend(unhex(&rest.into()));
        Packet::Event { namespace: "/".to_owned(), id: None, data }
    };
    assert_eq!(read(0), connect("/", Some("{\"token\":\"abc\"}")));
    assert_eq!(read(1), connect("/", None));
    assert_eq!(read(2), connect("/", Some("{\"sid\":\"eP_bgkAKbc_duL0SAAAI\"}")));
    assert_eq!(read(3), all_types("e"));
    assert_eq!(read(4), all_types("back"));
    assert_eq!(read(5), event("/", Some(0), "[\"e\",\"x\"]"));
    assert_eq!(read(6), Packet::Ack { namespace: "/".to_owned(), id: 0, data: wire("[\"ok\"]") });
    assert_eq!(read(7), Packet::Disconnect { namespace: "/".to_owned() });
    assert_eq!(read(8), event("/", Some(1), "[\"echo\",\"a\",1,{\"k\":[true,null]}]"));
    assert_eq!(
        read(9),
        Packet::ConnectError {
            namespace: "/nope".to_owned(),
            data: wire("{\"message\":\"Invalid namespace\"}")
        }
    );
    // Ours to send, and with the keys in this order: CONNECT from a client, ACK, DISCONNECT.
    for index in [0, 1, 6, 7] {
        let encoded = encoded(Parser::MessagePack, &read(index)).unwrap();
        let Head::Binary(bytes) = &encoded.head else { panic!("frame {index}") };
        assert_eq!(hex(bytes), frames[index]["data"], "frame {index}");
    }
}
