//! A connection in any of the protocols that are measured, and what the fan-out says and hears over it.

use anyhow::{Context as _, anyhow, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_client::plain::{self, Format};
use tidegate_client::raw::{self, Message};
use tidegate_client::{Options, Reason, Value};

use crate::stamp::stamp;

/// The event that the fan-out publishes.
const EVENT: &str = "bench";
/// How a packet of the text parser that carries it begins, up to its stamp.
const PACKET: &str = r##"2["bench","#"##;
/// How the arguments of an answer begin that says yes.
const OK: &str = r#"[{"ok":true"#;
/// The same in JSON of the plain protocol.
const JSON: &str = r##"{"op":"event","event":"bench","args":["#"##;
/// The same in MessagePack, up to the head of the string that holds the stamp.
const MSGPACK: &[u8] = b"\x84\xa2op\xa5event\xa5event\xa5bench\xa4args\x91";

/// What is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// Socket.IO over a WebSocket, with the default parser.
    #[default]
    Socketio,
    /// Tidegate's plain protocol in JSON.
    Json,
    /// Tidegate's plain protocol in MessagePack.
    Msgpack,
}

/// A server's address, shared by the connections to it.
#[derive(Clone)]
pub(crate) enum Server {
    SocketIo(raw::Server),
    Plain(plain::Server),
}

impl Server {
    pub(crate) fn new(protocol: Protocol, options: &Options) -> anyhow::Result<Self> {
        Ok(match protocol {
            Protocol::Socketio => Self::SocketIo(raw::Server::new(options)?),
            Protocol::Json => Self::Plain(plain::Server::new(options, Format::Json)?),
            Protocol::Msgpack => Self::Plain(plain::Server::new(options, Format::MessagePack)?),
        })
    }
}

/// What came over a line.
pub(crate) enum Heard {
    /// A publication: its number, and when it was sent.
    Delivery(u64, u64),
    /// An answer: yes, or the refusal.
    Answer(Result<(), String>),
    /// The server ends the session.
    Disconnect,
}

/// One connection.
pub(crate) enum Line {
    SocketIo(raw::Connection),
    Plain(plain::Connection),
}

impl Line {
    /// Connects to the default namespace.
    pub(crate) async fn connect(server: &Server, auth: Option<&Value>) -> anyhow::Result<Self> {
        Ok(match server {
            Server::SocketIo(server) => Self::SocketIo(
                raw::Connection::connect(server, "/", auth).await.context("failed to connect")?,
            ),
            Server::Plain(server) => {
                Self::Plain(plain::Connection::connect(server, auth).await.context("failed to connect")?)
            }
        })
    }

    /// Joins a room and waits for the answer.
    pub(crate) async fn join(&mut self, room: &str) -> anyhow::Result<()> {
        self.ask("join", 0, json!({ "room": room }));
        let mut answer = None;
        while answer.is_none() {
            let read = self.read(|heard| {
                if let Heard::Answer(outcome) = heard {
                    answer = answer.take().or(Some(outcome));
                }
            });
            read.await.map_err(|reason| anyhow!("disconnected while joining: {reason}"))?;
        }
        match answer {
            Some(Err(refusal)) => bail!("join was refused: {refusal}"),
            _ => Ok(()),
        }
    }

