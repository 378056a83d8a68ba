//! What the gateway says to a sender or a recipient: packets of the text parser, in `/`.

use serde_json::Value;

use crate::stamp::stamp;

/// A packet that means something here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// A durable message, to be acknowledged with `ack`.
    Message {
        ack: u64,
        /// Whether it came as it was sent; otherwise it had waited.
        is_live: bool,
        number: u64,
        moment_ns: u64,
    },
    /// All that had waited has been sent, so many messages.
    CaughtUp { count: u64 },
    /// The arguments that answer what was sent with `id`.
    Answer { id: u64, args: &'a str },
}

impl Packet<'_> {
    /// A message without an id is none: it could not be acknowledged.
    pub(super) fn read(text: &str) -> Option<Packet<'_>> {
        let (kind, rest) = text.split_at_checked(1)?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (id, args) = (rest[..digits].parse().ok(), &rest[digits..]);
        match kind {
            "2" => event(id, args),
            "3" => Some(Packet::Answer { id: id?, args }),
            _ => None,
        }
    }
}

fn event(ack: Option<u64>, args: &str) -> Option<Packet<'static>> {
    if let Some(args) = args.strip_prefix(r#"["offline_message_ack","#) {
        let args: Value = serde_json::from_str(args.strip_suffix(']')?).ok()?;
        return Some(Packet::CaughtUp { count: args["count"].as_u64()? });
    }
    let (is_live, args) = match args.strip_prefix(r#"["message","#) {
        Some(args) => (true, args),
        None => (false, args.strip_prefix(r#"["offline_message","#)?),
    };
    // Only the data begins so: all names are our own, and serials and node ids have no such mark.
    let (number, moment_ns) = stamp(args.split_once(r##""#"##)?.1)?;
    Some(Packet::Message { ack: ack?, is_live, number, moment_ns })
}

/// Whether the arguments of an answer say `ok` and, where one is expected, this status.
pub(super) fn is_ok(args: &str, status: Option<&str>) -> bool {
    serde_json::from_str::<Value>(args)
        .is_ok_and(|args| args[0]["ok"] == true && status.is_none_or(|status| args[0]["status"] == status))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stamp::data;

    proptest! {
        #[test]
        fn messages_are_read_in_both_forms(ack: u64, number in 0u64..10_000_000_000, moment_ns: u64) {
            let data = data(number, moment_ns, 100);
            let waited = format!(
                r#"2{ack}["offline_message",{{"id":"1-0","from":"s1","event":"message","data":"{data}","sent_at":1}}]"#
            );
            let live = format!(r#"2{ack}["message","{data}",{{"id":"1-0","from":"s1","node":"n","ts":1}}]"#);
            for (packet, is_live) in [(waited, false), (live, true)] {
                prop_assert_eq!(
                    Packet::read(&packet),
                    Some(Packet::Message { ack, is_live, number, moment_ns })
                );
            }
        }

        #[test]
        fn any_text_is_survived(text in "[2-3]?[0-9]{0,3}(\\[\"(message|offline_message|offline_message_ack)\",)?\\PC{0,40}") {
            let _ = Packet::read(&text);
            let _ = is_ok(&text, Some("live"));
        }
    }

    #[test]
    fn the_end_of_the_backlog_and_answers_are_told_apart() {
        let count = |packet| Packet::read(packet);
        assert_eq!(count(r#"2["offline_message_ack",{"count":7}]"#), Some(Packet::CaughtUp { count: 7 }));
        assert_eq!(count(r#"2["offline_message_ack",{}]"#), None);
        assert_eq!(count(r#"317[{"ok":true}]"#), Some(Packet::Answer { id: 17, args: r#"[{"ok":true}]"# }));
        let other = [
            "",
            "3[]",
            "40",
            r#"2["other","x"]"#,
            r##"2["message","#0000000001.00000000000000000001.",{}]"##,
        ];
        for packet in other {
            assert_eq!(Packet::read(packet), None, "{packet}");
        }
    }

    #[test]
    fn an_answer_is_ok_with_the_status_that_is_expected() {
        let stored = r#"[{"ok":true,"id":"1-0","status":"stored"}]"#;
        assert!(is_ok(stored, None) && is_ok(stored, Some("stored")));
        assert!(!is_ok(stored, Some("live")) && !is_ok("", None));
        assert!(!is_ok(r#"[{"ok":false,"status":"stored","error":{"code":"unavailable"}}]"#, Some("stored")));
    }
}
