#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tidegate_core::{
    Answer, Ask, Asker, Flags, Namespace, NodeId, Publication, RemoteSocket, Request, RequestId, Room, Rooms,
    Selection,
};
use tidegate_msgpack::write;

use super::*;

fn read(payload: &[u8]) -> Result<Request, Refusal> {
    decode_request(&Namespace::root(), &Bytes::copy_from_slice(payload))
}

fn rooms_of(names: &[&str]) -> Rooms {
    names.iter().map(|name| Room::from(*name)).collect()
}

fn one(sid: &str) -> Selection {
    Selection { rooms: rooms_of(&[sid]), except: Rooms::new() }
}

#[test]
fn older_peers_name_one_socket_and_wait_for_its_server() {
    let cases: [(&[u8], Ask); 4] = [
        (
            br#"{"sid":"s","room":"r","requestId":"i","type":2}"#,
            Ask::Join { selection: one("s"), rooms: rooms_of(&["r"]) },
        ),
        (
            br#"{"sid":"s","room":7,"requestId":"i","type":3,"opts":null}"#,
            Ask::Leave { selection: one("s"), rooms: rooms_of(&["7"]) },
        ),
        (
            br#"{"sid":"s","requestId":"i","type":4,"close":true}"#,
            Ask::Disconnect { selection: one("s"), close: true },
        ),
        (
            b"\x84\xa3sid\xa1s\xa4room\xa1r\xa9requestId\xa1i\xa4type\x02",
            Ask::Join { selection: one("s"), rooms: rooms_of(&["r"]) },
        ),
    ];
    for (payload, ask) in cases {
        let request = read(payload).unwrap();
        let asker = Asker { uid: None, node: None, id: RequestId::from("i"), only_owner: true };
        assert_eq!(request, Request { namespace: Namespace::root(), asker: Some(asker), ask });
    }
}

#[test]
fn both_encodings_say_the_same() {
    let json = br#"{"x":[{}],"uid":"u","requestId":"i","type":5,"node":"gw-1","opts":{"except":["c"],"rooms":["a",7,-7],"flags":{"timeout":5}}}"#;
    let mut msgpack = b"\x86\xa1x\x91\x80\xa3uid\xa1u\xa9requestId\xa1i\xa4type\x05\xa4node\xa4gw-1".to_vec();
    msgpack.extend(b"\xa4opts\x83\xa6except\x91\xa1c\xa5rooms\x93\xa1a\x07\xf9\xa5flags\x81\xa7timeout\x05");
    let request = read(json).unwrap();
    assert_eq!(read(&msgpack).unwrap(), request);
    let selection = Selection { rooms: rooms_of(&["a", "7", "-7"]), except: rooms_of(&["c"]) };
    assert_eq!(request.ask, Ask::Fetch { selection });
    let node = Some(NodeId::parse("gw-1").unwrap());
    let asker = Asker { uid: Some("u".into()), node, id: RequestId::from("i"), only_owner: false };
    assert_eq!(request.asker, Some(asker));
}

