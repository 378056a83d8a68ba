//! What stock Node servers asked of each other is read, and written again to the byte.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use tidegate_core::{Answer, Ask, Namespace, NodeId, RemoteSocket, RequestId, Room, Rooms, Selection};
use tidegate_redis::requests::{decode_answer, decode_request, encode_answer, encode_request};

#[derive(Deserialize)]
struct Vectors {
    requests: Vec<Vector>,
    answers: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    channel: String,
    payload_hex: String,
    decoded: Value,
}

impl Vector {
    fn payload(&self) -> Bytes {
        let hex = &self.payload_hex;
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn namespace(&self) -> Namespace {
        Namespace::from(self.channel.split('#').nth(1).unwrap())
    }

    /// Not the emitter's: it orders or leaves out what servers do not.
    fn uid(&self) -> Option<&str> {
        self.decoded["uid"].as_str().filter(|uid| *uid != "emitter")
    }
}

fn vectors() -> Vectors {
    let vectors: Vectors = serde_json::from_str(include_str!("vectors/requests.json")).unwrap();
    assert!(vectors.requests.len() >= 20 && vectors.answers.len() >= 13, "the vectors are gone");
    vectors
}

fn names(value: &Value) -> Rooms {
    value.as_array().unwrap().iter().map(|name| Room::from(name.as_str().unwrap())).collect()
}

fn selection(decoded: &Value) -> Selection {
    Selection { rooms: names(&decoded["opts"]["rooms"]), except: names(&decoded["opts"]["except"]) }
}

#[test]
fn stock_requests_are_read_as_what_they_say() {
    for vector in vectors().requests {
        let (name, decoded) = (&vector.name, &vector.decoded);
        let request = decode_request(&vector.namespace(), &vector.payload())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(request.namespace, vector.namespace(), "{name}");
        assert_eq!(request.asker.is_some(), decoded.get("requestId").is_some(), "{name}");
        if let Some(asker) = &request.asker {
            assert_eq!(asker.id.as_str(), decoded["requestId"], "{name}");
            assert_eq!(asker.uid.as_deref(), decoded["uid"].as_str(), "{name}");
            assert!(asker.node.is_none() && !asker.only_owner, "{name}");
        }
        let said = match decoded["type"].as_u64().unwrap() {
            1 => request.ask == Ask::Rooms,
            2 => request.ask == Ask::Join { selection: selection(decoded), rooms: names(&decoded["rooms"]) },
            3 => request.ask == Ask::Leave { selection: selection(decoded), rooms: names(&decoded["rooms"]) },
            4 => {
                let close = decoded["close"].as_bool().unwrap();
                request.ask == Ask::Disconnect { selection: selection(decoded), close }
            }
            5 => request.ask == Ask::Fetch { selection: selection(decoded) },
            6 => request.ask == Ask::ServerSideEmit { event: decoded["data"][0].as_str().unwrap().into() },
            7 => {
                let Ask::Broadcast { publication, timeout } = &request.ask else { panic!("{name}") };
                assert_eq!(publication.rooms, selection(decoded).rooms, "{name}");
                assert_eq!(publication.except, selection(decoded).except, "{name}");
                assert_eq!(publication.namespace, vector.namespace(), "{name}");
                let event = b"\x92\xa5ackme";
                assert_eq!(&publication.data[..event.len()], event, "{name}");
                timeout.unwrap().as_millis() == 1000
            }
            other => panic!("{name}: nobody sends type {other}"),
        };
        assert!(said, "{name}: {:?}", request.ask);
    }
}

#[test]
fn stock_requests_are_written_to_the_byte() {
    let mut written = 0;
    for vector in vectors().requests {
        let request = decode_request(&vector.namespace(), &vector.payload()).unwrap();
        // Of events for other servers' code only the name is kept.
        let (Some(uid), false) = (vector.uid(), matches!(request.ask, Ask::ServerSideEmit { .. })) else {
            continue;
        };
        let id = request.asker.map(|asker| asker.id);
        let payload = encode_request(uid, None, id.as_ref(), &request.ask);
        assert_eq!(payload, vector.payload(), "{}", vector.name);
        written += 1;
    }
    assert!(written >= 11, "{written}");
}

#[test]
fn stock_answers_are_read_as_what_they_say_and_written_to_the_byte() {
    for vector in vectors().answers {
        let (name, decoded) = (&vector.name, &vector.decoded);
        let answered = decode_answer(&vector.payload()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answered.id.as_str(), decoded["requestId"], "{name}");
        assert_eq!(answered.from, None, "{name}");
        let written = encode_answer(&answered.id, None, &answered.answer);
        match answered.answer {
            Answer::Rooms(rooms) => {
                assert_eq!(rooms, names(&decoded["rooms"]).into_vec(), "{name}");
                assert_eq!(written, vector.payload(), "{name}");
            }
            Answer::Clients(count) => {
                assert_eq!(count, decoded["clientCount"].as_u64().unwrap(), "{name}");
                assert_eq!(written, vector.payload(), "{name}");
            }
            Answer::Acknowledged(argument) => {
                assert_eq!(argument, b"\xa6ack-c2"[..], "{name}");
                assert_eq!(written, vector.payload(), "{name}");
            }
            Answer::Emitted => {
                let data = decoded["data"].as_str().unwrap();
                let expected = String::from_utf8(vector.payload().to_vec()).unwrap();
                assert_eq!(written, expected.replace(&format!("\"{data}\""), "null").as_bytes(), "{name}");
            }
            Answer::Sockets(sockets) => {
                let [socket] = sockets.as_slice() else { panic!("{name}") };
                let told = &decoded["sockets"][0];
                assert_eq!(*socket.id, *told["id"].as_str().unwrap(), "{name}");
                assert_eq!(socket.rooms, names(&told["rooms"]).into_vec(), "{name}");
                assert_eq!(socket.connected_at_ms, told["handshake"]["issued"].as_u64(), "{name}");
                // A server's own data is no word of ours, even where it looks like one.
                assert_eq!((&socket.user, &socket.device, &socket.node), (&None, &None, &None), "{name}");
                same_shape_without_secrets(&written, told);
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

fn same_shape_without_secrets(written: &[u8], told: &Value) {
    let ours: Value = serde_json::from_slice(written).unwrap();
    let ours = &ours["sockets"][0];
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(ours), keys(told));
    assert_eq!(keys(&ours["handshake"]), keys(&told["handshake"]));
    for (key, value) in told["handshake"].as_object().unwrap() {
        let ours = &ours["handshake"][key];
        assert_eq!(std::mem::discriminant(ours), std::mem::discriminant(value), "{key}");
    }
    assert_eq!(ours["handshake"]["time"], told["handshake"]["time"]);
    for empty in ["headers", "query", "auth"] {
        assert_eq!(ours["handshake"][empty], serde_json::json!({}));
    }
}

#[test]
fn the_form_of_a_nodes_answer_is_fixed() {
    let id = RequestId::from("EMhdbd");
    let node = NodeId::parse("gw-1").unwrap();
    let socket = RemoteSocket {
        id: "GcGTN2GucaMHlgs0AAAB".into(),
        rooms: vec![Room::from("GcGTN2GucaMHlgs0AAAB"), Room::from("room1")],
        user: Some("ann".into()),
        device: Some("phone".into()),
        node: Some(node.clone()),
        connected_at_ms: Some(1_795_322_005_816),
    };
    let anonymous = RemoteSocket {
        id: "x".into(),
        rooms: vec![],
        user: None,
        device: None,
        node: None,
        ..socket.clone()
    };
    let handshake = concat!(
        r#"{"headers":{},"time":"Sun Nov 22 2026 04:33:25 GMT+0000 (Coordinated Universal Time)","address":"","#,
        r#""xdomain":false,"secure":false,"issued":1795322005816,"url":"","query":{},"auth":{}}"#
    );
    let expected = [
        r#"{"requestId":"EMhdbd","sockets":[{"id":"GcGTN2GucaMHlgs0AAAB","handshake":"#,
        handshake,
        r#","rooms":["GcGTN2GucaMHlgs0AAAB","room1"],"#,
        r#""data":{"user":"ann","device":"phone","node":"gw-1"}},{"id":"x","handshake":"#,
        handshake,
        r#","rooms":[],"data":{}}],"node":"gw-1"}"#,
    ];
    let answer = Answer::Sockets(vec![socket, anonymous]);
    let written = encode_answer(&id, Some(&node), &answer);
    assert_eq!(String::from_utf8_lossy(&written), expected.concat());

    for (answer, expected) in [
        (Answer::Done { matched: 3 }, &br#"{"requestId":"EMhdbd","matched":3,"node":"gw-1"}"#[..]),
        (Answer::Emitted, br#"{"type":6,"requestId":"EMhdbd","data":null,"node":"gw-1"}"#),
        (Answer::Ids(vec!["x".into()]), br#"{"requestId":"EMhdbd","sockets":["x"],"node":"gw-1"}"#),
        (Answer::Rooms(vec![]), br#"{"requestId":"EMhdbd","rooms":[],"node":"gw-1"}"#),
        (
            Answer::Acknowledged(Bytes::from_static(b"\xc0")),
            b"\x84\xa4type\x09\xa9requestId\xa6EMhdbd\xa6packet\xc0\xa4node\xa4gw-1",
        ),
    ] {
        assert_eq!(encode_answer(&id, Some(&node), &answer), expected, "{answer:?}");
    }
}

#[test]
fn the_form_of_a_nodes_request_is_fixed() {
    let (id, node) = (RequestId::from("EMhdbd"), NodeId::parse("gw-1").unwrap());
    let selection = Selection { rooms: Rooms::from_iter([Room::from("r")]), except: Rooms::new() };
    let ask = Ask::Disconnect { selection, close: true };
    let expected = concat!(
        r#"{"uid":"asukF3","requestId":"EMhdbd","type":4,"opts":{"rooms":["r"],"except":[]},"close":true,"#,
        r#""node":"gw-1"}"#
    );
    assert_eq!(encode_request("asukF3", Some(&node), Some(&id), &ask), expected.as_bytes());
}
