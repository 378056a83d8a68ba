//! What is asked, and what reaches the node of it.

use serde_json::json;
use tidegate_gateway::namespaces::NamespaceRule;

use super::*;

#[tokio::test]
async fn a_user_is_told_with_their_sessions() {
    let port = Port::of(Fake::default(), false).await;
    let known = port.call("GET /api/v1/users/ann", "").await;
    assert_eq!(known.status, 200);
    assert!(known.head.contains("\r\ncontent-type: application/json\r\n"), "{}", known.head);
    let session = json!({
        "session": "abcdefghij0123456789", "device": "phone", "node": "gw-1", "transport": "websocket",
        "connected_at": 1_700_000_000_000_u64, "last_seen": 1_700_000_001_000_u64,
    });
    let (waiting, nothing) = (json!({ "count": 2, "bytes": 99 }), json!({ "count": 0, "bytes": 0 }));
    assert_eq!(known.json(), json!({ "user": "ann", "sessions": [session], "offline": waiting }));
    let stranger = port.call("GET /api/v1/users/stranger?namespace=/", "").await;
    assert_eq!(stranger.json(), json!({ "user": "stranger", "sessions": [], "offline": nothing }));
    assert_eq!(port.calls(), ["offline / ann", "user / ann", "offline / stranger", "user / stranger"]);
    port.end().await;
}

