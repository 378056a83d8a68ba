//! One node: its real parts, what stands for the rest, and what it hears.
//!
//! Real are the pulse with its beat, the hub with its sessions, and the takeovers. What `inbound.rs` and `seating.rs` do
//! with them stands here, step by step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use tidegate_core::broker::PulseError;
use tidegate_core::registry::{EvictReason, Evicted, Eviction, OnDuplicate, Policy, Vitals};
use tidegate_core::{Broker, ClaimId, Namespace, NodeId, SessionId};
use tidegate_protocol::socketio::Parser;
use tokio_util::sync::CancellationToken;

use super::connect::{Claimed, Entrant};
use super::ledger::{Closed, Event};
use super::line::Line;
use super::link::{Link, Purpose};
use super::network::{Road, Socket};
use super::options;
use super::outbound::Outbound;
use super::redis::{Answer, Command, Push};
use super::traffic::Fanout;
use super::upkeep::Upkeep;
use super::wire::Wire;
use super::world::World;
use super::{BEAT_LOOK_US, Flaw};
use crate::auth::{Grants, Identity};
use crate::dialect::Dialect;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::namespaces::Operations;
use crate::outbox::{Outbox, Terms};
use crate::pulse::{Lapse, Pulse};
use crate::reactor::Reactor;
use crate::session::{Deed, Holding, Parts, Rule, Session};
use crate::takeover::Takeovers;

/// What a task of a node does next.
pub(super) enum Step {
    /// The beat's timer may have run out.
    Beat,
    /// The beat's answer may be there.
    Beaten,
    /// The line brings something.
    Read(u64),
    /// Every channel is confirmed.
    Whole(u64),
    /// The server answers.
    Answered {
        number: u64,
        ask: u64,
        answer: Answer,
    },
    TimedOut {
        number: u64,
        ask: u64,
    },
    /// A ping on the connection for commands was not answered in time.
    PingTimedOut(u64),
    LinkBroke(u64),
    Reconnect,
    LineBroke(u64),
    Resubscribe,
    Connect(usize),
    Claimed(usize, Claimed),
    Wait(usize),
    Answer(usize),
    Seat(usize),
    HangUp(usize),
    Close(usize, Closed),
    TellEvicted(usize),
    Publish(usize),
    Begin(usize),
    Hand(usize, Deed),
    Expire,
    /// The answers of a batch are due, and so much had come in before it left.
    Overdue {
        batch: u64,
        heard: u64,
    },
    Fanout,
    Look,
    Tick,
    Go(Option<Answer>),
    Audited(Lapse),
    Release,
}

pub(super) struct Node {
    pub(super) pulse: Arc<Pulse>,
    beating: Pin<Box<dyn Future<Output = Result<(), PulseError>>>>,
    pub(super) wire: Arc<Wire>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) takeovers: Arc<Takeovers>,
    pub(super) hub: Hub,
    rule: Arc<Rule>,
    terms: Arc<Terms>,
    pub(super) link: Link,
    pub(super) line: Line,
    pub(super) outbound: Outbound,
    pub(super) fanout: Fanout,
    /// CONNECTs that are not answered, by their numbers, and sessions that their connections know.
    pub(super) entrants: BTreeMap<usize, Entrant>,
    pub(super) sessions: BTreeMap<usize, Arc<Session>>,
    /// Sessions whose connections are in the middle of handing on what they have begun, and do nothing else.
    pub(super) handing: BTreeSet<usize>,
    /// Connections that ended before their CONNECT was looked at.
    pub(super) ended: BTreeSet<usize>,
    pub(super) upkeep: Upkeep,
    /// What the registrar still has to release, and whether it is at it.
    pub(super) gone: VecDeque<usize>,
    pub(super) releasing: bool,
    pub(super) paused_until_us: u64,
    /// For the flaw of that name.
    pub(super) acted_at_echo: bool,
}

pub(super) fn session_id(number: usize) -> SessionId {
    SessionId::parse(&format!("{number:020}")).expect("twenty digits have the shape of a session's id")
}

pub(super) fn claim_id(number: usize) -> ClaimId {
    ClaimId::parse(&format!("{number:016}")).expect("sixteen digits have the shape of a claim's id")
}

