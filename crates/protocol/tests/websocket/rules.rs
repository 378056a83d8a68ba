//! One test for every rule the reader holds its peer to.

use tidegate_protocol::websocket::{
    CONTROL_BYTES_MAX, Decoder, Incoming, Input, Opcode, Role, Violation, close, frame, frame_masked,
};

use crate::frames::{MASK, Message, fragment, raw, read};

const MAX: usize = 1000;

/// What a server that takes messages of [`MAX`] bytes makes of `bytes`.
fn server(bytes: &[u8]) -> (Vec<Message>, Option<Violation>) {
    read(Decoder::new(Role::Server, MAX), bytes, [])
}

fn refused(bytes: &[u8], violation: Violation) {
    assert_eq!(server(bytes), (Vec::new(), Some(violation)), "{bytes:x?}");
}

/// A frame of a client.
fn client(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    fragment(Role::Server, fin, opcode, payload, MASK)
}

#[test]
fn the_decoder_is_small() {
    assert!(size_of::<Decoder>() <= 16);
}

#[test]
fn the_examples_of_the_standard_are_read() {
    let (hello, _) = server(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    assert_eq!(hello, [Message::Text("Hello".to_owned())]);
    let fragments = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
    let (hello, _) = read(Decoder::new(Role::Client, MAX), &fragments, []);
    assert_eq!(hello, [Message::Text("Hello".to_owned())]);
}

#[test]
fn reserved_bits_must_be_zero() {
    for bit in [0x40, 0x20, 0x10] {
        refused(&raw(0x81 | bit, Some(MASK), &[1], b"a"), Violation::ReservedBits);
    }
}

#[test]
fn reserved_opcodes_are_refused() {
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        refused(&raw(0x80 | opcode, Some(MASK), &[0], b""), Violation::Opcode);
    }
}

#[test]
fn a_client_masks_and_a_server_does_not() {
    refused(&frame(Opcode::Text, b"a"), Violation::NotMasked);
    let (messages, violation) =
        read(Decoder::new(Role::Client, MAX), &frame_masked(Opcode::Text, b"a", MASK), []);
    assert_eq!((messages, violation), (Vec::new(), Some(Violation::Masked)));
}

#[test]
fn a_mask_of_zeros_is_a_mask() {
    assert_eq!(server(&frame_masked(Opcode::Text, b"plain", [0; 4])).0, [Message::Text("plain".to_owned())]);
}

#[test]
fn control_frames_are_not_fragmented() {
    for opcode in [Opcode::Ping, Opcode::Pong, Opcode::Close] {
        refused(&client(false, opcode, b""), Violation::ControlFragmented);
    }
}

#[test]
fn control_frames_are_short() {
    for opcode in [Opcode::Ping, Opcode::Pong, Opcode::Close] {
        refused(&client(true, opcode, &[0; CONTROL_BYTES_MAX + 1]), Violation::ControlTooLong);
        refused(&client(true, opcode, &[0; 70_000]), Violation::ControlTooLong);
    }
    let longest = [b'x'; CONTROL_BYTES_MAX];
    assert_eq!(server(&client(true, Opcode::Ping, &longest)).0, [Message::Ping(longest.to_vec())]);
}

#[test]
fn lengths_are_in_their_shortest_form() {
    refused(&raw(0x82, Some(MASK), &[126, 0, 125], &[0; 125]), Violation::Length);
    refused(&raw(0x82, Some(MASK), &[127, 0, 0, 0, 0, 0, 0, 0, 1], &[0]), Violation::Length);
    refused(&raw(0x82, Some(MASK), &[127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], &[0; 65_535]), Violation::Length);
    let highest_bit = [127, 0x80, 0, 0, 0, 0, 0, 0, 0];
    refused(&raw(0x82, Some(MASK), &highest_bit, b""), Violation::Length);
    assert_eq!(server(&raw(0x82, Some(MASK), &[126, 0, 126], &[1; 126])).0, [Message::Binary(vec![1; 126])]);
}

#[test]
fn a_continuation_continues_something() {
    refused(&client(true, Opcode::Continuation, b"a"), Violation::Continuation);
    refused(&client(false, Opcode::Continuation, b"a"), Violation::Continuation);
    let mut after_the_end = client(false, Opcode::Text, b"a");
    after_the_end.extend(client(true, Opcode::Continuation, b"b"));
    after_the_end.extend(client(true, Opcode::Continuation, b"c"));
    assert_eq!(server(&after_the_end), (vec![Message::Text("ab".to_owned())], Some(Violation::Continuation)));
}

#[test]
fn messages_are_not_interleaved() {
    for second in [Opcode::Text, Opcode::Binary] {
        for fin in [true, false] {
            let mut bytes = client(false, Opcode::Text, b"");
            bytes.extend(client(fin, second, b"b"));
            refused(&bytes, Violation::Interleaved);
        }
    }
}

