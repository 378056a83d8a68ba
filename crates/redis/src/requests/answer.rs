//! Answers.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use tidegate_core::{Answer, NodeId, RemoteSocket, RequestId, Room, Rooms};
use tidegate_msgpack::{Reader, write};

use super::{
    ACKNOWLEDGEMENT, CLIENT_COUNT, Refusal, SERVER_SIDE_EMIT, Text, date, is_json, rooms, text, to_json,
};

/// The MessagePack of nil.
const NIL: &[u8] = b"\xc0";

/// An answer, and to which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The request.
    pub id: RequestId,
    /// Who answers, if it is a node.
    pub from: Option<NodeId>,
    /// What it says.
    pub answer: Answer,
}

/// Reads an answer. Only acknowledgements come in MessagePack, and only those are read in it.
///
/// # Errors
/// When it is none.
pub fn decode_answer(payload: &Bytes) -> Result<Answered, Refusal> {
    let answered = if is_json(payload) { from_json(payload) } else { acknowledgement(payload) };
    answered.ok_or(Refusal::MalformedAnswer)
}

/// What an answer may hold, whatever it is. The order of keys does not matter and others are skipped. `D` is what
/// is read of a socket's data.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a, D> {
    r#type: Option<u64>,
    #[serde(borrow)]
    request_id: Text<'a>,
    #[serde(default, deserialize_with = "present_rooms")]
    rooms: Option<Rooms>,
    sockets: Option<Vec<Listed<D>>>,
    client_count: Option<u64>,
    matched: Option<u64>,
}

fn present_rooms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Rooms>, D::Error> {
    rooms(deserializer).map(Some)
}

/// Whether a node answers. What servers of another kind attach to a socket may be anything, and is not even read.
#[derive(Deserialize)]
struct Answerer<'a> {
    #[serde(borrow)]
    node: Option<Text<'a>>,
}

/// A socket in a list: what is known of it, or its id alone.
enum Listed<D> {
    Socket(Socket<D>),
    Id(Arc<str>),
}

#[derive(Deserialize)]
struct Socket<D> {
    id: String,
    #[serde(default, deserialize_with = "rooms")]
    rooms: Rooms,
    handshake: Option<Handshake>,
    data: Option<D>,
}

#[derive(Deserialize)]
struct Handshake {
    issued: Option<u64>,
}

/// What nodes attach to a socket.
#[derive(Deserialize, Serialize)]
struct Details<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    user: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    device: Option<Text<'a>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    node: Option<Text<'a>>,
}

impl<'de, D: Deserialize<'de>> Deserialize<'de> for Listed<D> {
    fn deserialize<T: Deserializer<'de>>(deserializer: T) -> Result<Self, T::Error> {
        struct SocketOrId<D>(PhantomData<D>);

        impl<'de, D: Deserialize<'de>> Visitor<'de> for SocketOrId<D> {
            type Value = Listed<D>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a socket or its id")
            }

            fn visit_str<E>(self, id: &str) -> Result<Listed<D>, E> {
                Ok(Listed::Id(id.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, socket: A) -> Result<Listed<D>, A::Error> {
                Socket::deserialize(MapAccessDeserializer::new(socket)).map(Listed::Socket)
            }
        }

        deserializer.deserialize_any(SocketOrId(PhantomData))
    }
}

