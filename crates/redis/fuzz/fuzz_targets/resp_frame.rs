//! Whatever a server sends: no panic; a frame is the same with more bytes behind it; what is cut short is never refused,
//! wants one byte more at least, and never more than belong to it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_redis::resp::{Frame, Malformed, frame};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    loop {
        match frame(rest) {
            Ok(Ok((found, length))) => {
                assert!(length > 0 && length <= rest.len());
                let (this, behind) = rest.split_at(length);
                whole(this, found);
                rest = behind;
            }
            Ok(Err(missing)) => {
                assert!(missing > 0);
                return cut_short(rest, rest.len() + missing);
            }
            Err(Malformed) => {
                assert_eq!(frame(&followed(rest)), Err(Malformed), "more bytes made a frame of it");
                return;
            }
        }
    }
});

/// `bytes` are `found`, to the last of them.
fn whole(bytes: &[u8], found: Frame<'_>) {
    if let Frame::Answer(answer) = found {
        assert_eq!(answer, bytes);
    }
    assert_eq!(frame(bytes), Ok(Ok((found, bytes.len()))));
    assert_eq!(frame(&followed(bytes)), Ok(Ok((found, bytes.len()))));
    cut_short(bytes, bytes.len());

    // Whoever waits for what is missing, and for no more, arrives at the end.
    let mut read = 0;
    while read < bytes.len() {
        let Ok(Err(missing)) = frame(&bytes[..read]) else { panic!("a frame at {read}") };
        read += missing;
    }
    assert_eq!(read, bytes.len());
}

/// `bytes` begin a frame that has `length_min` bytes at least. The beginnings of them do so, too; some are tried.
fn cut_short(bytes: &[u8], length_min: usize) {
    for cut in (0..bytes.len()).step_by(1 + bytes.len() / 128) {
        match frame(&bytes[..cut]) {
            Ok(Err(missing)) => assert!(missing > 0 && cut + missing <= length_min, "{missing} at {cut}"),
            other => panic!("{other:?} at {cut}"),
        }
    }
}

fn followed(bytes: &[u8]) -> Vec<u8> {
    [bytes, b"\r\n:1\r\n"].concat()
}
