//! Whatever is published as an answer, in JSON or MessagePack: no panic, an acknowledgement is MessagePack, and what is
//! decoded encodes to what decodes to the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_core::Answer;
use tidegate_redis::requests::{decode_answer, encode_answer};

fuzz_target!(|payload: &[u8]| {
    let Ok(mut answered) = decode_answer(&Bytes::copy_from_slice(payload)) else { return };
    let encoded = encode_answer(&answered.id, answered.from.as_ref(), &answered.answer);
    let again = decode_answer(&Bytes::from(encoded)).expect("our own answer");
    match &mut answered.answer {
        Answer::Acknowledged(packet) => assert_eq!(tidegate_msgpack::check(packet), Ok(())),
        // A handshake always has its time.
        Answer::Sockets(sockets) => {
            for socket in sockets {
                socket.connected_at_ms.get_or_insert(0);
            }
        }
        _ => {}
    }
    assert_eq!(again, answered);
});