fn from_json(payload: &[u8]) -> Option<Answered> {
    let from = serde_json::from_slice::<Answerer<'_>>(payload).ok()?.node;
    match from.and_then(|node| NodeId::parse(&node).ok()) {
        Some(node) => answered(serde_json::from_slice::<Fields<'_, Details<'_>>>(payload).ok()?, Some(node)),
        None => answered(serde_json::from_slice::<Fields<'_, IgnoredAny>>(payload).ok()?, None),
    }
}

fn answered<D: Into<Owner>>(fields: Fields<'_, D>, from: Option<NodeId>) -> Option<Answered> {
    let answer = match fields {
        Fields { r#type: Some(SERVER_SIDE_EMIT), .. } => Answer::Emitted,
        Fields { r#type: Some(CLIENT_COUNT), client_count, .. } => Answer::Clients(client_count?),
        Fields { r#type: Some(_), .. } => return None,
        Fields { sockets: Some(sockets), .. } => listed(sockets)?,
        Fields { rooms: Some(rooms), .. } => Answer::Rooms(rooms.into_vec()),
        // A server of another kind only says so of the one socket that it was asked about.
        Fields { matched, .. } => Answer::Done { matched: matched.unwrap_or(1) },
    };
    Some(Answered { id: RequestId::from(&*fields.request_id), from, answer })
}

/// One list or the other; none that is both.
fn listed<D: Into<Owner>>(list: Vec<Listed<D>>) -> Option<Answer> {
    if let Some(Listed::Id(_)) = list.first() {
        let ids = list.into_iter().map(|entry| match entry {
            Listed::Id(id) => Some(id),
            Listed::Socket(_) => None,
        });
        return Some(Answer::Ids(ids.collect::<Option<_>>()?));
    }
    let sockets = list.into_iter().map(|entry| match entry {
        Listed::Socket(socket) => Some(socket.into()),
        Listed::Id(_) => None,
    });
    Some(Answer::Sockets(sockets.collect::<Option<_>>()?))
}

/// What is known of whose a socket is.
#[derive(Default)]
struct Owner {
    user: Option<Arc<str>>,
    device: Option<Arc<str>>,
    node: Option<NodeId>,
}

impl From<IgnoredAny> for Owner {
    fn from(_: IgnoredAny) -> Self {
        Self::default()
    }
}

impl From<Details<'_>> for Owner {
    fn from(details: Details<'_>) -> Self {
        Self {
            user: details.user.map(|user| (*user).into()),
            device: details.device.map(|device| (*device).into()),
            node: details.node.and_then(|node| NodeId::parse(&node).ok()),
        }
    }
}

impl<D: Into<Owner>> From<Socket<D>> for RemoteSocket {
    fn from(socket: Socket<D>) -> Self {
        let Owner { user, device, node } = socket.data.map(Into::into).unwrap_or_default();
        Self {
            id: socket.id.into(),
            rooms: socket.rooms.into_vec(),
            user,
            device,
            node,
            connected_at_ms: socket.handshake.and_then(|handshake| handshake.issued),
        }
    }
}

/// Reads `{ type: 9, requestId, packet }`.
fn acknowledgement(payload: &Bytes) -> Option<Answered> {
    let mut reader = Reader::new(payload);
    let (mut kind, mut id, mut from, mut packet) = (None, None, None, None);
    for _ in 0..reader.map().ok()? {
        match reader.str().ok()? {
            "type" => kind = Some(reader.uint().ok()?),
            "requestId" => id = Some(reader.str().ok()?),
            "packet" => packet = Some(reader.value().ok()?),
            "node" => from = text(&mut reader).ok()?,
            _ => reader.skip().ok()?,
        }
    }
    if kind != Some(ACKNOWLEDGEMENT) || !reader.is_empty() {
        return None;
    }
    // A client that acknowledges with nothing leaves nothing to say.
    let acknowledged = packet.map_or(Bytes::from_static(NIL), |packet| payload.slice_ref(packet));
    Some(Answered {
        id: RequestId::from(id?),
        from: from.and_then(|node| NodeId::parse(node).ok()),
        answer: Answer::Acknowledged(acknowledged),
    })
}

/// What an answer in JSON is written from, in the adapter's order of keys.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<u64>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sockets: Option<WrittenList<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rooms: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matched: Option<u64>,
    /// What the code would have answered; there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WrittenList<'a> {
    Sockets(Vec<WrittenSocket<'a>>),
    Ids(Vec<&'a str>),
}

#[derive(Serialize)]
struct WrittenSocket<'a> {
    id: &'a str,
    handshake: WrittenHandshake,
    rooms: Vec<&'a str>,
    data: Details<'a>,
}

/// A handshake that gives nothing away. A stock server sends all of the client's headers, cookies and tokens
/// included; here are the same keys, so that code which looks into them finds none of it.
#[derive(Serialize)]
struct WrittenHandshake {
    headers: Empty,
    time: String,
    address: &'static str,
    xdomain: bool,
    secure: bool,
    issued: u64,
    url: &'static str,
    query: Empty,
    auth: Empty,
}

#[derive(Serialize)]
struct Empty {}

impl<'a> From<&'a RemoteSocket> for WrittenSocket<'a> {
    fn from(socket: &'a RemoteSocket) -> Self {
        let issued = socket.connected_at_ms.unwrap_or_default();
        Self {
            id: &socket.id,
            handshake: WrittenHandshake {
                headers: Empty {},
                time: date::spelled(issued),
                address: "",
                xdomain: false,
                secure: false,
                issued,
                url: "",
                query: Empty {},
                auth: Empty {},
            },
            rooms: socket.rooms.iter().map(Room::as_str).collect(),
            data: Details {
                user: socket.user.as_deref().map(Text::from),
                device: socket.device.as_deref().map(Text::from),
                node: socket.node.as_ref().map(|node| node.as_str().into()),
            },
        }
    }
}

/// Writes the answer of the node `node` to the request `id`.
#[must_use]
pub fn encode_answer(id: &RequestId, node: Option<&NodeId>, answer: &Answer) -> Vec<u8> {
    let mut written =
        Written { request_id: id.as_str(), node: node.map(NodeId::as_str), ..Written::default() };
    match answer {
        Answer::Rooms(rooms) => written.rooms = Some(rooms.iter().map(Room::as_str).collect()),
        Answer::Ids(ids) => written.sockets = Some(WrittenList::Ids(ids.iter().map(|id| &**id).collect())),
        Answer::Sockets(sockets) => {
            written.sockets = Some(WrittenList::Sockets(sockets.iter().map(WrittenSocket::from).collect()));
        }
        Answer::Done { matched } => written.matched = Some(*matched),
        Answer::Emitted => (written.r#type, written.data) = (Some(SERVER_SIDE_EMIT), Some(())),
        Answer::Clients(count) => {
            (written.r#type, written.client_count) = (Some(CLIENT_COUNT), Some(*count));
        }
        Answer::Acknowledged(packet) => return encode_acknowledgement(&written, packet),
    }
    to_json(&written)
}

fn encode_acknowledgement(written: &Written<'_>, packet: &[u8]) -> Vec<u8> {
    // The fixed keys and headers take 40 bytes, names a few more.
    let mut out = Vec::with_capacity(packet.len() + 128);
    write::map(&mut out, 3 + u32::from(written.node.is_some()));
    write::str(&mut out, "type");
    write::uint(&mut out, ACKNOWLEDGEMENT);
    write::str(&mut out, "requestId");
    write::str(&mut out, written.request_id);
    write::str(&mut out, "packet");
    out.extend_from_slice(packet);
    if let Some(node) = written.node {
        write::str(&mut out, "node");
        write::str(&mut out, node);
    }
    out
}
