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
/// finds what a server has lost that nobody noticed. A registry keeps untouched keys for a day.
const ROUND: Duration = Duration::from_secs(6 * 60 * 60);

/// Runs until `shutdown`: audits after lapses, and tends the registry every `lease_renew`. A registry that cannot be
/// reached keeps the node from acting, and is asked again.
pub(crate) async fn run(node: Arc<Inner>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(node.options.pulse.lease_renew);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = Vec::new();
    loop {
        // Before the look, or a change in between would go unnoticed.
        let changed = node.pulse.changed();
        if let Some(lapse) = node.pulse.unaudited(Instant::now()) {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = after_lapse(&node, lapse) => {}
            }
            continue;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changed => {}
            _ = ticks.tick() => {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tend(&node, &mut round) => {}
                }
            }
        }
    }
}

async fn after_lapse(node: &Arc<Inner>, lapse: Lapse) {
    let began = Instant::now();
    match checked(node).await {
        Ok(found) => {
            if !node.pulse.audited(lapse, Instant::now()) {
                return;
            }
            let Found { sessions, evicted, restored, closed } = found;
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

async fn checked(node: &Arc<Inner>) -> Result<Found, Error> {
    let own = node.registry.own().await?;
    let mut found = Found::default();
    if own == Own::Unknown {
        // Listed first: whoever dies after this is found by others.
        node.registry.tend(None).await?;
    }
    let sessions: Vec<_> =
        node.hub.sessions().into_iter().filter(|session| session.holding.is_some()).collect();
    found.sessions = sessions.len();
    for batch in sessions.chunks(BATCH_MAX) {
        check(node, batch, own != Own::Reaped, &mut found).await?;
    }
    if own == Own::Unknown || found.restored > 0 {
        restore_stays(node, &sessions).await?;
    }
    reconcile(node).await?;
    if own == Own::Reaped {
        node.registry.tend(None).await?;
    }
    Ok(found)
}

async fn check(
    node: &Arc<Inner>,
    batch: &[Arc<Session>],
    restore: bool,
    found: &mut Found,
) -> Result<(), Error> {
    let claims: Vec<registry::Claim> = batch.iter().filter_map(|session| session.claim()).collect();
    let verdicts = node.registry.check(claims, restore).await?;
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
            Verdict::Evicted(evicted) => {
                found.evicted += 1;
                node.end(session, evicted, None);
            }
            Verdict::Absent => {
                if !session.is_over() {
                    found.closed += 1;
                    session.outbox.close(DisconnectReason::ForcedClose);
                }
            }
        }
    }
    Ok(())
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
    for batch in stays.chunks(BATCH_MAX) {
        node.registry.enter(batch.to_vec(), None).await?;
    }
    // Whoever left while that was written left before it was.
    for stay in stays {
        let is_here = node
            .hub
            .find(stay.session)
            .is_some_and(|session| node.hub.is_member(session.seat, session.id, &stay.room));
        if !is_here {
            node.registrar.depart(stay);
        }
    }
    Ok(())
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

/// One tick: own entry, dead nodes, debts, and the next few sessions of the round.
async fn tend(node: &Arc<Inner>, round: &mut Vec<SessionId>) {
    let now = Instant::now();
    let Some(acting_for) = node.pulse.acting_for(now) else { return };
    // Whoever has not heard for a while cannot tell who is dead.
    let may_reap = acting_for >= node.options.pulse.lease_ttl;
    if let Ok(tended) = node.registry.tend(may_reap.then_some(presence::ANNOUNCE)).await
        && tended.nodes > 0
    {
        tracing::warn!(nodes = tended.nodes, sessions = tended.sessions, "took over from dead nodes");
        node.metrics.reaped(tended);
    }
    if node.registrar.take_owing() && reconcile(node).await.is_err() {
        node.registrar.owe();
    }
    if round.is_empty() {
        let sessions = node.hub.sessions();
        round.extend(sessions.iter().filter(|session| session.holding.is_some()).map(|session| session.id));
    }
    let ticks = ROUND.as_millis() / node.options.pulse.lease_renew.as_millis().max(1);
    let share = round.len().div_ceil(usize::try_from(ticks).unwrap_or(usize::MAX).max(1));
    let batch: Vec<_> = round
        .drain(round.len() - share.min(BATCH_MAX)..)
        .filter_map(|session| node.hub.find(session))
        .collect();
    if batch.is_empty() {
        return;
    }
    let mut found = Found::default();
    if check(node, &batch, true, &mut found).await.is_ok() && found.restored > 0 {
        tracing::warn!(sessions = found.restored, "put back sessions that the registry had lost");
        if restore_stays(node, &batch).await.is_err() {
            node.registrar.owe();
        }
    }
}
