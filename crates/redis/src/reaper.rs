//! Taking over what dead nodes left.
//!
//! An incarnation is dead when its entry in the list says that it must have a lease, and it has none.
//! Whoever takes over marks the entry first and then looks at the lease again, while a node that returns renews its
//! lease first and then reads its entry: at least one of the two sees the other. Only one node at a time works on an
//! entry, for as long as it goes on renewing its mark; should two overlap all the same, each step is one script, so
//! that nothing is announced twice. Of a node that has come back meanwhile, what it claimed, vouched for or entered
//! since the take-over began is left alone.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Cmd, Value};
use tidegate_core::Incarnation;
use tidegate_core::registry::{Announce, Error, Tended};
use tokio::time::Instant;

use crate::index;
use crate::keys::connection_name;
use crate::nodes::{Entry, State};
use crate::places::Released;
use crate::registry::Registry;
use crate::scripts::BATCH_MAX;

/// How long an incarnation that was taken over stays in the list, in ms. One that comes back within that time, from
/// a suspended machine perhaps, learns what has happened to it.
const REAPED_KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// A dead incarnation that this node takes over from.
struct Dead<'a> {
    incarnation: &'a Incarnation,
    entry: &'a Entry,
    /// When that began, in Unix ms.
    since: u64,
    /// Whether nobody had begun before.
    untouched: bool,
    /// Whether its process may be alive: what it is to be told when it comes back is then kept.
    may_return: bool,
}

impl Registry {
    pub(crate) async fn tend(&self, reap: Option<Announce>) -> Result<Tended, Error> {
        let knows = self.knows_of_reaping.load(Ordering::Relaxed);
        let holder: Option<String> = self.scripts.ask_one("tend", self.lease_holder(&self.node)).await?;
        let has_lease = holder.as_deref() == Some(self.incarnation.as_str());
        let commands = vec![self.enlist(has_lease, knows), redis::cmd("TIME"), self.list_entries()];
        let mut answers = self.scripts.ask("tend", commands).await?;
        let listed: bool = self.scripts.next(&mut answers)?;
        let (seconds, micros): (u64, u64) = self.scripts.next(&mut answers)?;
        let now_ms = seconds * 1000 + micros / 1000;
        let entries = self.entries(self.scripts.next(&mut answers)?);
        if listed && knows {
            self.knows_of_reaping.store(false, Ordering::Relaxed);
        }
        let leaped = self.has_leaped(now_ms);
        let mut tended = Tended::default();
        // A node that was itself taken for dead has no business with others before it knows.
        if let (Some(announce), true, false) = (reap, listed, leaped) {
            for (incarnation, entry) in self.without_lease(entries, now_ms).await? {
                self.reap(&incarnation, &entry, announce, &mut tended).await?;
            }
        }
        Ok(tended)
    }

    /// Whether the clock of Redis went ahead of this node's by much of a lease since the call before. Leases have ended then
    /// that nobody let go of; by the next call, whoever lives has its lease again.
    fn has_leaped(&self, redis_now_ms: u64) -> bool {
        let now = Instant::now();
        let Some((redis_then_ms, then)) = self.tended_at.lock().replace((redis_now_ms, now)) else {
            return false;
        };
        let lease_ttl_ms = self.learned.lease_ttl_ms.load(Ordering::Relaxed);
        let leaped =
            leaped(redis_now_ms.saturating_sub(redis_then_ms), now.duration_since(then), lease_ttl_ms);
        if leaped {
            tracing::warn!("the clock of redis leaped ahead; taking over from nobody for now");
        }
        leaped
    }

    /// Those of `entries` that should have a lease and have none, and those to be struck off the list.
    async fn without_lease(
        &self,
        mut entries: Vec<(Incarnation, Entry)>,
        now_ms: u64,
    ) -> Result<Vec<(Incarnation, Entry)>, Error> {
        entries.retain(|(incarnation, entry)| {
            let due_ms = match entry.state {
                State::Lives => entry.due_ms,
                State::Reaping => 0,
                State::Reaped { at_ms } => at_ms.saturating_add(REAPED_KEPT_MS),
            };
            *incarnation != self.incarnation && due_ms <= now_ms
        });
        let mut dead = Vec::new();
        for batch in entries.chunks(BATCH_MAX) {
            let leases = batch.iter().map(|(_, entry)| self.lease_holder(&entry.node)).collect();
            let mut answers = self.scripts.ask("tend", leases).await?;
            for (incarnation, entry) in batch {
                let holder: Option<String> = self.scripts.next(&mut answers)?;
                if holder.as_deref() != Some(incarnation.as_str()) || entry.state == State::Reaping {
                    dead.push((incarnation.clone(), entry.clone()));
                }
            }
        }
        Ok(dead)
    }

