//! Requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    Ask, Asker, Flags, Namespace, NodeId, Publication, Request, RequestId, Room, Rooms, Selection,
};
use tidegate_msgpack::{self as msgpack, Reader, Token, write};

use super::{
    ALL_ROOMS, BROADCAST, DISCONNECT, FETCH, IDS, JOIN, LEAVE, Name, Refusal, SERVER_SIDE_EMIT, Text,
    is_json, rooms, text, to_json,
};
use crate::adapter::{self, PACKET_EVENT, Packet, check_event};

/// The longest timer that a Node server can set, in milliseconds.
const TIMEOUT_MS_MAX: u64 = i32::MAX.cast_unsigned() as u64;

/// What one request may hold, whatever it is. The order of keys does not matter and others are skipped.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    r#type: Option<u64>,
    #[serde(borrow)]
    uid: Option<Text<'a>>,
    #[serde(borrow)]
    node: Option<Text<'a>>,
    #[serde(borrow)]
    request_id: Option<Text<'a>>,
    opts: Option<Opts>,
    #[serde(default, deserialize_with = "rooms")]
    rooms: Rooms,
    room: Option<Name>,
    sid: Option<Name>,
    close: Option<bool>,
    /// The event for other servers' code.
    data: Option<Event>,
    /// Namespace and event. Nobody broadcasts in JSON.
    #[serde(skip)]
    packet: Option<Packet<'a>>,
}

#[derive(Default, Deserialize)]
struct Opts {
    #[serde(default, deserialize_with = "rooms")]
    rooms: Rooms,
    #[serde(default, deserialize_with = "rooms")]
    except: Rooms,
    /// Of no use where there is no packet.
    #[serde(skip)]
    flags: Flags,
    #[serde(skip)]
    timeout: Option<Duration>,
}

impl From<Opts> for Selection {
    fn from(opts: Opts) -> Self {
        Self { rooms: opts.rooms, except: opts.except }
    }
}

/// Reads a request that came on the channel of `namespace`.
///
/// # Errors
/// When a server cannot be asked that.
pub fn decode_request(namespace: &Namespace, payload: &Bytes) -> Result<Request, Refusal> {
    let fields = if is_json(payload) {
        serde_json::from_slice(payload).map_err(|_| Refusal::MalformedRequest)?
    } else {
        Fields::from_msgpack(payload)?
    };
    fields.into_request(namespace, payload)
}

impl<'a> Fields<'a> {
    fn from_msgpack(payload: &'a [u8]) -> Result<Self, Refusal> {
        let mut reader = Reader::new(payload);
        let fields = Self::read(&mut reader)?;
        if reader.is_empty() { Ok(fields) } else { Err(Refusal::MalformedRequest) }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        for _ in 0..reader.map()? {
            match reader.token()? {
                Token::Str(b"type") => fields.r#type = Some(reader.uint()?),
                Token::Str(b"uid") => fields.uid = text(reader)?.map(Text::from),
                Token::Str(b"node") => fields.node = text(reader)?.map(Text::from),
                Token::Str(b"requestId") => fields.request_id = text(reader)?.map(Text::from),
                Token::Str(b"opts") => fields.opts = opts(reader)?,
                Token::Str(b"rooms") => fields.rooms = adapter::rooms(reader)?,
                Token::Str(b"room") => fields.room = name(reader)?,
                Token::Str(b"sid") => fields.sid = name(reader)?,
                Token::Str(b"close") => fields.close = flag(reader)?,
                Token::Str(b"data") => fields.data = Some(event(reader)?),
                Token::Str(b"packet") => fields.packet = Some(Packet::read(reader)?),
                Token::Str(_) => reader.skip()?,
                _ => return Err(Refusal::MalformedRequest),
            }
        }
        Ok(fields)
    }

    fn into_request(self, namespace: &Namespace, payload: &Bytes) -> Result<Request, Refusal> {
        let kind = self.r#type.ok_or(Refusal::MalformedRequest)?;
        let only_owner = matches!(kind, JOIN | LEAVE | DISCONNECT) && self.opts.is_none();
        let asker = self.request_id.as_deref().map(|id| Asker {
            uid: self.uid.as_deref().map(Arc::from),
            node: self.node.as_deref().and_then(|node| NodeId::parse(node).ok()),
            id: RequestId::from(id),
            only_owner,
        });
        let ask = self.into_ask(kind, namespace, payload)?;
        Ok(Request { namespace: namespace.clone(), asker, ask })
    }

