//! What unit tests of a whole node need: one in memory, sessions seated by hand, and a registry that fails on demand.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use tidegate_core::memory::Exchange;
use tidegate_core::offline::Quotas;
use tidegate_core::registry::{
    Announce, Claim, ClaimError, Claimed, Error, Gone, Listed, NodeRow, Occupied, Own, Page, Place, Refresh,
    Row, Stay, Tended, Verdict,
};
use tidegate_core::{ClaimId, Incarnation, Namespace, NodeId, Room, SessionId, SessionRegistry};
use tidegate_protocol::socketio::Parser;

use crate::auth::{Authenticator, Grants, Identity};
use crate::dialect::Dialect;
use crate::enrolment::Entrant;
use crate::message::Message;
use crate::namespaces::{NamespaceRule, Namespaces};
use crate::node::{Inner, Joining, Node};
use crate::options::{
    DrainOptions, EngineOptions, Limits, OfflineOptions, Options, PulseOptions, ServerOptions,
};
use crate::outbox::Outbox;
use crate::session::Session;

/// Longer than anything takes that is not broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A node in memory. Every namespace keeps presence.
pub(crate) struct Rig {
    pub(crate) node: Node,
    pub(crate) registry: Arc<Flaky>,
}

impl Rig {
    pub(crate) async fn start(exchange: &Exchange, name: &str) -> Self {
        Self::start_with(exchange, options(name)).await
    }

    pub(crate) async fn start_with(exchange: &Exchange, options: Options) -> Self {
        let (id, incarnation) = (options.node.clone(), options.incarnation.clone());
        let joining = Joining::new(options, 1).unwrap();
        let truth = exchange.registry(id.clone(), incarnation.clone(), Duration::from_secs(10));
        let registry = Arc::new(Flaky {
            truth,
            claims: Arc::default(),
            meanwhile: Mutex::default(),
            failing: Mutex::default(),
            unanswered: Mutex::default(),
        });
        let offline = exchange.offline(id.clone(), incarnation.clone(), Quotas::default());
        let broker = exchange.join(id, incarnation, joining.subscriber());
        let node = joining.start(broker, Arc::clone(&registry) as _, offline, PATIENCE).await.unwrap();
        Self { node, registry }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.node.0
    }

    /// Lets a user in, as a CONNECT does.
    pub(crate) async fn seat(&self, user: &str) -> Arc<Session> {
        self.seat_until(user, None).await
    }

    /// The same with a token that expires then, in Unix seconds.
    pub(crate) async fn seat_until(&self, user: &str, expires_at: Option<u64>) -> Arc<Session> {
        let node = self.inner();
        let namespace = Namespace::root();
        let entrant = Entrant {
            id: SessionId::random(),
            rule: node.rule(&namespace).unwrap(),
            namespace,
            identity: Identity {
                user: Some(user.into()),
                device: "d".into(),
                grants: Arc::new(Grants::all()),
                expires_at: expires_at.and_then(NonZeroU64::new),
            },
            resumes: None,
        };
        let outbox = Arc::new(Outbox::polling(Arc::clone(&node.terms)));
        let Ok(enrolled) = node.enrol(entrant, &outbox, node.pulse.lapse()).await else {
            panic!("{user} is turned away")
        };
        node.connect(0, &outbox, Dialect::SocketIo(Parser::Text), &Message::engine("40"), enrolled)
    }

    /// Lets a session join a room.
    pub(crate) async fn join(&self, session: &Arc<Session>, room: &str) {
        let (done, joined) = tokio::sync::oneshot::channel();
        self.inner().join_then(session, room.into(), |outcome| done.send(outcome).unwrap());
        joined.await.unwrap().unwrap();
    }

    /// The users of a room, as anybody is told.
    pub(crate) async fn users_in(&self, room: &str) -> Vec<String> {
        let page = Page { after: None, limit: 1_000 };
        let listed = self.registry.truth.members(Namespace::root(), room.into(), page).await.unwrap();
        listed.items.iter().map(|stay| stay.user.to_string()).collect()
    }
}

pub(crate) fn options(name: &str) -> Options {
    let rule = NamespaceRule { presence: true, ..NamespaceRule::new("/") };
    Options {
        node: NodeId::parse(name).unwrap(),
        incarnation: Incarnation::random(),
        engine: EngineOptions {
            path: "/socket.io/".to_owned(),
            ping_interval: PATIENCE,
            ping_timeout: PATIENCE,
            connect_timeout: PATIENCE,
            upgrade_timeout: PATIENCE,
            payload_bytes_max: 1_000_000,
            polling: true,
            websocket: true,
        },
        server: ServerOptions {
            tls: None,
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            connections_max: 100,
            page: None,
        },
        limits: Limits {
            outbox_bytes_max: 1 << 20,
            rooms_per_session_max: 10,
            name_bytes_max: 256,
            events_per_second_max: 0,
            events_burst: 400,
            connections_per_ip_max: 0,
        },
        auth: Authenticator::Open,
        namespaces: Namespaces::new(vec![rule], true),
        pulse: PulseOptions {
            interval: Duration::from_millis(20),
            fence_after: Duration::from_secs(10),
            lease_ttl: PATIENCE,
            lease_renew: Duration::from_millis(50),
            hold: Duration::from_secs(10),
        },
        offline: OfflineOptions { message_bytes_max: 1 << 16, window: 32, quotas: Quotas::default() },
        tracer: None,
        drain: DrainOptions { timeout: Duration::from_secs(1), connections_per_second: 0 },
        version: "test".to_owned(),
        revision: "test".to_owned(),
    }
}

