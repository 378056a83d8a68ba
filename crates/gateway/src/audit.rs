//! The audit: what lives here compared with what the registry holds, after every time of deafness and now and then.
//!
//! After a lapse it is what lets the node act again: every session is checked before any acts. Whoever was displaced
//! meanwhile is told, whoever the registry lost is put back. An incarnation that was taken for dead does not put
//! anybody back, since the cluster has been told that its sessions ended: their transports are closed, and their
//! clients come again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::registry::{self, Error, Gone, Own, Verdict};
use tidegate_core::{DisconnectReason, SessionId};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::node::Inner;
use crate::presence;
use crate::pulse::Lapse;
use crate::session::Session;

/// Sessions in one call to the registry.
const BATCH_MAX: usize = 256;

/// How long to wait before a registry that did not answer is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// In this time every session is checked once, also without a lapse. It renews what the registry's keys live by, and
/// finds what a server has lost that nobody noticed. A registry keeps untouched keys for a day; a session that comes just
/// after a round began is checked at the end of the next at the latest.
const ROUND: Duration = Duration::from_secs(6 * 60 * 60);

/// What is left to be done.
#[derive(Default)]
struct Upkeep {
    round: Round,
    /// The registry did not know this node, or took it for dead, and not everything has been looked at since.
    is_unsettled: bool,
    /// The registry lost stays, and not all have been written down again.
    lost_stays: bool,
    /// The registrar left something out, and what the registry holds has not been compared since.
    is_owing: bool,
}

/// One round of checks.
#[derive(Default)]
struct Round {
    rest: Vec<SessionId>,
    /// How many are checked at a tick: as many as end the round in its time.
    share: usize,
}

impl Round {
    /// A round through `all` that ends after `ticks`.
    fn new(all: Vec<SessionId>, ticks: u128) -> Self {
        let ticks = usize::try_from(ticks).unwrap_or(usize::MAX).max(1);
        Self { share: all.len().div_ceil(ticks), rest: all }
    }

    /// Whose turn it is at this tick.
    fn next(&mut self) -> impl Iterator<Item = SessionId> {
        self.rest.drain(self.rest.len().saturating_sub(self.share)..)
    }
}

/// Runs until `shutdown`: audits after lapses, and tends the registry every `lease_renew`. A registry that cannot be
/// reached keeps the node from acting, and is asked again.
pub(crate) async fn run(node: Arc<Inner>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(node.options.pulse.lease_renew);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut upkeep = Upkeep::default();
    loop {
        // Before the look, or a change in between would go unnoticed.
        let changed = node.pulse.changed();
        if let Some(lapse) = node.pulse.unaudited(Instant::now()) {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = after_lapse(&node, lapse, &mut upkeep) => {}
            }
            continue;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changed => {}
            // Told by others that the registry does not know them; only a node that acts looks at a few alone.
            () = node.registrar.has_missed() => {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = look_at_missed(&node, &mut upkeep) => {}
                    () = lapsed(&node) => {}
                }
            }
            _ = ticks.tick() => {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tend(&node, &mut upkeep) => {}
                    // Taking over from a large node takes its time, and this one does not act before its audit. What
                    // is cut short is taken up at another tick.
                    () = lapsed(&node) => {}
                }
            }
        }
    }
}

/// Checks the sessions that the registry was found not to know.
async fn look_at_missed(node: &Arc<Inner>, upkeep: &mut Upkeep) {
    if node.pulse.check(Instant::now()).is_err() {
        // The audit looks at everybody.
        return;
    }
    match node.registry.own().await {
        Ok(Own::Listed) => {}
        // It is not about a few: whether anybody is put back depends on what has become of the node.
        Ok(_) => return tend(node, upkeep).await,
        // Whoever misses them asks again.
        Err(Error) => return,
    }
    let missed = node.registrar.take_missed();
    let batch: Vec<_> = missed.into_iter().filter_map(|session| node.hub.find(session)).collect();
    check_some(node, &batch, upkeep).await;
}