#[test]
fn what_is_missing_or_null_is_empty() {
    let all = Selection::default();
    for payload in [
        &br#"{"type":5,"requestId":"i","opts":{}}"#[..],
        br#"{"type":5,"requestId":"i","opts":{"rooms":null,"except":null},"uid":null,"node":null,"sid":null}"#,
        b"\x83\xa4type\x05\xa9requestId\xa1i\xa4opts\x80",
        b"\x85\xa4type\x05\xa9requestId\xa1i\xa3uid\xc0\xa3sid\xc0\xa4opts\x82\xa5rooms\xc0\xa6except\xc0",
    ] {
        assert_eq!(read(payload).unwrap().ask, Ask::Fetch { selection: all.clone() });
    }
    let disconnect = Ask::Disconnect { selection: all, close: false };
    assert_eq!(read(br#"{"type":4,"opts":{}}"#).unwrap().ask, disconnect);
    let request = read(br#"{"type":1,"requestId":null,"node":"no node id"}"#).unwrap();
    assert_eq!((request.asker, request.ask), (None, Ask::Rooms));
    for data in ["[]", "[7,8]", "[null]", r#"[["x"]]"#] {
        let request = read(format!(r#"{{"type":6,"data":{data}}}"#).as_bytes()).unwrap();
        assert_eq!(request.ask, Ask::ServerSideEmit { event: "".into() }, "{data}");
    }
    assert_eq!(
        read(b"\x82\xa4type\x06\xa4data\x92\xa1e\x81\xa1x\xc0").unwrap().ask,
        Ask::ServerSideEmit { event: "e".into() }
    );
}

#[test]
fn what_is_no_request_is_refused() {
    let broadcast = |packet: &[u8], opts: &[u8]| {
        [b"\x83\xa4type\x07\xa6packet", packet, b"\xa4opts".as_slice(), opts].concat()
    };
    let malformed = Refusal::MalformedRequest;
    let cases: Vec<(&str, Vec<u8>, Refusal)> = vec![
        ("nothing", vec![], malformed),
        ("half an object", b"{\"type\":1".to_vec(), malformed),
        ("more than an object", b"{\"type\":1}1".to_vec(), malformed),
        ("no type", b"{}".to_vec(), malformed),
        ("no map", b"\x90".to_vec(), malformed),
        ("a trailing byte", b"\x81\xa4type\x01\xc0".to_vec(), malformed),
        ("an unknown type", br#"{"type":10}"#.to_vec(), Refusal::UnknownRequest),
        ("an answer", br#"{"type":8,"requestId":"i","clientCount":1}"#.to_vec(), Refusal::UnknownRequest),
        // What ends a stock server.
        ("no options to fetch by", br#"{"type":5,"requestId":"i"}"#.to_vec(), malformed),
        ("nobody to join", br#"{"type":2,"rooms":["r"]}"#.to_vec(), malformed),
        ("a room that is a list", br#"{"type":2,"opts":{},"rooms":[["r"]]}"#.to_vec(), malformed),
        ("rooms that are none", br#"{"type":2,"opts":{},"rooms":true}"#.to_vec(), malformed),
        ("no event", br#"{"type":6}"#.to_vec(), malformed),
        ("an id that is no text", br#"{"type":1,"requestId":1}"#.to_vec(), malformed),
        (
            "a broadcast in text",
            br#"{"type":7,"opts":{},"packet":{"type":2,"data":["e"]}}"#.to_vec(),
            malformed,
        ),
        (
            "no options to broadcast by",
            b"\x82\xa4type\x07\xa6packet\x82\xa4type\x02\xa4data\x91\xa1e".to_vec(),
            malformed,
        ),
        (
            "another namespace",
            broadcast(b"\x83\xa4type\x02\xa4data\x91\xa1e\xa3nsp\xa2/a", b"\x80"),
            adapter::Refusal::NamespaceMismatch.into(),
        ),
        (
            "a reserved event",
            broadcast(b"\x82\xa4type\x02\xa4data\x91\xa7evicted", b"\x80"),
            adapter::Refusal::ReservedEvent.into(),
        ),
    ];
    for (what, payload, refusal) in cases {
        assert_eq!(read(&payload), Err(refusal), "{what}");
    }
    assert!(read(&broadcast(b"\x82\xa4type\x02\xa4data\x91\xa1e", b"\x80")).is_ok());
}

#[test]
fn timeouts_are_those_that_a_server_can_set() {
    let cases: [(&[u8], Option<u64>); 5] = [
        (b"\x05", Some(5)),
        (b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00", Some(1)),
        (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", Some(2_147_483_647)),
        (b"\xff", None),
        (b"\xc0", None),
    ];
    for (written, ms) in cases {
        let payload = [
            b"\x83\xa4type\x07\xa6packet\x82\xa4type\x02\xa4data\x91\xa1e\xa4opts\x81\xa5flags\x81\xa7timeout",
            written,
        ];
        let Ask::Broadcast { timeout, .. } = read(&payload.concat()).unwrap().ask else { panic!("{ms:?}") };
        assert_eq!(timeout, ms.map(Duration::from_millis));
    }
}

#[test]
fn answers_are_told_apart_by_their_keys() {
    let read =
        |payload: &[u8]| decode_answer(&Bytes::copy_from_slice(payload)).map(|answered| answered.answer);
    let cases: Vec<(&[u8], Answer)> = vec![
        (br#"{"requestId":"i"}"#, Answer::Done { matched: 1 }),
        (br#"{"requestId":"i","matched":0}"#, Answer::Done { matched: 0 }),
        (br#"{"requestId":"i","rooms":["r",1]}"#, Answer::Rooms(vec![Room::from("r"), Room::from("1")])),
        (br#"{"requestId":"i","rooms":[]}"#, Answer::Rooms(vec![])),
        (br#"{"requestId":"i","sockets":["a","b"]}"#, Answer::Ids(vec!["a".into(), "b".into()])),
        (br#"{"requestId":"i","sockets":[]}"#, Answer::Sockets(vec![])),
        (br#"{"requestId":"i","type":6}"#, Answer::Emitted),
        (br#"{"requestId":"i","type":6,"data":{"rooms":[]},"rooms":["r"]}"#, Answer::Emitted),
        (b"\x82\xa9requestId\xa1i\xa4type\x09", Answer::Acknowledged(Bytes::from_static(b"\xc0"))),
        (
            b"\x84\xa6packet\xd6\xff\0\0\0\x01\xa1x\x90\xa9requestId\xa1i\xa4type\x09",
            Answer::Acknowledged(Bytes::from_static(b"\xd6\xff\0\0\0\x01")),
        ),
    ];
    for (payload, answer) in cases {
        assert_eq!(read(payload), Ok(answer), "{}", payload.escape_ascii());
    }
    for payload in [
        &b""[..],
        b"{}",
        br#"{"requestId":1}"#,
        br#"{"requestId":"i","type":8}"#,
        br#"{"requestId":"i","type":9,"packet":1}"#,
        br#"{"requestId":"i","sockets":[1]}"#,
        br#"{"requestId":"i","sockets":["a",{"id":"b"}]}"#,
        br#"{"requestId":"i","sockets":[{"id":"b"},"a"]}"#,
        br#"{"requestId":"i","sockets":[{}]}"#,
        b"\x81\xa9requestId\xa1i",
        b"\x82\xa9requestId\xa1i\xa4type\x08",
        b"\x82\xa9requestId\xa1i\xa4type\x09\xc0",
    ] {
        assert_eq!(read(payload), Err(Refusal::MalformedAnswer), "{}", payload.escape_ascii());
    }
}

#[test]
fn what_other_servers_attach_to_a_socket_is_not_taken_for_ours() {
    for data in ["null", "7", "[1]", r#"{"user":{"name":"x"}}"#, r#"{"user":"x","node":"gw-1"}"#] {
        let payload = format!(
            r#"{{"requestId":"i","sockets":[{{"id":"a","rooms":["a"],"handshake":{{}},"data":{data}}}]}}"#
        );
        let socket = RemoteSocket {
            id: "a".into(),
            rooms: vec![Room::from("a")],
            user: None,
            device: None,
            node: None,
            connected_at_ms: None,
        };
        let answered = decode_answer(&payload.into_bytes().into()).unwrap();
        assert_eq!(answered.answer, Answer::Sockets(vec![socket]), "{data}");
    }
}

fn names() -> impl Strategy<Value = Rooms> {
    prop::collection::vec(".{0,12}", 0..4).prop_map(|names| names.into_iter().map(Room::from).collect())
}

fn selection() -> impl Strategy<Value = Selection> {
    (names(), names()).prop_map(|(rooms, except)| Selection { rooms, except })
}

fn broadcast() -> impl Strategy<Value = Ask> {
    let timeout = prop::option::of(0..=2_147_483_647_u64);
    (selection(), any::<bool>(), timeout, "[a-z]{1,30}").prop_map(|(selection, volatile, timeout, event)| {
        let mut data = Vec::new();
        write::array(&mut data, 2);
        write::str(&mut data, &format!("e{event}"));
        write::bin(&mut data, b"bytes");
        let Selection { rooms, except } = selection;
        let flags = Flags { volatile, ..Flags::default() };
        let publication =
            Publication { namespace: Namespace::root(), rooms, except, flags, data: data.into() };
        Ask::Broadcast { publication, timeout: timeout.map(Duration::from_millis) }
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        names().prop_map(|rooms| Ask::Ids { rooms }),
        Just(Ask::Rooms),
        (selection(), names()).prop_map(|(selection, rooms)| Ask::Join { selection, rooms }),
        (selection(), names()).prop_map(|(selection, rooms)| Ask::Leave { selection, rooms }),
        (selection(), any::<bool>()).prop_map(|(selection, close)| Ask::Disconnect { selection, close }),
        selection().prop_map(|selection| Ask::Fetch { selection }),
        ".{0,12}".prop_map(|event| Ask::ServerSideEmit { event: event.into() }),
        broadcast(),
    ]
}

fn node() -> impl Strategy<Value = Option<NodeId>> {
    prop::option::of("[A-Za-z0-9_.-]{1,64}".prop_map(|node| NodeId::parse(&node).unwrap()))
}

fn asker() -> impl Strategy<Value = Asker> {
    (".{0,12}", node(), ".{0,12}").prop_map(|(uid, node, id)| Asker {
        uid: Some(uid.into()),
        node,
        id: RequestId::from(id),
        only_owner: false,
    })
}

fn text_of() -> impl Strategy<Value = Option<Arc<str>>> {
    prop::option::of(".{0,12}".prop_map(Arc::from))
}

fn socket() -> impl Strategy<Value = RemoteSocket> {
    (".{0,20}", names(), text_of(), text_of(), node(), any::<u64>()).prop_map(
        |(id, rooms, user, device, node, connected_at_ms)| RemoteSocket {
            id: id.into(),
            rooms: rooms.into_vec(),
            user,
            device,
            node,
            connected_at_ms: Some(connected_at_ms),
        },
    )
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        names().prop_map(|rooms| Answer::Rooms(rooms.into_vec())),
        prop::collection::vec(".{0,20}".prop_map(Arc::from), 1..4).prop_map(Answer::Ids),
        prop::collection::vec(socket(), 0..4).prop_map(Answer::Sockets),
        any::<u64>().prop_map(|matched| Answer::Done { matched }),
        Just(Answer::Emitted),
        any::<u64>().prop_map(Answer::Clients),
        ".{0,20}".prop_map(|text| {
            let mut value = Vec::new();
            write::str(&mut value, &text);
            Answer::Acknowledged(value.into())
        }),
    ]
}

fn encoded(asker: &Asker, ask: &Ask) -> Vec<u8> {
    encode_request(asker.uid.as_deref().unwrap(), asker.node.as_ref(), Some(&asker.id), ask)
}

proptest! {
    #[test]
    fn a_request_that_is_written_is_read(asker in asker(), ask in ask()) {
        let request = read(&encoded(&asker, &ask)).unwrap();
        let namespace = Namespace::root();
        prop_assert_eq!(request, Request { namespace, asker: Some(asker), ask });
    }

    #[test]
    fn an_answer_that_is_written_is_read(id in ".{0,12}", node in "[a-z]{1,12}", answer in answer()) {
        let (id, node) = (RequestId::from(id), NodeId::parse(&node).unwrap());
        let payload = Bytes::from(encode_answer(&id, Some(&node), &answer));
        prop_assert_eq!(decode_answer(&payload).unwrap(), Answered { id, from: Some(node), answer });
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), json: bool) {
        let bytes = if json { [b"{", &bytes[..]].concat() } else { bytes };
        let _ = read(&bytes);
        let _ = decode_answer(&bytes.into());
    }

    #[test]
    fn any_damage_is_survived(
        asker in asker(),
        ask in ask(),
        answer in answer(),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut payload = encoded(&asker, &ask);
        let place = at.index(payload.len());
        payload[place] = byte;
        if let Ok(request) = read(&payload) {
            let again = encode_request("u", None, None, &request.ask);
            prop_assert_eq!(read(&again).unwrap().ask, request.ask);
        }
        let mut payload = encode_answer(&asker.id, asker.node.as_ref(), &answer);
        let place = at.index(payload.len());
        payload[place] = byte;
        if let Ok(answered) = decode_answer(&payload.into()) {
            let again = encode_answer(&answered.id, answered.from.as_ref(), &answered.answer);
            prop_assert!(decode_answer(&again.into()).is_ok());
        }
    }

    #[test]
    fn every_shortened_payload_is_refused(asker in asker(), ask in ask(), cut in any::<prop::sample::Index>()) {
        let payload = encoded(&asker, &ask);
        prop_assert!(read(&payload[..cut.index(payload.len())]).is_err());
    }
}