#[tokio::test]
async fn a_message_is_sent_as_it_came() {
    let port = Port::of(Fake::default(), true).await;
    let path = "POST /api/v1/users/a%2Fb/messages";
    let posted = port.call(path, r#"{ "event": "hi" }"#).await;
    assert_eq!((posted.status, posted.json()), (202, json!({ "id": "1700000000000-0", "status": "stored" })));
    // Neither the digits of a number nor the order of fields are lost on the way.
    let data = r#"{"z": 1.50, "a": [12345678901234567890123]}"#;
    let body =
        format!(r#"{{ "namespace": "/chat", "event": "e", "id": "k", "ttl_ms": 1500, "data": {data} }}"#);
    assert_eq!(port.call(path, &body).await.status, 202);
    assert_eq!(
        port.calls(),
        [
            "post / a/b hi null None None".to_owned(),
            format!(r#"post /chat a/b e {data} Some("k") Some(1.5s)"#)
        ]
    );
    for (body, what) in [
        ("{}", "event: must be named"),
        (r#"{ "event": "" }"#, "event: must have 1 to 30 bytes (limits.name_bytes_max)"),
        (r#"{ "event": 1 }"#, "event: must be a text"),
        (r#"{ "event": "e", "id": "" }"#, "id: must have 1 to 30 bytes (limits.name_bytes_max)"),
        (r#"{ "event": "e", "ttl_ms": 0 }"#, "ttl_ms: must be a whole number of milliseconds, at least 1"),
        (r#"{ "event": "e", "ttl_ms": 1.5 }"#, "ttl_ms: must be a whole number of milliseconds, at least 1"),
        (
            r#"{ "event": "e", "args": [] }"#,
            "\"args\": unknown field; there are namespace, event, data, id, ttl_ms",
        ),
    ] {
        assert_eq!(
            port.call(path, body).await.problem(),
            (400, "bad_request".to_owned(), what.to_owned()),
            "{body}"
        );
    }
    let (status, _, detail) = port.call(path, r#"{ "event": "e", "data": 1, "data": 2 }"#).await.problem();
    assert!(status == 400 && detail.starts_with("the body: duplicate field `data`"), "{detail}");
    // A body may be as large as a message can get in JSON.
    let fits = format!(r#"{{ "event": "e", "data": "{}" }}"#, "x".repeat(64 * 1024 + 5_900));
    assert_eq!(port.call(path, &fits).await.status, 202);
    let large = format!(r#"{{ "event": "e", "data": "{}" }}"#, "x".repeat(64 * 1024 + 6_000));
    let (status, code, detail) = port.call(path, &large).await.problem();
    assert_eq!((status, &*code, &*detail), (413, "too_large", "the body may have at most 71536 bytes"));
    port.calls();
    let deleted = port.call("DELETE /api/v1/users/ann/messages?namespace=%2Fchat", "").await;
    assert_eq!((deleted.status, deleted.json()), (200, json!({ "deleted": 3 })));
    assert_eq!(port.calls(), ["clear /chat ann"]);
    port.end().await;
}

#[tokio::test]
async fn what_the_gateway_refuses_is_told_in_its_words() {
    let fault = ControlError::Refused(ErrorCode::OfflineFull, "the inbox holds 5 messages".to_owned());
    let port = Port::of(Fake { fault: Some(fault), ..Fake::default() }, true).await;
    let refused = port.call("POST /api/v1/users/ann/messages", r#"{ "event": "e" }"#).await.problem();
    assert_eq!(refused, (507, "offline_full".to_owned(), "the inbox holds 5 messages".to_owned()));
    port.end().await;
}

#[tokio::test]
async fn names_in_paths_may_hold_anything() {
    let port = Port::of(Fake::default(), false).await;
    for (path, name) in [
        ("a%2Fb", "a/b"),
        ("%2F", "/"),
        ("a%20b+c", "a b+c"),
        ("%C3%A4", "ä"),
        ("a:b@c", "a:b@c"),
        ("..", ".."),
        ("100%25", "100%"),
        ("%7Buser%7D", "{user}"),
    ] {
        let answer = port.call(&format!("GET /api/v1/users/{path}"), "").await;
        assert_eq!(answer.json()["user"], name, "{path}");
        assert_eq!(port.call(&format!("GET /api/v1/rooms/{path}"), "").await.json()["room"], name, "{path}");
    }
    assert_eq!(port.call("GET /api/v1/users/%ff", "").await.problem().0, 400);
    port.end().await;
}

#[tokio::test]
async fn sessions_are_ended() {
    let port = Port::of(Fake::default(), true).await;
    let all = port.call("DELETE /api/v1/users/ann/sessions", "").await;
    assert_eq!((all.status, all.json()), (200, json!({ "evicted": 2 })));
    port.call("DELETE /api/v1/users/a%2Fb/sessions?device=my+phone&namespace=%2Fchat", "").await;
    assert_eq!(port.calls(), ["evict / ann None", "evict /chat a/b Some(\"my phone\")"]);
    port.end().await;
}

#[tokio::test]
async fn lists_come_in_pages() {
    let port = Port::of(Fake::default(), false).await;
    let rooms = port.call("GET /api/v1/rooms", "").await.json();
    let wanted =
        json!({ "rooms": [{ "room": "lobby", "members": 3 }], "missing": ["gw-2"], "next": "4:lobby" });
    assert_eq!(rooms, wanted);
    let members = port.call("GET /api/v1/rooms/lobby?limit=2&after=4%3Alobby", "").await.json();
    assert_eq!(members["room"], "lobby");
    assert_eq!(members["members"][0]["user"], "ann");
    assert_eq!(
        members["members"][1],
        json!({ "session": "a peer's", "user": null, "device": null, "node": null })
    );
    assert_eq!((&members["missing"], &members["next"]), (&json!([]), &Value::Null));
    port.call("GET /api/v1/rooms?limit=1000", "").await;
    assert_eq!(port.calls(), ["rooms / 100 None", "room / lobby 2 Some(\"4:lobby\")", "rooms / 1000 None"]);
    port.end().await;
}

#[tokio::test]
async fn sessions_are_moved_and_disconnected() {
    let port = Port::of(Fake::default(), true).await;
    let body = r#"{ "namespace": "/chat", "users": ["ann", "bob"], "sessions": ["abcdefghij0123456789"] }"#;
    assert_eq!(port.call("POST /api/v1/rooms/a%2Fb/join", body).await.json(), json!({ "matched": 1 }));
    assert_eq!(port.call("POST /api/v1/rooms/r/leave", r#"{ "users": ["ann"] }"#).await.json()["matched"], 1);
    let body = r#"{ "rooms": ["r"], "users": ["ann"], "close": true }"#;
    assert_eq!(port.call("POST /api/v1/disconnect", body).await.json(), json!({ "matched": 7 }));
    assert_eq!(port.call("POST /api/v1/disconnect", r#"{ "rooms": ["r"] }"#).await.status, 200);
    let calls = [
        "join /chat a/b [\"ann\", \"bob\"] [SessionId(abcdefghij0123456789)]",
        "leave / r [\"ann\"] []",
        "disconnect / [Room(\"r\")] [\"ann\"] true",
        "disconnect / [Room(\"r\")] [] false",
    ];
    assert_eq!(port.calls(), calls);
    port.end().await;
}

#[tokio::test]
async fn nodes_are_listed_and_drained() {
    let port = Port::of(Fake::default(), false).await;
    let wanted = json!([{
        "node": "gw-1", "connections": 5, "sessions": 6, "started_at": 1_700_000_000_000_u64, "draining": false,
        "version": "0.1.0",
    }]);
    assert_eq!(port.call("GET /api/v1/nodes", "").await.json(), wanted);
    let drained = port.call("POST /api/v1/drain", "").await;
    assert_eq!((drained.status, drained.json()), (202, json!({ "draining": true })));
    // Clients that cannot post nothing post something.
    assert_eq!(port.call("POST /api/v1/drain", "{}").await.status, 202);
    assert_eq!(port.calls(), ["nodes", "drain", "drain"]);
    port.end().await;
}

#[tokio::test]
async fn what_is_wrong_is_named_with_its_limit() {
    let port = Port::of(Fake::default(), false).await;
    let long = "x".repeat(31);
    let many = format!(r#"{{ "users": [{}] }}"#, vec![r#""u""#; 1001].join(","));
    let long_user = format!(r#"{{ "users": ["ann", "{long}"] }}"#);
    let (read_long, join_long) =
        (format!("GET /api/v1/users/{long}"), format!("POST /api/v1/rooms/{long}/join"));
    let device_long = format!("DELETE /api/v1/users/ann/sessions?device={long}");
    let namespace_long = format!("GET /api/v1/rooms?namespace=/{long}");
    const JOIN: &str = "POST /api/v1/rooms/r/join";
    const DISCONNECT: &str = "POST /api/v1/disconnect";
    for (request, body, detail) in [
        (&*read_long, "", "user: must have 1 to 30 bytes (limits.name_bytes_max)"),
        (&join_long, r#"{ "users": ["ann"] }"#, "room: must have 1 to 30 bytes"),
        (&device_long, "", "device: must have 1 to 30 bytes"),
        ("DELETE /api/v1/users/ann/sessions?device=", "", "device: must have 1 to 30 bytes"),
        (&namespace_long, "", "namespace: must have 1 to 30 bytes"),
        ("GET /api/v1/rooms?namespace=chat", "", "namespace: must be a name that begins with a slash"),
        ("GET /api/v1/rooms?limit=0", "", "limit: must be a whole number from 1 to 1000"),
        ("GET /api/v1/rooms/r?limit=1001", "", "limit: must be a whole number from 1 to 1000"),
        ("GET /api/v1/rooms?after=", "", "after: must be what `next`"),
        (
            "GET /api/v1/rooms?namspace=/",
            "",
            "\"namspace\": unknown query parameter; there are namespace, limit, after",
        ),
        ("GET /api/v1/nodes?limit=1", "", "\"limit\": unknown query parameter; there are none"),
        ("GET /api/v1/rooms?limit=1&limit=2", "", "limit: is given twice"),
        ("GET /api/v1/rooms?namespace=%zz", "", "the query is not percent-encoded UTF-8"),
        (JOIN, &many, "users: may hold at most 1000 entries"),
        (JOIN, &long_user, "users[1]: must have 1 to 30 bytes"),
        (JOIN, r#"{ "users": [""] }"#, "users[0]: must have 1 to 30 bytes"),
        (JOIN, r#"{ "users": "ann" }"#, "users: must be a list of texts"),
        (JOIN, r#"{ "users": null }"#, "users: must be a list of texts"),
        (JOIN, r#"{ "users": ["ann", 5] }"#, "users[1]: must be a text"),
        (JOIN, r#"{ "sessions": ["short"] }"#, "sessions[0]: must be a session id"),
        (JOIN, r#"{ "user": "ann" }"#, "\"user\": unknown field; there are namespace, users, sessions"),
        (JOIN, r#"{ "users": ["ann"], "rooms": ["r"] }"#, "\"rooms\": unknown field"),
        (JOIN, r#"{ "namespace": 5 }"#, "namespace: must be a text"),
        (JOIN, "{}", "users, sessions: at least one must be named"),
        ("POST /api/v1/rooms/r/leave", r#"{ "users": [], "sessions": [] }"#, "users, sessions: at least one"),
        (JOIN, "[]", "the body must be a JSON object"),
        (JOIN, "null", "the body must be a JSON object"),
        (JOIN, "{", "the body is not JSON"),
        (
            "POST /api/v1/rooms/r/join?namespace=/",
            r#"{ "users": ["ann"] }"#,
            "\"namespace\": unknown query parameter",
        ),
        (DISCONNECT, "{}", "rooms, users: at least one must be named"),
        (DISCONNECT, r#"{ "rooms": [], "users": [] }"#, "rooms, users: at least one must be named"),
        (DISCONNECT, r#"{ "users": ["ann"], "close": 1 }"#, "close: must be true or false"),
    ] {
        let (status, code, said) = port.call(request, body).await.problem();
        assert_eq!((status, &*code), (400, "bad_request"), "{request} {body}: {said}");
        assert!(said.starts_with(detail), "{request} {body}: {said}");
    }
    assert_eq!(port.calls(), [""; 0]);
    port.end().await;
}

#[tokio::test]
async fn only_configured_namespaces_exist() {
    let rules = ["/chat", "/team-*"].map(NamespaceRule::new);
    let namespaces = Namespaces::new(rules.into(), false);
    let options = Options {
        api_keys: vec![KEY.to_owned()],
        dev: false,
        name_bytes_max: 30,
        message_bytes_max: 1_000,
        namespaces,
    };
    let port = Port::with(Fake::default(), options).await;
    for (request, body) in [
        ("GET /api/v1/users/ann", ""),
        ("GET /api/v1/rooms?namespace=/other", ""),
        ("POST /api/v1/disconnect", r#"{ "users": ["ann"], "namespace": "/other" }"#),
    ] {
        let (status, code, detail) = port.call(request, body).await.problem();
        assert_eq!((status, &*code), (404, "not_found"), "{request}");
        assert!(detail.starts_with("namespace: there is no /"), "{detail}");
    }
    assert_eq!(port.calls(), [""; 0]);
    port.call("GET /api/v1/users/ann?namespace=/team-7", "").await;
    // What is about no namespace does not need a root.
    assert_eq!(port.call("GET /api/v1/nodes", "").await.status, 200);
    assert_eq!(port.call("POST /api/v1/drain", "").await.status, 202);
    assert_eq!(port.calls(), ["offline /team-7 ann", "user /team-7 ann", "nodes", "drain"]);
    port.end().await;
}

#[tokio::test]
async fn bodies_are_json_of_bounded_size() {
    let port = Port::of(Fake::default(), true).await;
    let body = r#"{ "users": ["ann"] }"#;
    for content_type in
        ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"]
    {
        let (status, code, detail) = port.ask("POST /api/v1/disconnect", content_type, body).await.problem();
        assert_eq!((status, &*code), (415, "bad_request"), "{content_type}");
        assert_eq!(detail, "content-type: must be application/json");
    }
    let with_parameter = "Content-Type: Application/JSON; charset=utf-8\r\n";
    assert_eq!(port.ask("POST /api/v1/disconnect", with_parameter, body).await.status, 200);

    // Spaces do not count for less than names do.
    let padded = |length: usize| format!("{body}{}", " ".repeat(length - body.len()));
    assert_eq!(port.call("POST /api/v1/disconnect", &padded(64 * 1024)).await.status, 200);
    for length in [64 * 1024 + 1, 900_000] {
        let (status, code, detail) = port.call("POST /api/v1/disconnect", &padded(length)).await.problem();
        assert_eq!((status, &*code), (413, "too_large"));
        assert_eq!(detail, "the body may have at most 65536 bytes");
    }
    assert_eq!(port.calls().len(), 2);
    port.end().await;
}

#[tokio::test]
async fn a_node_that_cannot_is_a_problem() {
    let starting = Port::of(Fake { starting: true, ..Fake::default() }, false).await;
    let (status, code, detail) = starting.call("GET /api/v1/nodes", "").await.problem();
    assert_eq!((status, &*code, &*detail), (503, "unavailable", "the node is starting"));
    starting.end().await;

    for (fault, wanted) in [
        (ControlError::NotFound, (404, "not_found", "no such thing")),
        (ControlError::NotEnabled, (404, "not_enabled", "switched off in this namespace")),
        (ControlError::Unavailable, (503, "unavailable", "the cluster did not answer in time")),
        (
            ControlError::BadRequest("after: is no cursor".to_owned()),
            (400, "bad_request", "after: is no cursor"),
        ),
    ] {
        let port = Port::of(Fake { fault: Some(fault), ..Fake::default() }, false).await;
        let (status, code, detail) = port.call("GET /api/v1/rooms", "").await.problem();
        assert_eq!((status, &*code), (wanted.0, wanted.1));
        assert!(detail.starts_with(wanted.2), "{detail}");
        port.end().await;
    }
}