/// Checks a few sessions of a node that acts.
async fn check_some(node: &Arc<Inner>, batch: &[Arc<Session>], upkeep: &mut Upkeep) {
    // What is owed to others is not paid by these.
    let owed_stays = upkeep.lost_stays;
    let mut found = Found::default();
    for batch in batch.chunks(BATCH_MAX) {
        // If it fails, whoever was put back and is over is found by comparing.
        if check(node, batch, true, upkeep, &mut found).await.is_err() {
            node.registrar.owe();
        }
    }
    catch_up(node, batch);
    if found.restored > 0 {
        tracing::warn!(sessions = found.restored, "put back sessions that the registry had lost");
        upkeep.lost_stays = restore_stays(node, batch).await.is_err() || owed_stays;
    }
}

/// Resolves when there is a lapse to audit.
async fn lapsed(node: &Inner) {
    loop {
        let changed = node.pulse.changed();
        if node.pulse.unaudited(Instant::now()).is_some() {
            return;
        }
        changed.await;
    }
}

async fn after_lapse(node: &Arc<Inner>, lapse: Lapse, upkeep: &mut Upkeep) {
    let began = Instant::now();
    match checked(node, upkeep).await {
        Ok(found) => {
            if !node.pulse.audited(lapse, Instant::now()) {
                return;
            }
            let Found { sessions, evicted, restored, mut closed } = found;
            catch_up(node, &node.hub.sessions());
            // Only now: until the node acts, there may be more to miss.
            closed += node.hub.sessions().iter().filter(|session| session.send_away_if_it_missed()).count();
            if sessions > 0 {
                let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(
                    sessions,
                    evicted,
                    restored,
                    closed,
                    elapsed_ms,
                    "checked all sessions after deafness"
                );
            }
        }
        Err(Error) => tokio::time::sleep(RETRY_AFTER).await,
    }
}

/// What an audit came to.
#[derive(Default)]
struct Found {
    sessions: usize,
    evicted: usize,
    restored: usize,
    closed: usize,
}

/// Compares everything. Where it fails, all of it is to be done again.
async fn checked(node: &Arc<Inner>, upkeep: &mut Upkeep) -> Result<Found, Error> {
    let own = node.registry.own().await?;
    // Kept until that is done: the registry does not say so twice.
    upkeep.is_unsettled |= own != Own::Listed;
    upkeep.lost_stays |= own == Own::Unknown;
    let mut found = Found::default();
    if own == Own::Unknown {
        // Listed first: whoever dies after this is found by others.
        node.registry.tend(None).await?;
    }
    let sessions: Vec<_> =
        node.hub.sessions().into_iter().filter(|session| session.holding().is_some()).collect();
    found.sessions = sessions.len();
    for batch in sessions.chunks(BATCH_MAX) {
        check(node, batch, own != Own::Reaped, upkeep, &mut found).await?;
    }
    if upkeep.lost_stays {
        restore_stays(node, &sessions).await?;
    }
    reconcile(node).await?;
    if own == Own::Reaped {
        node.registry.tend(None).await?;
    }
    (upkeep.is_unsettled, upkeep.lost_stays) = (false, false);
    Ok(found)
}

async fn check(
    node: &Arc<Inner>,
    batch: &[Arc<Session>],
    restore: bool,
    upkeep: &mut Upkeep,
    found: &mut Found,
) -> Result<(), Error> {
    let claims: Vec<registry::Claim> = batch.iter().filter_map(|session| session.claim()).collect();
    // As long as there is no answer, and for good if there is none, nobody knows who was put back.
    let lost_stays = std::mem::replace(&mut upkeep.lost_stays, true);
    let verdicts = node.registry.check(claims, restore).await?;
    upkeep.lost_stays = lost_stays || verdicts.contains(&Verdict::Restored);
    for (session, verdict) in batch.iter().zip(verdicts) {
        match verdict {
            Verdict::Held => {}
            Verdict::Restored if session.is_over() => {
                // It ended while it was put back.
                if let Some(gone) = session.gone() {
                    node.registrar.release(gone);
                }
            }
            Verdict::Restored => {
                found.restored += 1;
                node.metrics.restored(1);
            }
            Verdict::Evicted(_) if session.is_over() => {
                // It ended before it was marked.
                if let Some(gone) = session.gone() {
                    node.registrar.release(gone);
                }
            }
            Verdict::Evicted(evicted) => {
                found.evicted += 1;
                node.end(session, evicted, None);
            }
            Verdict::Absent => {
                if !session.is_over() {
                    found.closed += 1;
                    // The transport first: a connection that finds its session over has to be on its way out. And the
                    // session at once: its place may be taken, and its connection notices in its own time.
                    session.outbox.close(DisconnectReason::ForcedClose);
                    node.disconnect(session, DisconnectReason::ForcedClose);
                }
            }
        }
    }
    Ok(())
}

