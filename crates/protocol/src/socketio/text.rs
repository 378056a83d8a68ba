//! The text of a packet of the default parser: `<type>[<attachments>-][<namespace>,][<id>][<JSON>]`.

use super::{ATTACHMENTS_MAX, ID_MAX, Violation};

/// A packet's text, taken apart; the payload is not read yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text<'a> {
    pub(super) kind: Kind,
    /// How many attachments follow; zero exactly when the packet is not of a binary type.
    pub(super) attachments: usize,
    pub(super) namespace: &'a str,
    pub(super) id: Option<u64>,
    /// JSON, or empty.
    pub(super) payload: &'a str,
}

/// A packet's type; the two binary types are EVENT and ACK with attachments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Connect,
    Disconnect,
    Event,
    Ack,
    ConnectError,
}

impl<'a> Text<'a> {
    pub(super) fn split(text: &'a str) -> Result<Self, Violation> {
        let (kind, binary) = match text.as_bytes().first() {
            Some(b'0') => (Kind::Connect, false),
            Some(b'1') => (Kind::Disconnect, false),
            Some(b'2') => (Kind::Event, false),
            Some(b'3') => (Kind::Ack, false),
            Some(b'4') => (Kind::ConnectError, false),
            Some(b'5') => (Kind::Event, true),
            Some(b'6') => (Kind::Ack, true),
            _ => return Err(Violation::Type),
        };
        let mut rest = &text[1..];
        let mut attachments = 0;
        if binary {
            (attachments, rest) = split_attachments(rest)?;
        }
        let mut namespace = "/";
        if rest.starts_with('/') {
            (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (id, payload) = rest.split_at(digits);
        let id = match id {
            "" => None,
            id => Some(id.parse().ok().filter(|id| *id <= ID_MAX).ok_or(Violation::Id)?),
        };
        Ok(Text { kind, attachments, namespace, id, payload })
    }
}

/// Splits `<n>-` off. Stock takes anything that JavaScript can make a number of, ` 1` or `1e0`; no encoder writes
/// more than digits.
fn split_attachments(text: &str) -> Result<(usize, &str), Violation> {
    let (count, rest) = text.split_once('-').ok_or(Violation::Attachments)?;
    let only_digits = count.bytes().all(|byte| byte.is_ascii_digit());
    match count.parse() {
        Ok(count @ 1..=ATTACHMENTS_MAX) if only_digits => Ok((count, rest)),
        _ => Err(Violation::Attachments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Result<(Kind, usize, &str, Option<u64>, &str), Violation> {
        Text::split(text).map(|text| (text.kind, text.attachments, text.namespace, text.id, text.payload))
    }

    #[test]
    fn the_parts_are_told_apart() {
        assert_eq!(split("0"), Ok((Kind::Connect, 0, "/", None, "")));
        assert_eq!(split("0{}"), Ok((Kind::Connect, 0, "/", None, "{}")));
        assert_eq!(split("0/chat,{}"), Ok((Kind::Connect, 0, "/chat", None, "{}")));
        assert_eq!(split("0/chat"), Ok((Kind::Connect, 0, "/chat", None, "")));
        assert_eq!(split("0/nope?x=1,"), Ok((Kind::Connect, 0, "/nope?x=1", None, "")));
        assert_eq!(split("1/é,"), Ok((Kind::Disconnect, 0, "/é", None, "")));
        assert_eq!(split("2[1]"), Ok((Kind::Event, 0, "/", None, "[1]")));
        assert_eq!(split("212[1]"), Ok((Kind::Event, 0, "/", Some(12), "[1]")));
        assert_eq!(split("2/a,007[1]"), Ok((Kind::Event, 0, "/a", Some(7), "[1]")));
        assert_eq!(split("30"), Ok((Kind::Ack, 0, "/", Some(0), "")));
        assert_eq!(split("51-[1]"), Ok((Kind::Event, 1, "/", None, "[1]")));
        assert_eq!(split("510-/a,3[1]"), Ok((Kind::Event, 10, "/a", Some(3), "[1]")));
        assert_eq!(split("62-4[1]"), Ok((Kind::Ack, 2, "/", Some(4), "[1]")));
        assert_eq!(split("4\"x\""), Ok((Kind::ConnectError, 0, "/", None, "\"x\"")));
    }

    #[test]
    fn an_id_is_at_most_what_javascript_counts_to() {
        assert_eq!(split("29007199254740991[1]"), Ok((Kind::Event, 0, "/", Some(ID_MAX), "[1]")));
        assert_eq!(split("29007199254740992[1]"), Err(Violation::Id));
        assert_eq!(split("299999999999999999999999[1]"), Err(Violation::Id));
    }

    #[test]
    fn a_binary_packet_says_how_many_attachments() {
        for text in
            ["50-[]", "511-[]", "5-[]", "51[]", "5", "5 1-[]", "51.0-[]", "5+1-[]", "5-1-[]", "5abc-[]"]
        {
            assert_eq!(split(text), Err(Violation::Attachments), "{text}");
        }
    }

    #[test]
    fn other_types_do_not_exist() {
        for text in ["", "7", "a", " 2[1]", "é", "-1"] {
            assert_eq!(split(text), Err(Violation::Type), "{text}");
        }
    }
}
