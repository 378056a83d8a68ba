//! A Socket.IO server that does no more than the load tool asks for, and can be told to do it wrong. One thread for each
//! connection.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a server does to the messages of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Sends message number so many twice.
    Repeats(u64),
    /// Keeps message number so many for itself.
    Loses(u64),
    /// Sends message number so many after the one that follows it.
    Swaps(u64),
    /// Answers every event with a refusal.
    Refuses,
}

/// Whom a room's messages go to, and what is held back.
type Rooms = Arc<Mutex<HashMap<String, Room>>>;

#[derive(Default)]
struct Room {
    members: Vec<Arc<Mutex<TcpStream>>>,
    held: Option<String>,
}

/// Starts one, which runs as long as the test does, and gives its URL.
pub(crate) fn serve(fault: Fault) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let rooms = Rooms::default();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, rooms) = (stream.unwrap(), rooms.clone());
            // A client that is gone is no failure of the server.
            thread::spawn(move || drop(converse(stream, &rooms, fault)));
        }
    });
    url
}

fn converse(mut stream: TcpStream, rooms: &Rooms, fault: Fault) -> io::Result<()> {
    stream.set_nodelay(true)?;
    upgrade(&mut stream)?;
    let own = Arc::new(Mutex::new(stream.try_clone()?));
    send(
        &own,
        r#"0{"sid":"s","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#,
    )?;
    while let Some(packet) = receive(&mut stream)? {
        if packet.starts_with("40") {
            send(&own, r#"40{"sid":"s"}"#)?;
        } else if packet.starts_with("41") {
            continue;
        } else if let Some(event) = packet.strip_prefix("42") {
            let digits = event.bytes().take_while(u8::is_ascii_digit).count();
            let (id, arguments) = event.split_at(digits);
            let arguments: serde_json::Value = serde_json::from_str(arguments)?;
            let room = arguments[1]["room"].as_str().unwrap_or_default();
            match arguments[0].as_str() {
                Some("join") => {
                    rooms.lock().unwrap().entry(room.to_owned()).or_default().members.push(own.clone());
                }
                Some("publish") => publish(rooms, &own, room, &arguments[1]["data"], fault)?,
                _ => {}
            }
            let ok = fault != Fault::Refuses || arguments[0] == "join";
            send(&own, &format!(r#"43{id}[{{"ok":{ok}}}]"#))?;
        }
    }
    own.lock().unwrap().write_all(&[0x88, 0])?;
    stream.shutdown(Shutdown::Write)
}

fn publish(
    rooms: &Rooms,
    own: &Arc<Mutex<TcpStream>>,
    room: &str,
    data: &serde_json::Value,
    fault: Fault,
) -> io::Result<()> {
    let number: Option<u64> = data.as_str().and_then(|data| data.get(1..11)?.parse().ok());
    let message = format!(r#"42["bench",{data},{{"id":"x"}}]"#);
    // The lock keeps the order of a publisher the same for all.
    let mut rooms = rooms.lock().unwrap();
    let Some(room) = rooms.get_mut(room) else { return Ok(()) };
    let is_at = |at| number == Some(at);
    let messages = match fault {
        Fault::Repeats(at) if is_at(at) => vec![message.clone(), message],
        Fault::Loses(at) if is_at(at) => Vec::new(),
        Fault::Swaps(at) if is_at(at) => {
            room.held = Some(message);
            Vec::new()
        }
        _ => std::iter::once(message).chain(room.held.take()).collect(),
    };
    for member in room.members.iter().filter(|member| !Arc::ptr_eq(member, own)) {
        for message in &messages {
            // One that has gone is told nothing.
            let _ = send(member, message);
        }
    }
    Ok(())
}

/// Answers the WebSocket handshake.
fn upgrade(stream: &mut TcpStream) -> io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let is_key = |line: &&str| line.to_ascii_lowercase().starts_with("sec-websocket-key:");
    let line = head.lines().find(is_key).ok_or_else(|| io::Error::other("no handshake"))?;
    let request = http::Request::builder()
        .header("sec-websocket-key", line["sec-websocket-key:".len()..].trim())
        .header("sec-websocket-version", "13")
        .body(())
        .map_err(io::Error::other)?;
    let (response, _) = fastwebsockets::upgrade::upgrade(request).map_err(io::Error::other)?;
    let accept = response.headers()["sec-websocket-accept"].to_str().map_err(io::Error::other)?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes())
}

fn send(stream: &Mutex<TcpStream>, text: &str) -> io::Result<()> {
    let mut frame = vec![0x81];
    match u8::try_from(text.len()) {
        Ok(short @ 0..126) => frame.push(short),
        _ => {
            frame.push(126);
            frame.extend(u16::try_from(text.len()).map_err(io::Error::other)?.to_be_bytes());
        }
    }
    frame.extend(text.bytes());
    stream.lock().unwrap().write_all(&frame)
}

/// The next text, or none when the client closes.
fn receive(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            u16::from_be_bytes(length).into()
        }
        short => usize::from(short),
    };
    let mut mask = [0; 4];
    stream.read_exact(&mut mask)?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    payload.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= mask[at % 4]);
    let text = || String::from_utf8(payload).map_err(io::Error::other);
    if head[0] & 0x0f == 8 { Ok(None) } else { text().map(Some) }
}