/// Lets sessions read on in their inboxes, and settle what they could not: while the node was deaf, or the registry did
/// not know them, or not that they are ready, what came for them may not have been told.
fn catch_up(node: &Inner, sessions: &[Arc<Session>]) {
    for session in sessions {
        node.registrar.settle(session);
        if session.inbox.fall_behind() {
            session.outbox.wake_news();
        }
    }
}

/// Writes down again who is in which room, without a word to anybody: nobody came and nobody left.
async fn restore_stays(node: &Arc<Inner>, sessions: &[Arc<Session>]) -> Result<(), Error> {
    let stays: Vec<_> = sessions
        .iter()
        .filter(|session| session.rule.presence && !session.is_over())
        .flat_map(|session| {
            let rooms = node.hub.rooms_of(session);
            rooms.into_iter().filter_map(|room| session.stay(&room, &node.options.node)).collect::<Vec<_>>()
        })
        .collect();
    let mut written = Ok(());
    for batch in stays.chunks(BATCH_MAX) {
        written = node.registry.enter(batch.to_vec(), None).await;
        if written.is_err() {
            break;
        }
    }
    // Whoever left while that was written left before it was; also when only some of it was.
    for stay in stays {
        if !node.hub.is_in(stay.session, &stay.room) {
            node.registrar.depart(stay);
        }
    }
    written
}

/// Releases what the registry holds in this node's name and does not live here.
async fn reconcile(node: &Arc<Inner>) -> Result<(), Error> {
    let held = node.registry.held().await?;
    if held.is_empty() {
        return Ok(());
    }
    // In this order: a session is known as a claim first, then by its seat, and in between by both.
    let connecting = node.takeovers.claims();
    let live: HashSet<SessionId> = node.hub.sessions().iter().map(|session| session.id).collect();
    let orphans: Vec<Gone> = held
        .into_iter()
        .filter(|gone| !live.contains(&gone.session) && !connecting.contains(&gone.claim))
        .collect();
    if !orphans.is_empty() {
        tracing::info!(sessions = orphans.len(), "releasing sessions that ended unnoticed by the registry");
    }
    for batch in orphans.chunks(BATCH_MAX) {
        node.registry.release(batch.to_vec()).await?;
    }
    Ok(())
}

/// Ends the stays that the registry holds in this node's name and that have ended here.
async fn reconcile_stays(node: &Inner) -> Result<(), Error> {
    let stays = node.registry.stays().await?;
    for stay in stays.into_iter().filter(|stay| !node.hub.is_in(stay.session, &stay.room)) {
        node.registrar.depart(stay);
    }
    Ok(())
}

