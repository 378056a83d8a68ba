//! Clients of the plain protocol on whole nodes, joined in memory and over a real Redis. What is said to them and when
//! connections end is judged in `interop`; here it is whether every broker gives them everything, once and in order.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::collections::VecDeque;

use futures_util::future::join_all;
use serde_json::json;
use tidegate_client::plain::{Connection, Format, Server as Address, decode};
use tidegate_client::{Client, Value};
use tidegate_test::cluster::{Backend, Cluster, Server, ask_ok, connect, next, within};

tidegate_test::on_both! {
    a_user_is_one_user_in_both_protocols,
    everybody_gets_everything_once_and_in_order,
}

/// A connection, and what it was told and nobody has looked at.
struct Plain {
    connection: Connection,
    told: VecDeque<Value>,
}

impl Plain {
    async fn enter(server: &Server, format: Format, auth: serde_json::Value) -> Self {
        let address = Address::new(&server.client(), format).unwrap();
        let connected =
            within("connected", async { Connection::connect(&address, Some(&auth.into())).await });
        Self { connection: connected.await.unwrap(), told: VecDeque::new() }
    }

    /// The next message; none once the connection has ended.
    async fn next(&mut self) -> Option<Value> {
        let Self { connection, told } = self;
        let format = connection.format();
        within("a message", async {
            while told.is_empty() {
                if connection.read(|message| told.extend(decode(format, message))).await.is_err() {
                    break;
                }
            }
            told.pop_front()
        })
        .await
    }

    /// Asks, and waits for the yes. Nothing else may come before it.
    async fn ask_ok(&mut self, message: serde_json::Value) {
        self.connection.push(&message.clone().into());
        let reply = self.next().await.unwrap();
        assert_eq!(reply["ok"], Value::Bool(true), "{message} was answered {reply:?}");
    }
}

async fn everybody_gets_everything_once_and_in_order(backend: Backend) {
    const COUNT: i64 = 1_000;
    let (cluster, a, b) = Cluster::pair(backend).await;
    let mut plain = Vec::new();
    for server in [&a, &b] {
        for format in Format::ALL {
            let mut member = Plain::enter(server, format, json!({})).await;
            member.ask_ok(json!({ "op": "join", "room": "r", "id": 0 })).await;
            plain.push(member);
        }
    }
    let socket = b.websocket().await;
    ask_ok(socket.socket(), "join", "r").await;
    for format in Format::ALL {
        let mut publisher = Plain::enter(&a, format, json!({ "user": "ann" })).await;
        for number in 0..COUNT {
            publisher
                .connection
                .push(&json!({ "op": "publish", "room": "r", "event": "n", "data": number }).into());
            if number % 50 == 0 {
                publisher.connection.flush().await.unwrap();
            }
        }
        publisher.ask_ok(json!({ "op": "heartbeat", "id": 1 })).await;
        join_all(plain.iter_mut().map(|member| async move {
            for number in 0..COUNT {
                let event = member.next().await.unwrap();
                assert_eq!(event["args"], Value::Array(vec![Value::Int(number)]));
                assert_eq!(event["meta"]["from"], "ann");
            }
        }))
        .await;
        for number in 0..COUNT {
            assert_eq!(next(socket.socket()).await.args[0], Value::Int(number));
        }
    }
    // The other way: everybody in every form at once, and nothing that came twice before it.
    ask_ok(socket.socket(), "publish", json!({ "room": "r", "event": "end", "data": [1, null] })).await;
    for member in &mut plain {
        let event = member.next().await.unwrap();
        assert_eq!((&event["event"], &event["args"][0]), (&"end".into(), &json!([1, null]).into()));
    }
    cluster.shutdown().await;
}

async fn a_user_is_one_user_in_both_protocols(backend: Backend) {
    let (cluster, a, b) = Cluster::pair(backend).await;
    let auth = || json!({ "user": "ann", "device": "phone" });
    let login = async |server: &Server| -> Client { connect(server.client().auth(auth()), "/").await };
    for format in Format::ALL {
        let mut plain = Plain::enter(&a, format, auth()).await;
        let socket = login(&b).await;
        let told = plain.next().await.unwrap();
        assert_eq!((&told["op"], &told["reason"]), (&"evicted".into(), &"replaced".into()));
        assert_eq!(plain.next().await, None, "the connection ends");

        let mut again = Plain::enter(&a, format, auth()).await;
        let evicted = next(socket.socket()).await;
        assert_eq!((evicted.name.as_str(), &evicted.args[0]["reason"]), ("evicted", &"replaced".into()));
        again.ask_ok(json!({ "op": "heartbeat", "id": 1 })).await;
        socket.close().await;
    }
    cluster.shutdown().await;
}