    /// Takes over from one incarnation, unless that is another's to do or the incarnation is back.
    async fn reap(
        &self,
        incarnation: &Incarnation,
        entry: &Entry,
        announce: Announce,
        tended: &mut Tended,
    ) -> Result<(), Error> {
        let begin = self.scripts.ask_one("reap", self.reap_begin(incarnation, None)).await?;
        let Some::<(u64, bool)>((since, untouched)) = begin else { return Ok(()) };
        let may_return = self.is_connected(incarnation).await;
        let mut dead = Dead { incarnation, entry, since, untouched, may_return };
        if !self.still_dead(&dead).await? {
            return Ok(());
        }
        self.disconnect(&dead).await;
        dead.untouched = false;
        if !self.clear_sessions(&dead, &mut tended.sessions).await?
            || !self.clear_stays(&dead, announce).await?
        {
            return Ok(());
        }
        let struck_off = matches!(entry.state, State::Reaped { .. });
        let ended = self.reap_end(&dead, if struck_off { "gone" } else { "reaped" }).await?;
        if ended && !struck_off {
            tended.nodes += 1;
            tracing::info!(dead = %entry.node, incarnation = incarnation.as_str(), "took over from a dead node");
        }
        Ok(())
    }

    /// Forgets its sessions. False if the take-over is no longer this node's before it is through.
    async fn clear_sessions(&self, dead: &Dead<'_>, sessions: &mut usize) -> Result<bool, Error> {
        let key = self.keys.held(&dead.entry.node, dead.incarnation);
        let mut cursor = 0;
        loop {
            let (next, members) = self.scan("reap", &key, cursor).await?;
            let mut cleared = Vec::with_capacity(members.len());
            for members in members.chunks(BATCH_MAX) {
                let (members, gone): (Vec<_>, Vec<_>) =
                    members.iter().filter_map(|member| Some((member, index::read_held(member)?))).unzip();
                let released = self.release("reap", &gone, Some(dead.since), dead.may_return).await?;
                *sessions += released.iter().filter(|released| **released == Released::Session).count();
                let of = members.into_iter().zip(released);
                cleared.extend(
                    of.filter(|(_, released)| *released != Released::Spared).map(|(member, _)| member),
                );
            }
            self.unindex(&key, &cleared).await?;
            if !self.still_dead(dead).await? {
                return Ok(false);
            }
            if next == 0 {
                return Ok(true);
            }
            cursor = next;
        }
    }

    /// Announces that its stays are over. False as above.
    async fn clear_stays(&self, dead: &Dead<'_>, announce: Announce) -> Result<bool, Error> {
        let node = &dead.entry.node;
        let key = self.keys.stays(node, dead.incarnation);
        let mut cursor = 0;
        loop {
            let (next, members) = self.scan("reap", &key, cursor).await?;
            let mut cleared = Vec::with_capacity(members.len());
            for members in members.chunks(BATCH_MAX) {
                let (members, stays): (Vec<_>, Vec<_>) = members
                    .iter()
                    .filter_map(|member| Some((member, index::read_stay(member, node)?)))
                    .unzip();
                let over = self.depart("reap", &stays, Some(dead.since), Some(announce)).await?;
                cleared.extend(
                    members.into_iter().zip(over).filter(|(_, over)| *over).map(|(member, _)| member),
                );
            }
            self.unindex(&key, &cleared).await?;
            if !self.still_dead(dead).await? {
                return Ok(false);
            }
            if next == 0 {
                return Ok(true);
            }
            cursor = next;
        }
    }