/// One tick: own entry, dead nodes, debts, and the next few sessions of the round.
async fn tend(node: &Arc<Inner>, upkeep: &mut Upkeep) {
    let now = Instant::now();
    let Some(acting_for) = node.pulse.acting_for(now) else { return };
    // A registry that was emptied, or a reaper that was wrong, need not have made the node deaf.
    let Ok(own) = node.registry.own().await else { return };
    if own != Own::Listed || upkeep.is_unsettled || upkeep.lost_stays {
        match checked(node, upkeep).await {
            Ok(Found { sessions, restored, closed, .. }) => {
                catch_up(node, &node.hub.sessions());
                tracing::warn!(
                    ?own,
                    sessions,
                    restored,
                    closed,
                    "the registry had lost this node, or part of what it has"
                );
            }
            Err(Error) => return,
        }
    }
    // Whoever has not heard for a while cannot tell who is dead.
    let may_reap = acting_for >= node.options.pulse.lease_ttl;
    if let Ok(tended) = node.registry.tend(may_reap.then_some(presence::ANNOUNCE)).await
        && tended.nodes > 0
    {
        tracing::warn!(nodes = tended.nodes, sessions = tended.sessions, "took over from dead nodes");
        node.metrics.reaped(tended);
    }
    // Kept until that is done, also when this tick is cut short.
    upkeep.is_owing |= node.registrar.take_owing();
    if upkeep.is_owing && reconcile(node).await.is_ok() && reconcile_stays(node).await.is_ok() {
        upkeep.is_owing = false;
    }
    if upkeep.round.rest.is_empty() {
        let sessions = node.hub.sessions();
        let held = sessions.iter().filter(|session| session.holding().is_some()).map(|session| session.id);
        let ticks = ROUND.as_millis() / node.options.pulse.lease_renew.as_millis().max(1);
        upkeep.round = Round::new(held.collect(), ticks);
    }
    let batch: Vec<_> = upkeep.round.next().filter_map(|session| node.hub.find(session)).collect();
    check_some(node, &batch, upkeep).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use tidegate_core::SessionRegistry as _;
    use tidegate_core::memory::Exchange;

    use super::*;
    use crate::rig::Rig;

    #[test]
    fn a_round_ends_in_its_time_however_many_there_are() {
        for sessions in [0, 1, 7_199, 7_200, 7_201, 100_000] {
            let mut round = Round::new((0..sessions).map(|_| SessionId::random()).collect(), 7_200);
            let (mut ticks, mut checked) = (0, 0);
            while !round.rest.is_empty() {
                checked += round.next().count();
                ticks += 1;
            }
            assert_eq!(checked, sessions);
            assert!(ticks <= 7_200, "{sessions} sessions take {ticks} ticks");
        }
        let mut round = Round::new(vec![SessionId::random()], 0);
        assert_eq!((round.next().count(), round.next().count()), (1, 0));
    }

    #[tokio::test]
    async fn who_is_in_which_room_is_written_again_until_it_is() {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let node = rig.inner();
        let ann = rig.seat("ann").await;
        rig.join(&ann, "r").await;
        // The registry loses everything, and then answers only now and then.
        rig.registry.close().await;
        assert_eq!(rig.users_in("r").await, Vec::<String>::new());
        rig.registry.fail("enter", 1);
        node.pulse.lost(Instant::now());
        node.pulse.whole(1, Instant::now());
        node.pulse.acting().await;
        assert!(rig.registry.has_failed());
        assert_eq!(rig.users_in("r").await, ["ann"]);
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn who_was_put_back_unheard_is_in_its_rooms_again() {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let node = rig.inner();
        let ann = rig.seat("ann").await;
        rig.join(&ann, "r").await;
        let stay = ann.stay(&"r".into(), &node.options.node).unwrap();
        rig.registry.depart(vec![stay], presence::ANNOUNCE).await.unwrap();
        rig.registry.release(vec![ann.gone().unwrap()]).await.unwrap();
        rig.registry.lose_answer("check");
        node.pulse.lost(Instant::now());
        node.pulse.whole(1, Instant::now());
        node.pulse.acting().await;
        assert!(rig.registry.has_failed());
        assert_eq!(rig.users_in("r").await, ["ann"]);
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn who_misses_something_after_it_was_checked_is_sent_away_too() {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let node = rig.inner();
        let (ann, bob) = (rig.seat("ann").await, rig.seat("bob").await);
        let missing = Arc::clone(&ann);
        *rig.registry.meanwhile.lock() = Some(Box::new(move || missing.miss()));
        node.pulse.lost(Instant::now());
        node.pulse.whole(1, Instant::now());
        node.pulse.acting().await;
        assert_eq!(ann.outbox.closed(), Some(DisconnectReason::ForcedClose));
        assert_eq!(bob.outbox.closed(), None);
        rig.node.drain().await;
    }

    #[tokio::test]
    async fn who_is_not_to_be_put_back_does_nothing_any_more() {
        let rig = Rig::start(&Exchange::new(), "a").await;
        let node = rig.inner();
        let ann = rig.seat("ann").await;
        rig.registry.release(vec![ann.gone().unwrap()]).await.unwrap();
        let mut found = Found::default();
        check(node, &[Arc::clone(&ann)], false, &mut Upkeep::default(), &mut found).await.unwrap();
        assert_eq!(found.closed, 1);
        assert_eq!(ann.outbox.closed(), Some(DisconnectReason::ForcedClose));
        assert!(ann.begin(&node.broker).is_none(), "before its connection has even noticed");
        assert!(node.hub.find(ann.id).is_none());
        rig.node.drain().await;
    }
}