#[test]
fn control_frames_come_amid_a_message() {
    let mut bytes = client(false, Opcode::Binary, b"a");
    bytes.extend(client(true, Opcode::Ping, b"1"));
    bytes.extend(client(true, Opcode::Pong, b""));
    bytes.extend(client(true, Opcode::Continuation, b"b"));
    let messages = [Message::Ping(b"1".to_vec()), Message::Pong(Vec::new()), Message::Binary(b"ab".to_vec())];
    assert_eq!(server(&bytes), (messages.to_vec(), None));
}

#[test]
fn a_message_may_be_as_large_as_the_limit_and_no_larger() {
    assert_eq!(server(&client(true, Opcode::Binary, &[1; MAX])).0, [Message::Binary(vec![1; MAX])]);
    refused(&client(true, Opcode::Binary, &[1; MAX + 1]), Violation::TooLarge);
    refused(
        &raw(0x82, Some(MASK), &[127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], b""),
        Violation::TooLarge,
    );
}

#[test]
fn the_fragments_of_a_message_share_the_limit() {
    let mut bytes = client(false, Opcode::Binary, &[1; MAX - 1]);
    bytes.extend(client(false, Opcode::Continuation, &[1]));
    let mut more = bytes.clone();
    bytes.extend(client(true, Opcode::Continuation, b""));
    assert_eq!(server(&bytes).0, [Message::Binary(vec![1; MAX])]);
    more.extend(client(true, Opcode::Continuation, &[1]));
    refused(&more, Violation::TooLarge);
}

#[test]
fn too_large_is_told_from_the_header() {
    let header = &client(true, Opcode::Binary, &[1; MAX + 1])[..8];
    refused(header, Violation::TooLarge);
}

#[test]
fn text_is_utf8() {
    for text in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\x80"] {
        refused(&client(true, Opcode::Text, text), Violation::Utf8);
    }
    assert_eq!(
        server(&client(true, Opcode::Binary, b"\xff")).0,
        [Message::Binary(vec![0xff])],
        "binary need not be"
    );
}

#[test]
fn text_is_utf8_as_a_whole() {
    let mut bytes = client(false, Opcode::Text, b"\xe2\x82");
    let mut cut_short = bytes.clone();
    bytes.extend(client(true, Opcode::Continuation, b"\xac"));
    assert_eq!(server(&bytes).0, [Message::Text("€".to_owned())]);
    cut_short.extend(client(true, Opcode::Continuation, b""));
    refused(&cut_short, Violation::Utf8);
}

#[test]
fn a_close_has_no_code_or_one_that_may_be_sent() {
    assert_eq!(server(&client(true, Opcode::Close, b"")).0, [Message::Close(None)]);
    for code in
        [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
    {
        let payload = u16::to_be_bytes(code);
        assert_eq!(server(&client(true, Opcode::Close, &payload)).0, [Message::Close(Some(code))]);
    }
    refused(&client(true, Opcode::Close, &[3]), Violation::CloseCode);
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        refused(&client(true, Opcode::Close, &u16::to_be_bytes(code)), Violation::CloseCode);
    }
}

#[test]
fn a_close_reason_is_utf8() {
    assert_eq!(server(&client(true, Opcode::Close, b"\x03\xe8bye")).0, [Message::Close(Some(1000))]);
    refused(&client(true, Opcode::Close, b"\x03\xe8\xff"), Violation::Utf8);
}

#[test]
fn a_client_reads_what_a_server_says_when_it_closes() {
    let (messages, _) = read(Decoder::new(Role::Client, MAX), &close(Some(1012), "draining"), []);
    assert_eq!(messages, [Message::Close(Some(1012))]);
}

#[test]
fn violations_have_the_close_codes_of_the_standard() {
    assert_eq!(Violation::TooLarge.close_code(), 1009);
    assert_eq!(Violation::Utf8.close_code(), 1007);
    for violation in [
        Violation::ReservedBits,
        Violation::Opcode,
        Violation::NotMasked,
        Violation::Masked,
        Violation::Length,
        Violation::ControlFragmented,
        Violation::ControlTooLong,
        Violation::Continuation,
        Violation::Interleaved,
        Violation::CloseCode,
    ] {
        assert_eq!(violation.close_code(), 1002, "{violation}");
    }
}

#[test]
fn a_whole_message_is_lent_from_the_input() {
    let mut bytes = client(true, Opcode::Binary, &[9; 300]);
    let range = bytes.as_ptr_range();
    let mut decoder = Decoder::new(Role::Server, MAX);
    let mut input = Input::new(&mut bytes);
    match decoder.next(&mut input).unwrap() {
        Some(Incoming::Binary(data)) => {
            assert_eq!(data, [9; 300]);
            assert!(range.contains(&data.as_ptr()), "copied");
        }
        other => panic!("{other:?}"),
    }
}
