//! The steps: of the codec and the envelope here, of the hub and the outbox where they are known.

use std::hint::black_box;

use bytes::Bytes;
use tidegate_core::{Flags, Namespace, Publication, Room, Rooms};
use tidegate_gateway::bench::{self, Meter};
use tidegate_protocol::plain::{self, Format};
use tidegate_protocol::socketio::{self, Encoded, Head, Parser};
use tidegate_protocol::websocket::{self, Incoming, Input, Opcode, Role};
use tidegate_redis::adapter::Envelope;
use tidegate_redis::resp::{self, Frame};

use crate::event;

/// Larger than anything in here.
const BYTES_MAX: usize = 1 << 20;

/// Acts in a round: enough that reading the clock does not show.
const TIMES: u32 = 1_000;

/// The same for steps of several microseconds.
const TIMES_LONG: u32 = 20;

pub(crate) fn run(meter: &mut dyn Meter) {
    measure(meter, "nothing: the loop around a step", TIMES, &mut || {
        black_box(());
    });
    decode(meter);
    for (size, wire, times) in [
        ("100 B", event::rows(1), TIMES),
        ("10 KB, 100 objects", event::rows(100), TIMES_LONG),
        ("100 B and two attachments of 1 KiB", event::with_attachments(), TIMES),
    ] {
        encode(meter, size, &wire, times);
    }
    envelope(meter);
    bench::run(meter);
}

fn measure(meter: &mut dyn Meter, name: &str, times: u32, act: &mut dyn FnMut()) {
    meter.measure(name, times, &mut || (), act);
}

fn decode(meter: &mut dyn Meter) {
    // Unmasking is in place, so that every second time masks. This mask leaves ASCII what it is, and UTF-8 valid.
    let mut frame = websocket::frame_masked(Opcode::Text, &[b'x'; 100], [1, 2, 3, 4]).to_vec();
    let mut decoder = websocket::Decoder::new(Role::Server, BYTES_MAX);
    measure(meter, "websocket: decode a masked text frame, 100 B", TIMES, &mut || {
        let mut input = Input::new(&mut frame);
        assert!(matches!(decoder.next(&mut input), Ok(Some(Incoming::Text(_)))));
    });
    for (size, rows, times) in [("100 B", 1, TIMES), ("10 KB, 100 objects", 100, TIMES_LONG)] {
        let wire = event::rows(rows);
        for parser in [Parser::Text, Parser::MessagePack] {
            let mut decoder = socketio::Decoder::server(BYTES_MAX);
            let name = format!("socket.io: decode an event as {parser:?}, {size}");
            let Encoded { head, .. } = socketio::encode::event(parser, "/", None, &wire).expect("wire form");
            measure(meter, &name, times, &mut || {
                let packet = match &head {
                    Head::Text(text) => decoder.text(std::str::from_utf8(text).expect("it is text")),
                    Head::Binary(bytes) => decoder.binary(bytes),
                };
                assert!(matches!(black_box(packet), Ok(Some(_))));
            });
        }
    }
}

/// From the wire form to what receivers of every dialect are sent. Frames of Socket.IO are made later, from a copy of it.
fn encode(meter: &mut dyn Meter, size: &str, wire: &[u8], times: u32) {
    for parser in [Parser::Text, Parser::MessagePack] {
        measure(meter, &format!("socket.io: encode as {parser:?}, {size}"), times, &mut || {
            black_box(socketio::encode::event(parser, "/", None, wire).expect("wire form"));
        });
    }
    for format in [Format::Json, Format::MessagePack] {
        measure(meter, &format!("plain: encode as {format:?}, {size}"), times, &mut || {
            black_box(plain::encode::event(format, wire, false, None).expect("wire form"));
        });
    }
}

/// What comes from Redis and goes there, without the one copy that is made of an event. Arguments are not looked at: a text of
/// 100 KB costs what one of 100 B does. But values are counted, so a thousand objects are walked over.
fn envelope(meter: &mut dyn Meter) {
    for (size, data, times) in [
        ("one text of 100 B", event::text(100), TIMES),
        ("one text of 100 KB", event::text(100_000), TIMES),
        ("1000 objects, 100 KB", event::rows(1_000), TIMES_LONG),
    ] {
        let publication = Publication {
            namespace: Namespace::root(),
            rooms: Rooms::from_elem(Room::from("room"), 1),
            except: Rooms::from_elem(Room::from("AAAAAAAAAAAAAAAAAAAA"), 1),
            flags: Flags::default(),
            data: Bytes::from(data),
        };
        let payload = Bytes::from(Envelope::of(&publication, b"\xa6node-1").encode());
        measure(meter, &format!("adapter: decode the envelope of {size}"), times, &mut || {
            black_box(Envelope::decode(&payload).expect("we wrote it"));
        });
        measure(meter, &format!("adapter: encode the envelope of {size}"), times, &mut || {
            black_box(Envelope::of(&publication, b"\xa6node-1").encode());
        });
        let mut pushed = b">3\r\n$7\r\nmessage\r\n$17\r\nsocket.io#/#room#\r\n".to_vec();
        pushed.extend_from_slice(format!("${}\r\n", payload.len()).as_bytes());
        pushed.extend_from_slice(&payload);
        pushed.extend_from_slice(b"\r\n");
        measure(meter, &format!("resp: find the message of {size}"), TIMES, &mut || {
            let found = resp::frame(black_box(&pushed));
            assert!(matches!(found, Ok(Ok((Frame::Message { .. }, _)))));
        });
        let mut out = Vec::new();
        measure(meter, &format!("resp: write the PUBLISH of {size}"), times, &mut || {
            out.clear();
            resp::publish(&mut out, "socket.io#/#room#", &payload);
            black_box(&out);
        });
    }
}
