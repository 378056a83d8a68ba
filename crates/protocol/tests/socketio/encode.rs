//! What is refused instead of sent.

use tidegate_msgpack::write;
use tidegate_protocol::socketio::{ATTACHMENTS_MAX, Head, Parser, encode};
use tidegate_protocol::value;

use crate::vectors::unhex;

#[test]
fn text_carries_ten_attachments_and_no_more() {
    let data = |count: u32| {
        let mut data = Vec::new();
        write::array(&mut data, count + 1);
        write::str(&mut data, "e");
        (0..count).for_each(|_| write::bin(&mut data, &[1]));
        data
    };
    let most = data(u32::try_from(ATTACHMENTS_MAX).unwrap());
    let encoded = encode::event(Parser::Text, "/a", Some(1), &most).unwrap();
    let Head::Text(text) = &encoded.head else { panic!("{encoded:?}") };
    assert!(text.starts_with(b"510-/a,1[\"e\",{\"_placeholder\":true,\"num\":0},"));
    assert_eq!(encoded.attachments.len(), ATTACHMENTS_MAX);
    let more = data(u32::try_from(ATTACHMENTS_MAX).unwrap() + 1);
    assert_eq!(encode::event(Parser::Text, "/", None, &more), Err(value::Error::Attachments));
    assert_eq!(encode::ack(Parser::Text, "/", 0, &more), Err(value::Error::Attachments));
    assert!(encode::event(Parser::MessagePack, "/", None, &more).is_ok());
    // These types have no binary form.
    let auth = unhex(&"81a161c40101".into());
    assert_eq!(encode::connect(Parser::Text, "/", Some(&auth)), Err(value::Error::Attachments));
    assert_eq!(encode::connect_error(Parser::Text, "/", &auth), Err(value::Error::Attachments));
}

#[test]
fn data_that_is_not_wire_form_is_not_sent() {
    for parser in [Parser::Text, Parser::MessagePack] {
        for data in [&[][..], &[0x92, 0x01], &[0x90, 0x00], &[0xc1]] {
            assert!(encode::event(parser, "/", None, data).is_err(), "{data:02x?}");
            assert!(encode::ack(parser, "/", 0, data).is_err(), "{data:02x?}");
            assert!(encode::connect(parser, "/", Some(data)).is_err(), "{data:02x?}");
            assert!(encode::connect_error(parser, "/", data).is_err(), "{data:02x?}");
        }
    }
}
