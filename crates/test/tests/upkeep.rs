//! What a node does for the registry beside its clients' business: it finds out what the registry has lost, and what it
//! does for other nodes does not keep it from its own.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, BoxFuture, FutureExt as _, join_all};
use serde_json::json;
use tidegate_client::{Client, Value};
use tidegate_core::memory::Exchange;
use tidegate_core::registry::{
    Announce, Claim, ClaimError, Claimed, Error, Gone, Listed, NodeRow, Occupied, Own, Page, Place, Refresh,
    Row, SessionRegistry, Stay, Tended, Verdict,
};
use tidegate_core::{ClaimId, Namespace, Room};
use tidegate_gateway::namespaces::{NamespaceRule, Namespaces};
use tidegate_gateway::{Joining, Options};
use tidegate_test::cluster::{Cluster, PATIENCE, Server, ask_ok, options, retried, within};
use tidegate_test::lying::Lies;
use tidegate_test::redis_server::RedisServer;
use tokio::sync::Notify;

async fn login(server: &Server, user: &str) -> Client {
    let auth = Value::from(json!({ "user": user, "device": "d" }));
    let client = Client::connect(server.client().auth(auth), "/").await.unwrap();
    ask_ok(client.socket(), "join", json!("r")).await;
    client
}

/// More clients than are checked one by one in the time that the test has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_was_emptied_unnoticed_is_told_everything_soon() {
    let server = RedisServer::start();
    let cluster = Cluster::at(server.url());
    let mut slow = options("a");
    slow.pulse.lease_renew = Duration::from_secs(1);
    slow.namespaces =
        Namespaces::new(vec![NamespaceRule { presence: true, ..NamespaceRule::new("/") }], true);
    let a = cluster.add(slow).await;
    let count = usize::try_from(PATIENCE.as_secs()).unwrap() * 3;
    let names: Vec<_> = (0..count).map(|number| format!("u{number}")).collect();
    let clients = join_all(names.iter().map(|user| login(&a, user))).await;

    // No connection breaks, and no pulse is lost.
    let _: String = server.ask(&["FLUSHALL"]).await;
    retried("everybody to be in the room again", async || {
        let told = ask_ok(clients[0].socket(), "presence", json!({ "room": "r" })).await;
        let listed = told["users"].as_array().unwrap().len();
        if listed == count { Ok(()) } else { Err(format!("{listed} of {count}")) }
    })
    .await;
    let place = |user: &String| Place { namespace: Namespace::root(), user: user.as_str().into() };
    for user in &names {
        assert_eq!(a.node.sessions_of(place(user)).await.unwrap().len(), 1, "{user}");
    }
    cluster.shutdown().await;
}

/// A registry that never ends taking over from others.
struct Stuck {
    truth: Arc<dyn SessionRegistry>,
    reaping: Arc<Notify>,
}

impl SessionRegistry for Stuck {
    fn tend(&self, reap: Option<Announce>) -> BoxFuture<'static, Result<Tended, Error>> {
        if reap.is_none() {
            return self.truth.tend(None);
        }
        self.reaping.notify_one();
        future::pending().boxed()
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'static, Result<Claimed, ClaimError>> {
        self.truth.claim(claim)
    }

    fn check(&self, held: Vec<Claim>, restore: bool) -> BoxFuture<'static, Result<Vec<Verdict>, Error>> {
        self.truth.check(held, restore)
    }

    fn release(&self, gone: Vec<Gone>) -> BoxFuture<'static, Result<(), Error>> {
        self.truth.release(gone)
    }

    fn kick(
        &self,
        place: Place,
        device: Option<Arc<str>>,
        confirm: ClaimId,
    ) -> BoxFuture<'static, Result<Vec<Row>, Error>> {
        self.truth.kick(place, device, confirm)
    }

    fn refresh(&self, changed: Vec<Refresh>) -> BoxFuture<'static, Result<(), Error>> {
        self.truth.refresh(changed)
    }

    fn find(&self, places: Vec<Place>) -> BoxFuture<'static, Result<Vec<Vec<Row>>, Error>> {
        self.truth.find(places)
    }

    fn enter(&self, stays: Vec<Stay>, announce: Option<Announce>) -> BoxFuture<'static, Result<(), Error>> {
        self.truth.enter(stays, announce)
    }

    fn depart(&self, stays: Vec<Stay>, announce: Announce) -> BoxFuture<'static, Result<(), Error>> {
        self.truth.depart(stays, announce)
    }

    fn members(
        &self,
        namespace: Namespace,
        room: Room,
        page: Page,
    ) -> BoxFuture<'static, Result<Listed<Stay>, Error>> {
        self.truth.members(namespace, room, page)
    }

    fn rooms(&self, namespace: Namespace, page: Page) -> BoxFuture<'static, Result<Listed<Occupied>, Error>> {
        self.truth.rooms(namespace, page)
    }

    fn nodes(&self) -> BoxFuture<'static, Result<Vec<NodeRow>, Error>> {
        self.truth.nodes()
    }

    fn own(&self) -> BoxFuture<'static, Result<Own, Error>> {
        self.truth.own()
    }

    fn held(&self) -> BoxFuture<'static, Result<Vec<Gone>, Error>> {
        self.truth.held()
    }

    fn stays(&self) -> BoxFuture<'static, Result<Vec<Stay>, Error>> {
        self.truth.stays()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.truth.close()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_takes_over_from_another_still_recovers_from_its_own_deafness() {
    let exchange = Exchange::new();
    let lies = Lies::new();
    let mut quick: Options = options("a");
    // It reaps once it has been fresh for as long as a lease lives.
    quick.pulse.lease_ttl = Duration::from_millis(100);
    quick.pulse.lease_renew = Duration::from_millis(50);
    let (id, incarnation, fence_after) =
        (quick.node.clone(), quick.incarnation.clone(), quick.pulse.fence_after);
    let joining = Joining::new(quick, 2).unwrap();
    let reaping = Arc::new(Notify::new());
    let truth = exchange.registry(id.clone(), incarnation.clone(), fence_after);
    let offline =
        exchange.offline(id.clone(), incarnation.clone(), tidegate_core::offline::Quotas::default());
    let registry = Arc::new(Stuck { truth, reaping: Arc::clone(&reaping) });
    let broker = lies.join(&exchange, id, incarnation, joining.subscriber());
    let node = joining.start(broker, registry, offline, PATIENCE).await.unwrap();
    within("it to take over from others", reaping.notified()).await;

    lies.lost();
    assert!(node.readiness().is_err());
    lies.whole(2);
    retried("the node to hear again", async || node.readiness().map_err(|reasons| reasons.join(", "))).await;
}
