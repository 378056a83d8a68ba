//! Any arguments: the command that is written reads back as one frame that holds them, and a PUBLISH is a command.
//!
//! The input is split at 0xff into the arguments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_redis::resp::{Frame, Reader, Token, command, frame, publish};

fuzz_target!(|bytes: &[u8]| {
    let arguments: Vec<&[u8]> = bytes.split(|byte| *byte == 0xff).collect();
    // One of none and one of all: the second is written behind the first.
    let mut out = Vec::new();
    command(&mut out, [].into_iter());
    assert_eq!(out, b"*0\r\n");
    let start = out.len();
    command(&mut out, arguments.iter().copied());

    assert_eq!(frame(&out), Ok(Ok((Frame::Answer(b"*0\r\n"), start))));
    let written = &out[start..];
    assert_eq!(frame(written), Ok(Ok((Frame::Answer(written), written.len()))));
    let mut reader = Reader::new(written);
    assert_eq!(reader.token(), Ok(Some(Token::Aggregate(arguments.len()))));
    for argument in &arguments {
        assert_eq!(reader.token(), Ok(Some(Token::Bulk(argument))));
    }
    assert_eq!(reader.position(), written.len());

    if let Ok(channel) = std::str::from_utf8(arguments[0]) {
        let payload = &bytes[bytes.len().min(channel.len() + 1)..];
        let (mut published, mut commanded) = (Vec::new(), Vec::new());
        publish(&mut published, channel, payload);
        command(&mut commanded, [b"PUBLISH", channel.as_bytes(), payload].into_iter());
        assert_eq!(published, commanded);
    }
});
