//! A packet of `socket.io-msgpack-parser`: one map `{ type, data, nsp, id? }`, other keys ignored.

use tidegate_msgpack::{Error as Malformed, Reader, Token};

use super::payload::{Length, check_ack, check_connect, check_connect_error, check_event};
use super::{ID_MAX, Packet, Violation};
use crate::value::client_to_wire;

/// Which side of the connection wrote a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Server,
}

/// Reads a packet. `None` is an acknowledgement without an id, which acknowledges nothing.
///
/// One rule is stricter than in the stock parser, which checks neither the first item of an event nor its name: the
/// rules of the text parser hold here too, so that events are the same whichever client sent them.
pub(super) fn decode(bytes: &[u8], sender: Sender) -> Result<Option<Packet>, Violation> {
    let fields = Fields::read(bytes)?;
    let Some(Token::UInt(kind)) = fields.kind.map(scalar) else {
        return Err(Violation::Type);
    };
    let namespace = match fields.namespace.map(scalar) {
        Some(Token::Str(name)) => std::str::from_utf8(name).map_err(|_| Violation::Namespace)?.to_owned(),
        _ => return Err(Violation::Namespace),
    };
    let id = match fields.id.map(scalar) {
        None => None,
        Some(token) if is_undefined(token) => None,
        Some(Token::UInt(id)) if id <= ID_MAX => Some(id),
        _ => return Err(Violation::Id),
    };
    let data = match fields.data {
        Some(data) if !is_undefined(scalar(data)) => Some(to_wire(data)?),
        _ => None,
    };
    Ok(Some(match (kind, data) {
        (0, None) => Packet::Connect { namespace, auth: None },
        (0, Some(data)) => {
            check_connect(&data)?;
            Packet::Connect { namespace, auth: Some(data) }
        }
        (1, None) => Packet::Disconnect { namespace },
        (2, Some(data)) => {
            check_event(&data, Length::Written)?;
            Packet::Event { namespace, id, data }
        }
        (3, Some(data)) => {
            check_ack(&data)?;
            match id {
                Some(id) => Packet::Ack { namespace, id, data },
                None => return Ok(None),
            }
        }
        (4, _) if sender == Sender::Client => return Err(Violation::Direction),
        (4, Some(data)) => {
            check_connect_error(&data)?;
            Packet::ConnectError { namespace, data }
        }
        (1..=4, _) => return Err(Violation::Payload),
        _ => return Err(Violation::Type),
    }))
}

/// The values of the keys that mean something, each the bytes of one whole value. The last occurrence of a key
/// counts, as in JavaScript.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<&'a [u8]>,
    namespace: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let mut fields = Fields::default();
        for _ in 0..reader.map()? {
            let Token::Str(key) = reader.token()? else {
                return Err(Malformed::Type { expected: "a string" });
            };
            let value = Some(reader.value()?);
            match key {
                b"type" => fields.kind = value,
                b"nsp" => fields.namespace = value,
                b"id" => fields.id = value,
                b"data" => fields.data = value,
                _ => {}
            }
        }
        if reader.is_empty() { Ok(fields) } else { Err(Malformed::Trailing) }
    }
}

/// The first token of a whole value.
fn scalar(value: &[u8]) -> Token<'_> {
    Reader::new(value).token().expect("the value has been read before")
}

fn is_undefined(token: Token<'_>) -> bool {
    matches!(token, Token::Ext { kind: 0, header: 0xd4, .. })
}

fn to_wire(data: &[u8]) -> Result<Vec<u8>, Violation> {
    let mut wire = Vec::with_capacity(data.len());
    client_to_wire(data, &mut wire)?;
    Ok(wire)
}