pub(super) fn node_id(number: usize) -> NodeId {
    NodeId::parse(&number.to_string()).expect("digits can be a node's id")
}

fn replaced() -> Evicted {
    Evicted { reason: EvictReason::Replaced, by: None }
}

impl Node {
    pub(super) fn new() -> Self {
        let metrics = Arc::new(Metrics::new("test", "test", "n").expect("the metrics are sound"));
        let pulse = Arc::new(Pulse::new(options(), Arc::clone(&metrics)));
        let wire = Arc::new(Wire::default());
        let broker = Arc::clone(&wire) as Arc<dyn Broker>;
        let beating = {
            let (pulse, broker) = (Arc::clone(&pulse), Arc::clone(&broker));
            let beating = async move { pulse.run(broker, Vitals::default, CancellationToken::new()).await };
            // The world takes one step after the other and yields to nobody in between.
            Box::pin(tokio::task::unconstrained(beating))
        };
        let rule = Rule {
            namespace: Namespace::root(),
            operations: Operations::all(),
            policy: Policy::PerDevice,
            on_duplicate: OnDuplicate::Replace,
            presence: false,
            offline: true,
            metrics: Arc::new(metrics.namespace("/")),
        };
        Self {
            pulse,
            beating,
            wire,
            broker,
            takeovers: Arc::default(),
            hub: Hub::new(1),
            rule: Arc::new(rule),
            terms: Terms::new(1_000, metrics, Reactor::resting()),
            link: Link::new(),
            line: Line::new(),
            outbound: Outbound::default(),
            fanout: Fanout::default(),
            entrants: BTreeMap::new(),
            sessions: BTreeMap::new(),
            handing: BTreeSet::new(),
            ended: BTreeSet::new(),
            upkeep: Upkeep::default(),
            gone: VecDeque::new(),
            releasing: false,
            paused_until_us: 0,
            acted_at_echo: false,
        }
    }

    pub(super) fn socket(&mut self, road: Road) -> &mut Socket {
        match road {
            Road::Commands { .. } => &mut self.link.socket,
            Road::Line => &mut self.line.socket,
        }
    }

    /// `Inner::connect`: seats a session.
    pub(super) fn seat(&self, session: usize, user: usize, epoch: u64) -> Arc<Session> {
        let parts = Parts {
            id: session_id(session),
            rule: Arc::clone(&self.rule),
            identity: Identity {
                user: Some(user.to_string().into()),
                device: "d".into(),
                grants: Arc::new(Grants::all()),
                expires_at: None,
            },
            dialect: Dialect::SocketIo(Parser::Text),
            outbox: Arc::new(Outbox::polling(Arc::clone(&self.terms))),
            holding: Some(Holding { claim: claim_id(session), epoch }),
            connected_at_ms: epoch,
        };
        self.hub.insert(0, |seat| Session::new(seat, parts))
    }
}

impl World {
    /// Whether the node may act, asked right before it does.
    pub(super) fn may_act(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        match self.flaw {
            Some(Flaw::ChecksAtEchoOnly) => node.acted_at_echo,
            _ => node.pulse.check(self.now()).is_ok(),
        }
    }

    pub(super) fn heard(&mut self, node: usize) {
        let now = self.now();
        self.nodes[node].acted_at_echo = self.nodes[node].pulse.check(now).is_ok();
        self.step(node, Step::Look);
    }

