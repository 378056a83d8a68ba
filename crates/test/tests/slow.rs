//! Some of a busy room stop reading: they cost what their budgets allow and are closed for it, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use serde_json::json;
use tidegate_client::raw::{self, Message};
use tidegate_client::{Parser, Reason, Transports, Value};
use tidegate_test::cluster::{Backend, Cluster, Server, ask_ok, connect, next, options, within};
use tokio::task::JoinSet;

tidegate_test::on_both! {
    those_who_do_not_read_cost_their_budgets_and_nobody_else_anything,
}

const SLOW_CONSUMERS: &str = "tidegate_disconnects_total{reason=\"slow consumer\"}";
const OUTBOX_BYTES: &str = "tidegate_outbox_bytes";

/// What each connection may have waiting.
const BUDGET: i64 = 256 * 1024;
const READERS: usize = 12;
const SLEEPERS: usize = 8;
/// Of each message. Some hundred of them are more than the system and a budget take for one who does not read.
const BYTES: usize = 60_000;
/// More messages than that.
const MESSAGES_MAX: i64 = 2_000;

/// One that has joined and will read nothing more, until it is told to read everything.
async fn sleeper(server: &Server, parser: Parser) -> raw::Connection {
    let server = raw::Server::new(&server.client().parser(parser)).unwrap();
    let mut sleeper = within("a connection", raw::Connection::connect(&server, "/", None)).await.unwrap();
    // So that the system holds little of what it does not read.
    sleeper.set_receive_buffer(64 * 1024).unwrap();
    sleeper.emit("/", "join", &["r".into()], Some(0));
    let mut is_joined = false;
    while !is_joined {
        within("the join", sleeper.read(|_| is_joined = true)).await.unwrap();
    }
    sleeper
}

/// Reads on to the end, and returns how many messages there were and why no more.
async fn wake(sleeper: &mut raw::Connection) -> (i64, Reason) {
    let mut heard = 0;
    loop {
        let read = sleeper.read(|message| {
            // With the default parser, where what is said can be looked at without decoding it, in order as well.
            if let Message::Text(text) = message {
                let start = format!(r#"2["message",{{"number":{heard},"#);
                assert!(text.starts_with(&start), "{start} expected, {text:.60} found");
            }
            heard += 1;
        });
        if let Err(reason) = within("the end", read).await {
            return (heard, reason);
        }
    }
}

async fn those_who_do_not_read_cost_their_budgets_and_nobody_else_anything(backend: Backend) {
    let cluster = Cluster::new(backend);
    let a = cluster.add(options("a")).await;
    let mut limited = options("b");
    limited.limits.outbox_bytes_max = usize::try_from(BUDGET).unwrap();
    let b = cluster.add(limited).await;

    let publisher = a.websocket().await;
    let parsers = || [Parser::Text, Parser::MessagePack].into_iter().cycle();
    let readers = parsers().take(READERS).map(|parser| {
        let options = b.client().parser(parser).transports(Transports::WebSocket);
        async move {
            let reader = connect(options, "/").await;
            ask_ok(reader.socket(), "join", "r").await;
            reader
        }
    });
    let readers = join_all(readers).await;
    let mut sleepers = join_all(parsers().take(SLEEPERS).map(|parser| sleeper(&b, parser))).await;

    // Looks at any time, and not only between two messages.
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, looked_at) = (Arc::clone(&is_over), b.clone());
    let mut watch = JoinSet::new();
    watch.spawn(async move {
        let mut most = 0;
        while !over.load(Ordering::Relaxed) {
            most = most.max(looked_at.metric(OUTBOX_BYTES));
            tokio::task::yield_now().await;
        }
        most
    });

    let mut most_kept = 0;
    let mut said = 0;
    while b.metric(SLOW_CONSUMERS) < i64::try_from(SLEEPERS).unwrap() {
        assert!(said < MESSAGES_MAX, "{} are closed", b.metric(SLOW_CONSUMERS));
        let data = json!({ "number": said, "padding": "x".repeat(BYTES) });
        ask_ok(publisher.socket(), "publish", json!({ "room": "r", "data": data })).await;
        for reader in &readers {
            let heard = next(reader.socket()).await;
            assert_eq!(heard.args[0]["number"], Value::Int(said), "everybody else gets everything in order");
        }
        // Now nothing waits but for those who do not read.
        most_kept = most_kept.max(b.metric(OUTBOX_BYTES));
        said += 1;
    }
    is_over.store(true, Ordering::Relaxed);
    let most = within("the watch", watch.join_next()).await.unwrap().unwrap();
    let budgets = |connections: usize| i64::try_from(connections).unwrap() * BUDGET;
    assert!((1..=budgets(SLEEPERS)).contains(&most_kept), "{most_kept} bytes");
    assert!(most <= budgets(SLEEPERS + READERS), "{most} bytes");

    b.until_metric(OUTBOX_BYTES, 0).await;
    b.until_metric("tidegate_sessions{namespace=\"/\"}", i64::try_from(READERS).unwrap()).await;
    for reason in ["transport close", "transport error", "ping timeout"] {
        assert_eq!(b.metric(&format!("tidegate_disconnects_total{{reason=\"{reason}\"}}")), 0, "{reason}");
    }
    for (heard, reason) in join_all(sleepers.iter_mut().map(wake)).await {
        assert!((1..said).contains(&heard), "{heard} of {said}");
        assert!(matches!(reason, Reason::TransportClose | Reason::TransportError), "{reason}");
    }
    cluster.shutdown().await;
}
