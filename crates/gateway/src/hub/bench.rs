//! What is measured of the hub; see [`crate::bench`].

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use tidegate_core::registry::{OnDuplicate, Policy};
use tidegate_core::{Flags, Publication};
use tidegate_protocol::socketio::Parser;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::auth::{Grants, Identity};
use crate::bench::{Meter, OUTBOX_BYTES_MAX};
use crate::metrics::Metrics;
use crate::namespaces::Operations;
use crate::options::PulseOptions;
use crate::outbox::{Poll, Terms};
use crate::reactor::Reactor;
use crate::session::{Parts, Rule};

pub(crate) fn run(meter: &mut dyn Meter, metrics: &Arc<Metrics>) {
    for receivers in [10, 1_000, 10_000] {
        select(meter, metrics, receivers);
    }
    move_about(meter, metrics);
    for together in [1, 8] {
        fan_out(meter, metrics, together);
    }
}

/// A hub of one shard in which a room has that many members, all on polling.
fn filled(members: usize, metrics: &Arc<Metrics>) -> (Hub, Vec<Arc<Session>>) {
    let hub = Hub::new(1);
    let rule = Arc::new(Rule {
        namespace: Namespace::root(),
        operations: Operations::all(),
        policy: Policy::default(),
        on_duplicate: OnDuplicate::default(),
        presence: false,
        offline: false,
        metrics: Arc::new(metrics.namespace("*")),
    });
    let terms = Terms::new(OUTBOX_BYTES_MAX, Arc::clone(metrics), Reactor::resting());
    let identity =
        Identity { user: None, device: "d".into(), grants: Arc::new(Grants::all()), expires_at: None };
    let seat = |_| {
        let parts = Parts {
            id: SessionId::random(),
            rule: Arc::clone(&rule),
            identity: identity.clone(),
            dialect: Dialect::SocketIo(Parser::Text),
            outbox: Arc::new(Outbox::polling(Arc::clone(&terms))),
            holding: None,
            connected_at_ms: 0,
        };
        let session = hub.insert(0, |seat| Session::new(seat, parts));
        assert_eq!(hub.join(session.seat, session.id, &room(), 1, || ()), Joined::New);
        session
    };
    let sessions = (0..members).map(seat).collect();
    (hub, sessions)
}

fn room() -> Room {
    Room::from("room")
}

/// What a member publishes to the others.
fn publication(sender: &Session) -> Publication {
    let data = [b"\x92\xa7message\xd9\x58", [b'x'; 88].as_slice()].concat();
    assert_eq!(data.len(), 99);
    Publication {
        namespace: Namespace::root(),
        rooms: Rooms::from_elem(room(), 1),
        except: Rooms::from_elem(Room::from(sender.id.as_str()), 1),
        flags: Flags::default(),
        data: data.into(),
    }
}

fn select(meter: &mut dyn Meter, metrics: &Arc<Metrics>, count: usize) {
    let (hub, sessions) = filled(count + 1, metrics);
    let publication = publication(&sessions[count / 2]);
    let mut receivers = Vec::new();
    let name = format!("hub: receivers of a room of {count}, the sender excepted");
    meter.measure(&name, (100_000 / count as u32).min(1_000), &mut || (), &mut || {
        receivers.clear();
        black_box(hub.shards[0].state.lock().receivers(&publication, &mut receivers));
        assert_eq!(receivers.len(), count);
    });
}

fn move_about(meter: &mut dyn Meter, metrics: &Arc<Metrics>) {
    let (hub, sessions) = filled(1_000, metrics);
    let (mut next, room) = (sessions.iter().cycle(), room());
    // Whoever leaves has been there longest, and so stands at the front or where somebody was moved to.
    meter.measure("hub: leave and join of a room of 1000", 1_000, &mut || (), &mut || {
        let session = next.next().expect("a cycle does not end");
        assert!(hub.leave(session.seat, session.id, &room));
        assert_eq!(hub.join(session.seat, session.id, &room, 1, || ()), Joined::New);
    });
}

/// Everything between a publication's arrival and the answers of all polls, without a socket and without the runtime:
/// the shard's own task, polled by hand.
fn fan_out(meter: &mut dyn Meter, metrics: &Arc<Metrics>, together: usize) {
    let (hub, sessions) = filled(1_001, metrics);
    let hub = Arc::new(hub);
    let publication = publication(&sessions[0]);
    let day = Duration::from_secs(86_400);
    let options =
        PulseOptions { interval: day, fence_after: day, lease_ttl: day, lease_renew: day, hold: day };
    let pulse = Arc::new(Pulse::new(options, Arc::clone(metrics)));
    pulse.let_act();
    let shutdown = CancellationToken::new();
    let mut task = pin!(Arc::clone(&hub).run_shard(0, Arc::clone(&pulse), Arc::clone(metrics), shutdown));
    let mut context = Context::from_waker(Waker::noop());
    let mut polls = Vec::new();
    let mut prepare = || {
        polls.clear();
        polls.extend(sessions.iter().skip(1).map(|session| match session.outbox.poll() {
            Poll::Pending(poll) => poll,
            _ => panic!("nothing waits"),
        }));
    };
    let name = format!("fan-out: {together} x 100 B to 1000 outboxes that are polled");
    let mut jobs = Vec::new();
    meter.measure(&name, 1, &mut prepare, &mut || {
        for _ in 0..together {
            let job = Arc::new(Job::new(publication.clone(), 1, None));
            assert!(hub.shards[0].queue.push(Arc::clone(&job)));
            jobs.push(job);
        }
        // The task lets go of a publication when it is done with it.
        while jobs.iter().any(|job| Arc::strong_count(job) > 1) {
            assert!(task.as_mut().poll(&mut context).is_pending());
        }
        jobs.clear();
    });
    assert!(polls.iter_mut().all(|poll| poll.try_recv().is_ok()), "not everybody was reached");
}
