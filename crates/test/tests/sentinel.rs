//! Nodes that reach Redis by way of sentinels, through a failover.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::time::Duration;

use serde_json::json;
use tidegate_client::{Client, Reason, Value};
use tidegate_gateway::{Options, PulseOptions};
use tidegate_test::cluster::{Cluster, Server, ask_ok, eventually, next, options, retried, within};
use tidegate_test::sentinels::Sentinels;

fn brisk(name: &str) -> Options {
    let pulse = PulseOptions {
        interval: Duration::from_millis(100),
        fence_after: Duration::from_secs(2),
        lease_ttl: Duration::from_secs(6),
        lease_renew: Duration::from_millis(500),
        hold: Duration::from_secs(10),
    };
    Options { pulse, ..options(name) }
}

async fn login(server: &Server, user: &str) -> Client {
    let auth = Value::from(json!({ "user": user }));
    retried("to be let in", || Client::connect(server.client().auth(auth.clone()), "/")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_the_master() {
    let mut redis = Sentinels::start().await;
    let cluster = Cluster::at(redis.url());
    let (a, b) = (cluster.add(brisk("a")).await, cluster.add(brisk("b")).await);
    let (ann, bob) = (login(&a, "ann").await, login(&b, "bob").await);
    for client in [&ann, &bob] {
        ask_ok(client.socket(), "join", "r").await;
    }

    redis.kill_master();
    for server in [&a, &b] {
        eventually("the master to be missed", || server.node.readiness().is_err()).await;
    }
    for server in [&a, &b] {
        eventually("the new master to be found", || server.node.readiness().is_ok()).await;
    }
    // Nobody was sent away, and everybody is reached.
    let message = json!({ "room": "r", "data": "after" });
    ask_ok(bob.socket(), "publish", message).await;
    assert_eq!(next(ann.socket()).await.args[0], "after");
    // The new master knows who has which place.
    let newcomer = login(&b, "ann").await;
    let told = next(ann.socket()).await;
    assert_eq!((told.name.as_str(), &told.args[0]["reason"]), ("evicted", &Value::from("replaced")));
    assert_eq!(within("the end", ann.socket().ended()).await, Reason::IoServerDisconnect);
    ask_ok(newcomer.socket(), "heartbeat", json!({})).await;
    cluster.shutdown().await;
}