    fn into_ask(self, kind: u64, namespace: &Namespace, payload: &Bytes) -> Result<Ask, Refusal> {
        Ok(match kind {
            IDS => Ask::Ids { rooms: self.rooms },
            ALL_ROOMS => Ask::Rooms,
            JOIN => {
                let (selection, rooms) = self.moved()?;
                Ask::Join { selection, rooms }
            }
            LEAVE => {
                let (selection, rooms) = self.moved()?;
                Ask::Leave { selection, rooms }
            }
            DISCONNECT => {
                let close = self.close.unwrap_or_default();
                Ask::Disconnect { selection: selection(self.opts, self.sid)?, close }
            }
            FETCH => Ask::Fetch { selection: self.opts.ok_or(Refusal::MalformedRequest)?.into() },
            SERVER_SIDE_EMIT => {
                let Event(event) = self.data.ok_or(Refusal::MalformedRequest)?;
                Ask::ServerSideEmit { event }
            }
            BROADCAST => self.into_broadcast(namespace, payload)?,
            _ => return Err(Refusal::UnknownRequest),
        })
    }

    /// Whom a request to join or leave is about, and the rooms.
    fn moved(self) -> Result<(Selection, Rooms), Refusal> {
        let rooms = if self.opts.is_some() {
            self.rooms
        } else {
            self.room.into_iter().map(|Name(room)| room).collect()
        };
        Ok((selection(self.opts, self.sid)?, rooms))
    }

    fn into_broadcast(self, namespace: &Namespace, payload: &Bytes) -> Result<Ask, Refusal> {
        let (Some(opts), Some(Packet { namespace: named, data, attachments })) = (self.opts, self.packet)
        else {
            return Err(Refusal::MalformedRequest);
        };
        if named != namespace.as_str() {
            return Err(adapter::Refusal::NamespaceMismatch.into());
        }
        check_event(data, attachments, false)?;
        let (flags, timeout) = (opts.flags, opts.timeout);
        let Selection { rooms, except } = opts.into();
        let publication =
            Publication { namespace: namespace.clone(), rooms, except, flags, data: payload.slice_ref(data) };
        Ok(Ask::Broadcast { publication, timeout })
    }
}

/// Older peers name one socket instead of options.
fn selection(opts: Option<Opts>, sid: Option<Name>) -> Result<Selection, Refusal> {
    match (opts, sid) {
        (Some(opts), _) => Ok(opts.into()),
        (None, Some(Name(sid))) => Ok(Selection { rooms: Rooms::from_iter([sid]), except: Rooms::new() }),
        (None, None) => Err(Refusal::MalformedRequest),
    }
}

/// The name in `[event, ...]`.
#[derive(Deserialize)]
#[serde(from = "Vec<serde_json::Value>")]
struct Event(Arc<str>);

impl From<Vec<serde_json::Value>> for Event {
    fn from(data: Vec<serde_json::Value>) -> Self {
        Self(data.first().and_then(serde_json::Value::as_str).unwrap_or_default().into())
    }
}

fn event(reader: &mut Reader<'_>) -> Result<Event, msgpack::Error> {
    let mut name = "";
    for at in 0..reader.array()? {
        let mut value = Reader::new(reader.value()?);
        if at == 0 {
            name = value.str().unwrap_or_default();
        }
    }
    Ok(Event(name.into()))
}

fn name(reader: &mut Reader<'_>) -> Result<Option<Name>, Refusal> {
    // One name is what a list of one would hold.
    Ok(match reader.token()? {
        Token::Nil => None,
        Token::Str(name) => {
            let name = std::str::from_utf8(name).map_err(|_| Refusal::MalformedRequest)?;
            Some(Name(Room::from(name)))
        }
        Token::UInt(number) => Some(Name(Room::from(number.to_string()))),
        Token::Int(number) => Some(Name(Room::from(number.to_string()))),
        _ => return Err(Refusal::MalformedRequest),
    })
}

fn flag(reader: &mut Reader<'_>) -> Result<Option<bool>, Refusal> {
    match reader.token()? {
        Token::Nil => Ok(None),
        Token::Bool(flag) => Ok(Some(flag)),
        _ => Err(Refusal::MalformedRequest),
    }
}

fn opts(reader: &mut Reader<'_>) -> Result<Option<Opts>, Refusal> {
    let count = match reader.token()? {
        Token::Nil => return Ok(None),
        Token::Map(count) => count,
        _ => return Err(Refusal::MalformedRequest),
    };
    let mut opts = Opts::default();
    for _ in 0..count {
        match reader.token()? {
            Token::Str(b"rooms") => opts.rooms = adapter::rooms(reader)?,
            Token::Str(b"except") => opts.except = adapter::rooms(reader)?,
            Token::Str(b"flags") => {
                let raw;
                (raw, opts.flags) = adapter::flags(reader)?;
                opts.timeout = timeout(raw)?;
            }
            Token::Str(_) => reader.skip()?,
            _ => return Err(Refusal::MalformedRequest),
        }
    }
    Ok(Some(opts))
}