/// The registry in memory, of which some verbs can be made to fail.
pub(crate) struct Flaky {
    truth: Arc<dyn SessionRegistry>,
    /// Claims wait while somebody else has it.
    pub(crate) claims: Arc<tokio::sync::RwLock<()>>,
    /// What happens while somebody asks for what is held here.
    pub(crate) meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// Verbs, and how often each still fails.
    failing: Mutex<Vec<(&'static str, usize)>>,
    /// A verb that is carried out and not answered, once.
    unanswered: Mutex<Option<&'static str>>,
}

impl Flaky {
    /// Makes the next calls of a verb fail.
    pub(crate) fn fail(&self, verb: &'static str, times: usize) {
        self.failing.lock().push((verb, times));
    }

    /// Carries the next call of a verb out, and loses the answer.
    pub(crate) fn lose_answer(&self, verb: &'static str) {
        *self.unanswered.lock() = Some(verb);
    }

    /// Lets nothing fail any more.
    pub(crate) fn heal(&self) {
        self.failing.lock().clear();
    }

    /// Whether all failures that were ordered have happened.
    pub(crate) fn has_failed(&self) -> bool {
        self.unanswered.lock().is_none() && self.failing.lock().iter().all(|(_, times)| *times == 0)
    }

    fn or_fail<T: Send + 'static>(
        &self,
        verb: &str,
        ask: impl FnOnce(&dyn SessionRegistry) -> BoxFuture<'static, Result<T, Error>>,
    ) -> BoxFuture<'static, Result<T, Error>> {
        let fails = self.failing.lock().iter_mut().any(|(failing, times)| {
            let fails = *failing == verb && *times > 0;
            *times -= usize::from(fails);
            fails
        });
        if fails {
            return future::ready(Err(Error)).boxed();
        }
        let answer = ask(&*self.truth);
        let is_lost = self.unanswered.lock().take_if(|unanswered| *unanswered == verb).is_some();
        async move { if is_lost { answer.await.and(Err(Error)) } else { answer.await } }.boxed()
    }
}

impl SessionRegistry for Flaky {
    fn claim(&self, claim: Claim) -> BoxFuture<'static, Result<Claimed, ClaimError>> {
        let (truth, claims) = (Arc::clone(&self.truth), Arc::clone(&self.claims));
        async move {
            let _guard = claims.read().await;
            truth.claim(claim).await
        }
        .boxed()
    }

    fn check(&self, held: Vec<Claim>, restore: bool) -> BoxFuture<'static, Result<Vec<Verdict>, Error>> {
        self.or_fail("check", |truth| truth.check(held, restore))
    }

    fn release(&self, gone: Vec<Gone>) -> BoxFuture<'static, Result<(), Error>> {
        self.or_fail("release", |truth| truth.release(gone))
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
        self.or_fail("refresh", |truth| truth.refresh(changed))
    }

    fn find(&self, places: Vec<Place>) -> BoxFuture<'static, Result<Vec<Vec<Row>>, Error>> {
        self.truth.find(places)
    }

    fn enter(&self, stays: Vec<Stay>, announce: Option<Announce>) -> BoxFuture<'static, Result<(), Error>> {
        self.or_fail("enter", |truth| truth.enter(stays, announce))
    }

    fn depart(&self, stays: Vec<Stay>, announce: Announce) -> BoxFuture<'static, Result<(), Error>> {
        self.or_fail("depart", |truth| truth.depart(stays, announce))
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
        self.or_fail("own", |truth| truth.own())
    }

    fn held(&self) -> BoxFuture<'static, Result<Vec<Gone>, Error>> {
        if let Some(meanwhile) = self.meanwhile.lock().take() {
            meanwhile();
        }
        self.or_fail("held", |truth| truth.held())
    }

    fn stays(&self) -> BoxFuture<'static, Result<Vec<Stay>, Error>> {
        self.or_fail("stays", |truth| truth.stays())
    }

    fn tend(&self, reap: Option<Announce>) -> BoxFuture<'static, Result<Tended, Error>> {
        self.or_fail("tend", |truth| truth.tend(reap))
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.truth.close()
    }
}