    /// Puts a publication behind what is already waiting to be sent. `data` begins with a stamp, `room` and `data` need no
    /// escapes in JSON.
    pub(crate) fn publish(&mut self, room: &str, data: &str, number: u64) {
        match self {
            // Written as it is: in some scenarios everyone publishes, and the tool is to be cheaper than the server.
            Self::SocketIo(connection) => {
                let packet =
                    format!(r#"2{number}["publish",{{"room":"{room}","event":"{EVENT}","data":"{data}"}}]"#);
                connection.push_message(Message::Text(&packet));
            }
            Self::Plain(_) => {
                self.ask("publish", number, json!({ "room": room, "event": EVENT, "data": data }));
            }
        }
    }

    fn ask(&mut self, operation: &str, id: u64, mut argument: serde_json::Value) {
        match self {
            Self::SocketIo(connection) => connection.emit("/", operation, &[argument.into()], Some(id)),
            Self::Plain(connection) => {
                argument["op"] = json!(operation);
                argument["id"] = json!(id);
                connection.push(&argument.into());
            }
        }
    }

    /// Has the kernel hold no more than about so many bytes that were not read.
    pub(crate) fn set_receive_buffer(&self, bytes: usize) -> std::io::Result<()> {
        match self {
            Self::SocketIo(connection) => connection.set_receive_buffer(bytes),
            Self::Plain(connection) => connection.set_receive_buffer(bytes),
        }
    }

    /// The code of the server's close frame, if one has come.
    pub(crate) fn close_code(&self) -> Option<u16> {
        match self {
            Self::SocketIo(connection) => connection.close_code(),
            Self::Plain(connection) => connection.close_code(),
        }
    }

    /// Says goodbye and waits for the server to hang up.
    pub(crate) async fn close(self) -> Result<(), Reason> {
        match self {
            Self::SocketIo(connection) => connection.close().await,
            Self::Plain(connection) => connection.close().await,
        }
    }

    /// Hands over everything that waits to be sent.
    pub(crate) async fn flush(&mut self) -> Result<(), Reason> {
        match self {
            Self::SocketIo(connection) => connection.flush().await,
            Self::Plain(connection) => connection.flush().await,
        }
    }

    /// Waits until something arrives, and tells what of it is a delivery or an answer.
    pub(crate) async fn read(&mut self, mut on_heard: impl FnMut(Heard)) -> Result<(), Reason> {
        match self {
            Self::SocketIo(connection) => {
                connection.read(|message| packet(message).into_iter().for_each(&mut on_heard)).await
            }
            Self::Plain(connection) => {
                let format = connection.format();
                connection.read(|message| plain(format, message).into_iter().for_each(&mut on_heard)).await
            }
        }
    }
}

fn packet(message: Message<'_>) -> Option<Heard> {
    let Message::Text(packet) = message else { return None };
    if let Some(stamped) = packet.strip_prefix(PACKET) {
        let (number, moment_ns) = stamp(stamped)?;
        return Some(Heard::Delivery(number, moment_ns));
    }
    if packet == "1" {
        return Some(Heard::Disconnect);
    }
    let arguments = packet.strip_prefix('3')?.trim_start_matches(|digit: char| digit.is_ascii_digit());
    // Most answers are this one, and reading all of it would take longer than everything else here.
    if arguments.starts_with(OK) {
        return Some(Heard::Answer(Ok(())));
    }
    let answer = serde_json::from_str::<serde_json::Value>(arguments);
    let is_ok = answer.is_ok_and(|answer| answer[0]["ok"] == true);
    Some(Heard::Answer(if is_ok { Ok(()) } else { Err(arguments.to_owned()) }))
}

fn plain(format: Format, message: Message<'_>) -> Option<Heard> {
    let stamped = match message {
        Message::Text(json) => json.strip_prefix(JSON),
        Message::Binary(bytes) => bytes.strip_prefix(MSGPACK).and_then(string),
    };
    if let Some(stamped) = stamped {
        let (number, moment_ns) = stamp(stamped)?;
        return Some(Heard::Delivery(number, moment_ns));
    }
    let told = plain::decode(format, message)?;
    if told["op"].as_str() != Some("reply") {
        return None;
    }
    let is_ok = told["ok"] == Value::Bool(true);
    Some(Heard::Answer(if is_ok { Ok(()) } else { Err(format!("{:?}", told["error"])) }))
}

/// The text behind the head of a MessagePack string that begins with the stamp's mark. The stamp alone is longer than
/// what the shortest head has room for.
fn string(bytes: &[u8]) -> Option<&str> {
    let head = match bytes.first()? {
        0xd9 => 2,
        0xda => 3,
        _ => 5,
    };
    // What follows the string need not be text.
    let text = bytes.get(head..)?.strip_prefix(b"#")?;
    let end = text.iter().position(|byte| !byte.is_ascii()).unwrap_or(text.len());
    std::str::from_utf8(&text[..end]).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::stamp::data;

    fn delivery(heard: Option<Heard>) -> Option<(u64, u64)> {
        match heard {
            Some(Heard::Delivery(number, moment_ns)) => Some((number, moment_ns)),
            _ => None,
        }
    }

    fn answer(heard: Option<Heard>) -> Option<Result<(), String>> {
        match heard {
            Some(Heard::Answer(outcome)) => Some(outcome),
            _ => None,
        }
    }

    #[test]
    fn a_publication_is_known_by_how_its_message_begins() {
        for bytes in [40, 100, 300, 70_000] {
            let data = data(7, 9, bytes);
            let text = format!(r#"2["{EVENT}","{data}",{{"id":"x"}}]"#);
            assert_eq!(delivery(packet(Message::Text(&text))), Some((7, 9)));
            let text = format!(r#"{{"op":"event","event":"{EVENT}","args":["{data}"],"meta":{{}}}}"#);
            assert_eq!(delivery(plain(Format::Json, Message::Text(&text))), Some((7, 9)));
            let mut packed = MSGPACK.to_vec();
            match u8::try_from(bytes) {
                Ok(short) => packed.extend([0xd9, short]),
                Err(_) if bytes < 65_536 => packed.extend([0xda, (bytes >> 8) as u8, bytes as u8]),
                Err(_) => packed.extend([0xdb, 0, (bytes >> 16) as u8, (bytes >> 8) as u8, bytes as u8]),
            }
            packed.extend(data.bytes());
            packed.extend(b"\xa4meta\x80");
            assert_eq!(delivery(plain(Format::MessagePack, Message::Binary(&packed))), Some((7, 9)));
        }
    }

    #[test]
    fn answers_say_yes_or_why_not() {
        assert_eq!(answer(packet(Message::Text(r#"30[{"ok":true,"id":"a"}]"#))), Some(Ok(())));
        let refusal = r#"[{"ok":false,"error":{"code":"forbidden"}}]"#;
        assert_eq!(answer(packet(Message::Text(&format!("317{refusal}")))), Some(Err(refusal.to_owned())));
        assert_eq!(answer(packet(Message::Text(r#"2["bench"]"#))), None);
        assert!(matches!(answer(packet(Message::Text("30"))), Some(Err(_))));
        let json = |text| answer(plain(Format::Json, Message::Text(text)));
        assert_eq!(json(r#"{"op":"reply","id":0,"ok":true}"#), Some(Ok(())));
        assert!(matches!(json(r#"{"op":"reply","id":0,"ok":false,"error":{}}"#), Some(Err(_))));
        assert_eq!(json("pong"), None);
    }
}