/// The `timeout` among flags that have been read. A peer may wait for fractions of a millisecond.
fn timeout(flags: &[u8]) -> Result<Option<Duration>, Refusal> {
    let mut reader = Reader::new(flags);
    let mut timeout = None;
    for _ in 0..reader.map()? {
        match reader.token()? {
            Token::Str(b"timeout") => {
                timeout = match Reader::new(reader.value()?).token()? {
                    Token::UInt(ms) => Some(Duration::from_millis(ms.min(TIMEOUT_MS_MAX))),
                    // NaN becomes zero here, as does what is below.
                    Token::F64(ms) => Some(Duration::from_millis((ms as u64).min(TIMEOUT_MS_MAX))),
                    _ => None,
                };
            }
            _ => reader.skip()?,
        }
    }
    Ok(timeout)
}

/// What a request in JSON is written from, in the adapter's order of keys.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    uid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    r#type: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    opts: Option<WrittenOpts<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rooms: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    close: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
}

#[derive(Serialize)]
struct WrittenOpts<'a> {
    rooms: Vec<&'a str>,
    except: Vec<&'a str>,
}

impl<'a> From<&'a Selection> for WrittenOpts<'a> {
    fn from(selection: &'a Selection) -> Self {
        Self { rooms: strs(&selection.rooms), except: strs(&selection.except) }
    }
}

/// Writes a request of a server that calls itself `uid` and is the node `node`. Without an `id` nobody answers.
#[must_use]
pub fn encode_request(uid: &str, node: Option<&NodeId>, id: Option<&RequestId>, ask: &Ask) -> Vec<u8> {
    let mut written = Written {
        uid,
        request_id: id.map(RequestId::as_str),
        node: node.map(NodeId::as_str),
        ..Written::default()
    };
    match ask {
        Ask::Ids { rooms } => (written.r#type, written.rooms) = (IDS, Some(strs(rooms))),
        Ask::Rooms => written.r#type = ALL_ROOMS,
        Ask::Join { selection, rooms } | Ask::Leave { selection, rooms } => {
            written.r#type = if matches!(ask, Ask::Join { .. }) { JOIN } else { LEAVE };
            (written.opts, written.rooms) = (Some(selection.into()), Some(strs(rooms)));
        }
        Ask::Disconnect { selection, close } => {
            written.r#type = DISCONNECT;
            (written.opts, written.close) = (Some(selection.into()), Some(*close));
        }
        Ask::Fetch { selection } => (written.r#type, written.opts) = (FETCH, Some(selection.into())),
        Ask::ServerSideEmit { event } => {
            (written.r#type, written.data) = (SERVER_SIDE_EMIT, Some([&**event]));
        }
        Ask::Broadcast { publication, timeout } => {
            return encode_broadcast(&written, publication, *timeout);
        }
    }
    to_json(&written)
}

fn strs(rooms: &Rooms) -> Vec<&str> {
    rooms.iter().map(Room::as_str).collect()
}

fn encode_broadcast(written: &Written<'_>, publication: &Publication, timeout: Option<Duration>) -> Vec<u8> {
    // The fixed keys and headers take 80 bytes, names a few more.
    let mut out = Vec::with_capacity(publication.data.len() + 160);
    write::map(&mut out, 4 + u32::from(written.request_id.is_some()) + u32::from(written.node.is_some()));
    push_text(&mut out, "uid", Some(written.uid));
    push_text(&mut out, "requestId", written.request_id);
    write::str(&mut out, "type");
    write::uint(&mut out, BROADCAST);
    write::str(&mut out, "packet");
    write::map(&mut out, 3);
    write::str(&mut out, "type");
    write::uint(&mut out, PACKET_EVENT);
    write::str(&mut out, "data");
    out.extend_from_slice(&publication.data);
    push_text(&mut out, "nsp", Some(publication.namespace.as_str()));
    write::str(&mut out, "opts");
    write::map(&mut out, 3);
    adapter::push_rooms(&mut out, "rooms", &publication.rooms);
    adapter::push_rooms(&mut out, "except", &publication.except);
    write::str(&mut out, "flags");
    let timeout_ms = timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    write::map(&mut out, u32::from(publication.flags.volatile) + u32::from(timeout_ms.is_some()));
    if publication.flags.volatile {
        write::str(&mut out, "volatile");
        write::bool(&mut out, true);
    }
    if let Some(timeout_ms) = timeout_ms {
        write::str(&mut out, "timeout");
        write::uint(&mut out, timeout_ms);
    }
    push_text(&mut out, "node", written.node);
    out
}

fn push_text(out: &mut Vec<u8>, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        write::str(out, key);
        write::str(out, value);
    }
}
