//! The admin port over real connections, with a node behind it that only writes down what it is asked.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod access;
mod conformance;
mod requests;

use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tidegate_core::registry::{Page, Place, Transport};
use tidegate_core::{Namespace, NodeId, Room, SessionId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;

const KEY: &str = "0123456789abcdef-key";

/// A node that does nothing and can say so in several ways.
#[derive(Default)]
struct Fake {
    /// Why it is not ready, if it is not.
    reasons: Vec<String>,
    /// Whether it still starts.
    starting: bool,
    /// What it refuses everything with.
    fault: Option<ControlError>,
    /// What it was asked.
    calls: Mutex<Vec<String>>,
}

/// What a fake answers: it can be told to refuse only where a node can.
type Answer<T> = BoxFuture<'static, Result<T, ControlError>>;

impl Fake {
    fn answer<T: Send + 'static>(&self, call: String, view: T) -> Answer<T> {
        self.calls.lock().unwrap().push(call);
        let fault = self.fault.clone();
        Box::pin(async move { fault.map_or(Ok(view), Err) })
    }
}

impl Control for Arc<Fake> {
    fn user(&self, place: Place) -> Answer<Vec<SessionView>> {
        let view = SessionView {
            session: SessionId::parse("abcdefghij0123456789").unwrap(),
            device: "phone".into(),
            node: NodeId::parse("gw-1").unwrap(),
            transport: Transport::WebSocket,
            connected_at_ms: 1_700_000_000_000,
            seen_at_ms: 1_700_000_001_000,
        };
        let sessions = if &*place.user == "stranger" { Vec::new() } else { vec![view] };
        self.answer(format!("user {} {}", place.namespace, place.user), sessions)
    }

    fn offline(&self, place: Place) -> Answer<OfflineView> {
        let view = if &*place.user == "stranger" {
            OfflineView::default()
        } else {
            OfflineView { count: 2, bytes: 99 }
        };
        self.answer(format!("offline {} {}", place.namespace, place.user), view)
    }

    fn post(&self, letter: Letter) -> Answer<PostedView> {
        let Letter { to, event, data, id, ttl } = letter;
        let call = format!("post {} {} {event} {data} {id:?} {ttl:?}", to.namespace, to.user);
        self.answer(call, PostedView { id: "1700000000000-0".to_owned(), status: "stored" })
    }

    fn clear(&self, place: Place) -> Answer<u64> {
        self.answer(format!("clear {} {}", place.namespace, place.user), 3)
    }

    fn evict(&self, place: Place, device: Option<Arc<str>>) -> Answer<u64> {
        self.answer(format!("evict {} {} {device:?}", place.namespace, place.user), 2)
    }

    fn rooms(&self, namespace: Namespace, page: Page) -> Answer<RoomsView> {
        let view = RoomsView {
            rooms: vec![OccupiedView { room: Room::from("lobby"), members: 3 }],
            missing: vec!["gw-2".to_owned()],
            next: Some("4:lobby".to_owned()),
        };
        self.answer(format!("rooms {namespace} {} {:?}", page.limit, page.after), view)
    }

    fn room(&self, namespace: Namespace, room: Room, page: Page) -> Answer<RoomView> {
        let known = MemberView {
            session: "abcdefghij0123456789".to_owned(),
            user: Some("ann".into()),
            device: Some("phone".into()),
            node: NodeId::parse("gw-1").ok(),
        };
        let peer = MemberView { session: "a peer's".to_owned(), user: None, device: None, node: None };
        let view = RoomView { members: vec![known, peer], ..RoomView::default() };
        self.answer(format!("room {namespace} {room} {} {:?}", page.limit, page.after), view)
    }

    fn join(&self, namespace: Namespace, room: Room, chosen: Chosen) -> Answer<u64> {
        self.answer(format!("join {namespace} {room} {:?} {:?}", chosen.users, chosen.sessions), 1)
    }

    fn leave(&self, namespace: Namespace, room: Room, chosen: Chosen) -> Answer<u64> {
        self.answer(format!("leave {namespace} {room} {:?} {:?}", chosen.users, chosen.sessions), 1)
    }

    fn disconnect(
        &self,
        namespace: Namespace,
        rooms: Vec<Room>,
        users: Vec<Arc<str>>,
        close: bool,
    ) -> Answer<u64> {
        self.answer(format!("disconnect {namespace} {rooms:?} {users:?} {close}"), 7)
    }

    fn nodes(&self) -> Answer<Vec<NodeView>> {
        let view = NodeView {
            node: NodeId::parse("gw-1").unwrap(),
            connections: 5,
            sessions: 6,
            started_at_ms: 1_700_000_000_000,
            draining: false,
            version: "0.1.0".into(),
        };
        self.answer("nodes".to_owned(), vec![view])
    }

    fn drain(&self) {
        self.calls.lock().unwrap().push("drain".to_owned());
    }
}

