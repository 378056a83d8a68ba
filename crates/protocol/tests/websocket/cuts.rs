//! However the input is cut, the decoder says the same.

use proptest::prelude::*;
use tidegate_protocol::websocket::{Decoder, Opcode, Role, frame, frame_masked};

use crate::frames::{Message, fragment, read, role, stream};

const MAX: usize = 1 << 20;

/// One of everything, short enough to be cut everywhere, in two places at once.
#[test]
fn a_stream_may_be_cut_at_every_two_bytes() {
    let mut bytes = Vec::new();
    for (fin, opcode, payload) in [
        (true, Opcode::Text, "h\u{e9}".as_bytes()),
        (false, Opcode::Text, "\u{20ac}".as_bytes().split_at(1).0),
        (true, Opcode::Ping, b"pi"),
        (false, Opcode::Continuation, b""),
        (true, Opcode::Pong, b""),
        (true, Opcode::Continuation, "\u{20ac}".as_bytes().split_at(1).1),
        (true, Opcode::Binary, &[7; 130]),
        (true, Opcode::Close, &[0x03, 0xe8, b'k']),
    ] {
        bytes.extend(fragment(Role::Server, fin, opcode, payload, [1, 2, 3, 4]));
    }
    let messages = [
        Message::Text("hé".to_owned()),
        Message::Ping(b"pi".to_vec()),
        Message::Pong(Vec::new()),
        Message::Text("€".to_owned()),
        Message::Binary(vec![7; 130]),
        Message::Close(Some(1000)),
    ];
    for first in 0..bytes.len() {
        for second in [1, 2, 3, 7, 14, 50] {
            let (read, violation) = read(Decoder::new(Role::Server, 1000), &bytes, [first, second]);
            assert_eq!(violation, None, "cut at {first}, then after {second}");
            assert_eq!(read, messages, "cut at {first}, then after {second}");
        }
    }
    let (read, violation) = read(Decoder::new(Role::Server, 1000), &bytes, std::iter::repeat(1));
    assert_eq!((&read[..], violation), (&messages[..], None));
}

proptest! {
    #[test]
    fn valid_streams_are_read_whole_and_byte_by_byte((role, (bytes, messages)) in role().prop_flat_map(|role| (Just(role), stream(role)))) {
        let (whole, violation) = read(Decoder::new(role, MAX), &bytes, []);
        prop_assert_eq!((&whole, violation), (&messages, None));
        if bytes.len() < 2000 {
            let (bytewise, violation) = read(Decoder::new(role, MAX), &bytes, std::iter::repeat(1));
            prop_assert_eq!((&bytewise, violation), (&messages, None));
        }
    }

    #[test]
    fn valid_streams_are_read_at_any_cut(
        (role, (bytes, messages)) in role().prop_flat_map(|role| (Just(role), stream(role))),
        cuts in prop::collection::vec(0usize..200, 0..40),
    ) {
        let (cut, violation) = read(Decoder::new(role, MAX), &bytes, cuts);
        prop_assert_eq!((&cut, violation), (&messages, None));
    }

    /// Bytes that mean something at the start of a frame more often than chance would have it.
    #[test]
    fn invalid_streams_are_refused_for_the_same_reason_at_any_cut(
        role in role(),
        bytes in prop::collection::vec(
            prop_oneof![
                2 => any::<u8>(),
                2 => prop::sample::select(&[0x81u8, 0x82, 0x01, 0x02, 0x80, 0x00, 0x88, 0x89, 0x8a]),
                2 => prop::sample::select(&[0x80u8, 0x81, 0x82, 0x84, 0x00, 0x01, 0x03, 0xfe, 0x7e, 0xff, 0x7f]),
            ],
            0..60,
        ),
        cuts in prop::collection::vec(0usize..20, 0..12),
    ) {
        let whole = read(Decoder::new(role, 100), &bytes, []);
        let cut = read(Decoder::new(role, 100), &bytes, cuts);
        let bytewise = read(Decoder::new(role, 100), &bytes, std::iter::repeat(1));
        prop_assert_eq!(&whole, &cut);
        prop_assert_eq!(&whole, &bytewise);
    }

    #[test]
    fn what_one_side_frames_the_other_reads(data in prop::collection::vec(any::<u8>(), 0..70_000), mask in any::<[u8; 4]>()) {
        let read_by = |role, bytes: &[u8]| read(Decoder::new(role, MAX), bytes, []);
        let expected = (vec![Message::Binary(data.clone())], None);
        prop_assert_eq!(&read_by(Role::Server, &frame_masked(Opcode::Binary, &data, mask)), &expected);
        prop_assert_eq!(&read_by(Role::Client, &frame(Opcode::Binary, &data)), &expected);
    }
}
