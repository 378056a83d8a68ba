//! A socketioxide server with the events of Tidegate that the load scenarios use, so that the same tool measures both:
//! `join`, `publish` and `heartbeat`, with the same acknowledgements and the same `meta` behind the data. Everything is
//! as socketioxide and axum have it by default.
//!
//! tidegate-loadtest-socketioxide PORT [--redis URL]
//!
//! With --redis it meets others of its kind by socketioxide-redis.

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::serve::ListenerExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use socketioxide::SocketIo;
use socketioxide::adapter::Adapter;
use socketioxide::extract::{AckSender, Data, SocketRef, TryData};
use socketioxide_redis::drivers::redis::redis_client::Client;
use socketioxide_redis::{RedisAdapter, RedisAdapterCtr};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Deserialize)]
struct Auth {
    user: Option<Arc<str>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Join {
    Named(String),
    InObject { room: String },
}

#[derive(Deserialize)]
struct Publish {
    room: String,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Serialize)]
struct Meta<'a> {
    id: &'a str,
    room: &'a str,
    from: Option<&'a str>,
    node: &'a str,
    ts: u64,
}

struct Node {
    name: String,
    published: AtomicU64,
}

/// This process. Set before it listens.
static NODE: OnceLock<Node> = OnceLock::new();

async fn connected<A: Adapter>(socket: SocketRef<A>, TryData(auth): TryData<Auth>) {
    let user = auth.ok().and_then(|auth| auth.user);
    socket.on("join", joined);
    socket.on(
        "publish",
        async move |socket: SocketRef<A>, Data(publish): Data<Publish>, ack: AckSender<A>| {
            published(&socket, user.as_deref(), publish, ack).await;
        },
    );
    socket.on("heartbeat", heard);
}

async fn joined<A: Adapter>(socket: SocketRef<A>, Data(join): Data<Join>, ack: AckSender<A>) {
    let (Join::Named(room) | Join::InObject { room }) = join;
    socket.join(room);
    ack.send(&json!({ "ok": true })).ok();
}

async fn published<A: Adapter>(
    socket: &SocketRef<A>,
    user: Option<&str>,
    publish: Publish,
    ack: AckSender<A>,
) {
    let Some(node) = NODE.get() else { return };
    let Publish { room, event, data } = publish;
    let id = format!("{}-{}", node.name, node.published.fetch_add(1, Ordering::Relaxed));
    let meta = Meta { id: &id, room: &room, from: user, node: &node.name, ts: now_ms() };
    // To the room without the sender, as Tidegate publishes unless asked to echo.
    let event = event.as_deref().unwrap_or("message");
    if let Err(error) = socket.to(room.clone()).emit(event, &(data, meta)).await {
        eprintln!("publish: {error}");
    }
    ack.send(&json!({ "ok": true, "id": id })).ok();
}

async fn heard<A: Adapter>(ack: AckSender<A>) {
    ack.send(&json!({ "ok": true })).ok();
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (port, redis) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [port] => (port.parse::<u16>(), None),
        [port, "--redis", url] => (port.parse(), Some(url)),
        _ => ("".parse(), None),
    };
    let Ok(port) = port else {
        eprintln!("usage: tidegate-loadtest-socketioxide PORT [--redis URL]");
        return Ok(ExitCode::from(64));
    };

    NODE.get_or_init(|| Node {
        name: format!("{:08x}", std::process::id() ^ now_ms() as u32),
        published: AtomicU64::new(0),
    });
    let router = match redis {
        None => {
            let (layer, io) = SocketIo::new_layer();
            io.ns("/", connected);
            Router::new().layer(layer)
        }
        Some(url) => {
            let adapter =
                RedisAdapterCtr::new_with_redis(&Client::open(format!("{url}?protocol=resp3"))?).await?;
            let (layer, io) = SocketIo::builder().with_adapter::<RedisAdapter<_>>(adapter).build_layer();
            io.ns("/", connected).await?;
            Router::new().layer(layer)
        }
    };

    let listener = TcpListener::bind(("127.0.0.1", port)).await?.tap_io(|stream| {
        stream.set_nodelay(true).ok();
    });
    println!("ready on {port}");
    let mut stop = signal(SignalKind::terminate())?;
    tokio::select! {
        served = axum::serve(listener, router) => served?,
        _ = stop.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}