impl Status for Arc<Fake> {
    fn readiness(&self) -> Result<(), Vec<String>> {
        if self.reasons.is_empty() { Ok(()) } else { Err(self.reasons.clone()) }
    }

    fn metrics(&self) -> String {
        "tidegate_broker_up 1\n".to_owned()
    }

    fn control(&self) -> Option<Arc<dyn Control>> {
        (!self.starting).then(|| Arc::new(Arc::clone(self)) as _)
    }
}

/// An admin port with its node.
struct Port {
    fake: Arc<Fake>,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    server: JoinSet<()>,
}

/// What one was answered.
struct Answered {
    status: u16,
    head: String,
    body: String,
}

impl Port {
    /// One that wants [`KEY`], or none under `--dev`.
    async fn of(fake: Fake, dev: bool) -> Self {
        let api_keys = if dev { Vec::new() } else { vec!["another-key-of-ours".to_owned(), KEY.to_owned()] };
        Self::with(
            fake,
            Options {
                api_keys,
                dev,
                name_bytes_max: 30,
                message_bytes_max: 1_000,
                namespaces: Namespaces::new(Vec::new(), dev),
            },
        )
        .await
    }

    async fn with(fake: Fake, options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop, fake) =
            (listener.local_addr().unwrap(), CancellationToken::new(), Arc::new(fake));
        let mut server = JoinSet::new();
        let router = router(Arc::new(Arc::clone(&fake)), options);
        server.spawn(serve(listener, router, stop.clone()));
        Self { fake, address, stop, server }
    }

    /// Asks with these header lines, each ended, and this body.
    async fn ask(&self, request: &str, headers: &str, body: &str) -> Answered {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head =
            format!("{request} HTTP/1.1\r\nHost: admin:8081\r\nConnection: close\r\n{headers}{length}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let reading = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("an answer").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answered { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// Asks the API as somebody who may, with a body in JSON where there is one.
    async fn call(&self, request: &str, body: &str) -> Answered {
        let json = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        self.ask(request, &format!("Authorization: Bearer {KEY}\r\n{json}"), body).await
    }

    /// What the node was asked since the last time.
    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.fake.calls.lock().unwrap())
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.server.join_all()).await.expect("the server stops");
    }
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|fault| panic!("{fault}: {}", self.body))
    }

    /// Status, code and detail of a refusal, which is a problem document.
    fn problem(&self) -> (u16, String, String) {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let (body, text) =
            (self.json(), |field: &str| self.json()[field].as_str().unwrap_or_default().to_owned());
        assert_eq!(body["status"], self.status, "{body}");
        (self.status, text("code"), text("detail"))
    }
}

#[tokio::test]
async fn a_ready_node() {
    let port = Port::of(Fake::default(), false).await;
    let healthy = port.ask("GET /healthz", "", "").await;
    assert_eq!((healthy.status, &*healthy.body), (200, "ok"));
    let ready = port.ask("GET /readyz", "", "").await;
    assert_eq!((ready.status, &*ready.body), (200, "{\"ready\":true}"));
    let head = port.ask("HEAD /readyz", "", "").await;
    assert_eq!((head.status, &*head.body), (200, ""));
    let metrics = port.ask("GET /metrics", "", "").await;
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    assert_eq!(metrics.body, "tidegate_broker_up 1\n");
    // An idle connection must not keep the server.
    let idle = TcpStream::connect(port.address).await.unwrap();
    port.end().await;
    drop(idle);
}

#[tokio::test]
async fn a_node_that_is_not_ready_lives_and_says_why() {
    let port = Port::of(Fake { reasons: vec!["draining".to_owned()], ..Fake::default() }, false).await;
    let ready = port.ask("GET /readyz", "", "").await;
    assert_eq!((ready.status, &*ready.body), (503, "{\"ready\":false,\"reasons\":[\"draining\"]}"));
    assert_eq!(port.ask("GET /healthz", "", "").await.status, 200);
    port.end().await;
}

#[tokio::test]
async fn everything_else_is_a_problem_document() {
    let port = Port::of(Fake::default(), false).await;
    for request in
        ["GET /", "GET /api", "GET /api/v2/nodes", "GET /api/v1", "GET /api/v1/", "GET /api/v1/none"]
    {
        let (status, code, _) = port.call(request, "").await.problem();
        assert_eq!((status, &*code), (404, "not_found"), "{request}");
    }
    for request in ["POST /readyz", "PUT /api/v1/nodes", "POST /api/v1/users/ann", "OPTIONS /api/v1/nodes"] {
        let (status, code, _) = port.call(request, "").await.problem();
        assert_eq!((status, &*code), (405, "bad_request"), "{request}");
    }
    // What later versions answer.
    assert_eq!(port.call("POST /api/v1/publish", "").await.problem().0, 404);
    port.end().await;
}