    pub(super) fn take(&mut self, node: usize, step: Step) {
        match step {
            Step::Beat => {
                self.beat(node);
                self.step_after(node, BEAT_LOOK_US, Step::Beat);
            }
            Step::Beaten => self.beat(node),
            Step::Read(number) => self.read(node, number),
            Step::Whole(number) => self.whole(node, number),
            Step::Answered { number, ask, answer } => self.answered(node, number, ask, answer),
            Step::TimedOut { number, ask } => self.timed_out(node, number, ask),
            Step::PingTimedOut(number) => self.reset(node, number),
            Step::LinkBroke(number) => self.link_broke(node, number),
            Step::Reconnect => self.reconnect(node),
            Step::LineBroke(number) => self.line_broke(node, number),
            Step::Resubscribe => self.resubscribe(node),
            Step::Connect(session) => self.connect(node, session),
            Step::Claimed(session, claimed) => self.claimed(node, session, claimed),
            Step::Wait(session) => self.wait(node, session),
            Step::Answer(session) => self.answer(node, session),
            Step::Seat(session) => self.seat(node, session),
            Step::HangUp(session) => self.hang_up(node, session),
            Step::Close(session, why) => self.close_seated(node, session, why),
            Step::TellEvicted(session) => self.tell_evicted(node, session),
            Step::Publish(message) => self.publish(node, message),
            Step::Begin(message) => self.begin(node, message),
            Step::Hand(message, deed) => self.hand(node, message, deed),
            Step::Expire => self.expire(node),
            Step::Overdue { batch, heard } => self.overdue(node, batch, heard),
            Step::Fanout => self.fanout(node),
            Step::Look => self.look(node),
            Step::Tick => self.tick(node),
            Step::Go(answer) => self.go(node, answer),
            Step::Audited(lapse) => self.audited(node, lapse),
            Step::Release => self.release(node),
        }
    }

    /// Polls the real beat. It sends, or sees its answer, or nothing.
    fn beat(&mut self, node: usize) {
        let mut context = Context::from_waker(Waker::noop());
        let over = self.nodes[node].beating.as_mut().poll(&mut context);
        assert!(over.is_pending(), "nobody else has this node's id");
    }

    /// `Feed::message`, and what `Inbound` does with it.
    pub(super) fn pushed(&mut self, node: usize, push: Push, generation: u64) {
        let now = self.now();
        match push {
            Push::Room(message) => self.dispatch(node, message),
            Push::Pulse(number) => {
                let generation = if self.flaw == Some(Flaw::CountsOldEchoes) { 1 } else { generation };
                self.nodes[node].pulse.echo(number, generation, now);
                self.heard(node);
            }
            Push::Evict { session, winner } => self.evict(node, session, winner),
            Push::Confirmed { winner, session } => {
                self.nodes[node].takeovers.confirmed(claim_id(winner), session_id(session));
                self.step(node, Step::Wait(winner));
            }
        }
    }

    /// `Inner::evict`.
    fn evict(&mut self, node: usize, session: usize, winner: usize) {
        let confirm = (node_id(self.attempts[winner].node), claim_id(winner));
        let eviction = Eviction {
            namespace: Namespace::root(),
            session: session_id(session),
            claim: claim_id(session),
            evicted: replaced(),
            confirm: confirm.clone(),
        };
        let state = &self.nodes[node];
        if state.takeovers.evict(&eviction) {
            return self.step(node, Step::Wait(session));
        }
        match state.hub.find(session_id(session)) {
            Some(found) => self.end(node, session, &found, Some(confirm)),
            None => state.broker.confirm(confirm.0, confirm.1, session_id(session)),
        }
    }

    /// `Inner::end`.
    pub(super) fn end(
        &mut self,
        node: usize,
        number: usize,
        session: &Arc<Session>,
        confirm: Option<(NodeId, ClaimId)>,
    ) {
        if session.evict(replaced(), confirm) {
            self.vacate(node, number, session);
            self.step(node, Step::TellEvicted(number));
        }
        session.settle(&self.nodes[node].broker);
    }

    /// `Inner::vacate`.
    pub(super) fn vacate(&mut self, node: usize, number: usize, session: &Session) {
        self.nodes[node].hub.remove(session.seat, session.id);
        self.owe_release(node, number);
    }

    pub(super) fn owe_release(&mut self, node: usize, session: usize) {
        self.nodes[node].gone.push_back(session);
        self.step(node, Step::Release);
    }

    /// `Connection::tell_evicted`.
    pub(super) fn tell_evicted(&mut self, node: usize, session: usize) {
        if self.nodes[node].sessions.remove(&session).is_some() {
            self.note(Event::Evicted { session });
            self.client_evicted(session);
        }
    }

    /// The registrar: one release after the other, each until it is written.
    fn release(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        if state.releasing {
            return;
        }
        let Some(session) = state.gone.front().copied() else { return };
        state.releasing = true;
        let user = self.attempts[session].user;
        self.ask(node, Command::Release { user, session, reaped_us: None }, Purpose::Release);
    }
}