    /// Renews the mark and looks at the lease. If the incarnation is back, it ends the take-over: as if nothing had
    /// been, if nothing has been touched. One that has listed itself again meanwhile is left as it is.
    async fn still_dead(&self, dead: &Dead<'_>) -> Result<bool, Error> {
        let mark = self.reap_begin(dead.incarnation, Some(dead.since));
        let commands = vec![mark, self.lease_holder(&dead.entry.node)];
        let mut answers = self.scripts.ask("reap", commands).await?;
        let ours: Option<(u64, bool)> = self.scripts.next(&mut answers)?;
        let holder: Option<String> = self.scripts.next(&mut answers)?;
        if ours.is_none() {
            return Ok(false);
        }
        if holder.as_deref() == Some(dead.incarnation.as_str()) {
            self.reap_end(dead, if dead.untouched { "alive" } else { "reaped" }).await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Begins a take-over, or renews the mark of the one that began at `since`.
    fn reap_begin(&self, incarnation: &Incarnation, since: Option<u64>) -> Cmd {
        let mut command = self.scripts.verbs.reap_begin.on(&[&self.keys.nodes()]);
        command
            .arg(incarnation.as_str())
            .arg(self.incarnation.as_str())
            .arg(self.learned.lease_ttl_ms.load(Ordering::Relaxed))
            .arg(REAPED_KEPT_MS)
            .arg(since.map_or_else(String::new, |since| since.to_string()));
        command
    }

    async fn reap_end(&self, dead: &Dead<'_>, outcome: &str) -> Result<bool, Error> {
        let mut command = self.scripts.verbs.reap_end.on(&[&self.keys.nodes()]);
        command.arg(dead.incarnation.as_str()).arg(self.incarnation.as_str()).arg(outcome);
        self.scripts.ask_one("reap", command).await
    }

    /// Whether a connection of the incarnation is open, so that its process may be frozen or cut off, and come back. Who may
    /// not look takes it to be so.
    async fn is_connected(&self, incarnation: &Incarnation) -> bool {
        let mut list = redis::cmd("CLIENT");
        list.arg("LIST");
        let name = format!(" name={} ", connection_name(incarnation));
        let answer = self.scripts.attempt("reap", vec![list]).await;
        match answer.as_deref() {
            Ok([answer]) => text(answer).is_none_or(|clients| clients.contains(&name)),
            _ => true,
        }
    }

    /// Ends the subscription of a node that is frozen or cut off, so that Node servers stop counting on its answers.
    /// It may not be allowed to, and goes on without.
    async fn disconnect(&self, dead: &Dead<'_>) {
        let client = dead.entry.client;
        if client == 0 {
            return;
        }
        let mut list = redis::cmd("CLIENT");
        list.arg("LIST").arg("ID").arg(client);
        // Ids begin anew when a server is restarted, so that this one may be somebody else's by now.
        let name = format!(" name={} ", connection_name(dead.incarnation));
        match self.scripts.attempt("reap", vec![list]).await.as_deref() {
            Ok([answer]) if text(answer).is_some_and(|text| text.contains(&name)) => {}
            answer => {
                return tracing::debug!(?answer, "a dead node's subscription is gone, or cannot be seen");
            }
        }
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("ID").arg(client);
        let answer = self.scripts.attempt("reap", vec![kill]).await;
        tracing::debug!(?answer, node = %dead.entry.node, "ended a dead node's subscription");
    }

    async fn unindex(&self, key: &str, members: &[&Vec<u8>]) -> Result<(), Error> {
        if members.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("SREM");
        command.arg(key).arg(members);
        self.scripts.ask_one::<u64>("reap", command).await.map(drop)
    }
}

/// Whether `there_ms` by the clock of Redis are more than `here` explains, by half a lease.
fn leaped(there_ms: u64, here: Duration, lease_ttl_ms: u64) -> bool {
    let here_ms = u64::try_from(here.as_millis()).unwrap_or(u64::MAX);
    there_ms.saturating_sub(here_ms) > lease_ttl_ms / 2
}

fn text(answer: &Value) -> Option<&str> {
    match answer {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_went_ahead_is_told_from_time_that_passed() {
        let here = Duration::from_secs(3);
        assert!(!leaped(3_000, here, 10_000));
        assert!(!leaped(8_000, here, 10_000), "what is late by less ends no lease of a node that pulses");
        assert!(leaped(8_001, here, 10_000));
        assert!(!leaped(60_000, Duration::from_secs(60), 10_000), "a call that came late");
        assert!(!leaped(0, here, 10_000), "a clock that went back keeps leases longer");
    }
}
