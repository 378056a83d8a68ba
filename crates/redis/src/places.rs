//! The sessions of places: the verbs of `lua/place.lua`'s scripts.

use std::sync::atomic::Ordering;

use redis::{Cmd, Value};
use tidegate_core::registry::{
    By, Claim, ClaimError, Claimed, Error, Evicted, Gone, OnDuplicate, Place, Policy, Refresh, Row, Verdict,
};
use tidegate_core::{ClaimId, Incarnation, NodeId};
use tokio::time::Instant;

use crate::index;
use crate::packed;
use crate::registry::Registry;
use crate::row;
use crate::scripts::{BATCH_MAX, Verb};

/// How long a place is kept when nobody claims it or checks for it any more, in ms.
const KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// What [`Registry::release`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// Nothing of this claim's.
    Nothing,
    /// A session.
    Session,
    /// The mark of one that was displaced.
    Mark,
    /// A session that is none of the asker's business any more.
    Spared,
}

impl Registry {
    pub(crate) async fn claim(&self, claim: &Claim) -> Result<Claimed, ClaimError> {
        let member = index::held(&gone(claim));
        let mut command = self.on_place(&self.scripts.verbs.claim, claim);
        command.arg(match (claim.on_duplicate, claim.resumes) {
            (OnDuplicate::Replace, None) => "replace",
            (OnDuplicate::Reject, _) | (_, Some(_)) => "reject",
        });
        command.arg(claim.resumes.as_ref().map_or("", |session| session.as_str()));
        let mut answers = self.scripts.ask("claim", vec![self.index_held(&member), command.clone()]).await?;
        let _: u64 = self.scripts.next(&mut answers)?;
        let mut answer = self.answer(self.scripts.next(&mut answers)?)?;
        if let Answer::Taken(in_the_way) = &answer {
            let dead = self.dead(in_the_way).await?;
            if !dead.is_empty() {
                command.arg(dead.iter().map(packed::pack_claim).map(Vec::from).collect::<Vec<_>>());
                answer = self.answer(self.scripts.ask_one("claim", command).await?)?;
            }
        }
        match answer {
            Answer::Made(claimed) => Ok(claimed),
            Answer::Taken(_) => {
                self.unindex_held("claim", &[member]).await?;
                Err(ClaimError::Taken)
            }
        }
    }

    pub(crate) async fn check(&self, held: &[Claim], restore: bool) -> Result<Vec<Verdict>, Error> {
        let mut verdicts = Vec::with_capacity(held.len());
        let vouch = !restore || self.was_reaped.load(Ordering::Relaxed);
        for batch in held.chunks(BATCH_MAX) {
            // Whoever is found held must be in the index, since what a reaper took out of it may still be there.
            let members: Vec<_> = batch.iter().map(|claim| index::held(&gone(claim))).collect();
            let mut commands = vec![self.index_held(&members)];
            commands.extend(batch.iter().map(|claim| {
                let mut command = self.on_place(&self.scripts.verbs.check, claim);
                command.arg(claim.epoch).arg(u8::from(restore)).arg(u8::from(vouch));
                command
            }));
            let mut answers = self.scripts.ask("check", commands).await?;
            let _: u64 = self.scripts.next(&mut answers)?;
            let mut absent = Vec::new();
            for member in members {
                let verdict =
                    verdict(self.scripts.next(&mut answers)?).ok_or_else(|| self.unknown("verdict"))?;
                if verdict == Verdict::Absent {
                    absent.push(member);
                }
                verdicts.push(verdict);
            }
            if !absent.is_empty() {
                self.unindex_held("check", &absent).await?;
            }
        }
        Ok(verdicts)
    }

    /// Forgets `gone`, and then that they were held.
    pub(crate) async fn give_up(&self, gone: &[Gone]) -> Result<(), Error> {
        for batch in gone.chunks(BATCH_MAX) {
            self.release("release", batch, None, false).await?;
            let members: Vec<_> = batch.iter().map(index::held).collect();
            self.unindex_held("release", &members).await?;
        }
        Ok(())
    }

    /// Forgets sessions and marks, at most [`BATCH_MAX`]. With `since`, in Unix ms by the clock of Redis, it spares
    /// sessions that were claimed or vouched for from then on; marks it may leave alone.
    pub(crate) async fn release(
        &self,
        label: &'static str,
        gone: &[Gone],
        since: Option<u64>,
        leaves_marks: bool,
    ) -> Result<Vec<Released>, Error> {
        let since = since.map_or_else(String::new, |since| since.to_string());
        let commands = gone.iter().map(|gone| {
            let mut command = self.scripts.verbs.release.on(&[&self.keys.place(&gone.place)]);
            command.arg(gone.session.as_str()).arg(packed::pack_claim(&gone.claim).as_slice()).arg(&since);
            command.arg(if leaves_marks { "1" } else { "" });
            command
        });
        let mut answers = self.scripts.ask(label, commands.collect()).await?;
        gone.iter()
            .map(|_| {
                Ok(match self.scripts.next(&mut answers)? {
                    0 => Released::Nothing,
                    1 => Released::Session,
                    2 => Released::Mark,
                    _ => Released::Spared,
                })
            })
            .collect()
    }

    pub(crate) async fn kick(
        &self,
        place: &Place,
        device: Option<&str>,
        confirm: &ClaimId,
    ) -> Result<Vec<Row>, Error> {
        let mut command = self.scripts.verbs.kick.on(&[&self.keys.place(place)]);
        self.add_asker(&mut command, place, confirm);
        command.arg(device.unwrap_or_default()).arg(u8::from(device.is_some()));
        let told: Vec<(Vec<u8>, Vec<u8>)> = self.scripts.ask_one("kick", command).await?;
        Ok(told.iter().filter_map(|(session, value)| row::row(session, value)).collect())
    }

    pub(crate) async fn refresh(&self, changed: &[Refresh]) -> Result<(), Error> {
        for batch in changed.chunks(BATCH_MAX) {
            let commands = batch.iter().map(|refresh| {
                let mut command = self.scripts.verbs.refresh.on(&[&self.keys.place(&refresh.place)]);
                command
                    .arg(refresh.session.as_str())
                    .arg(packed::pack_claim(&refresh.claim).as_slice())
                    .arg(row::kind(refresh.transport))
                    .arg(refresh.seen_at_ms)
                    .arg(KEPT_MS);
                command
            });
            self.scripts.ask("refresh", commands.collect()).await?;
        }
        Ok(())
    }

    pub(crate) async fn find(&self, places: &[Place]) -> Result<Vec<Vec<Row>>, Error> {
        let mut found = Vec::with_capacity(places.len());
        for batch in places.chunks(BATCH_MAX) {
            let commands = batch.iter().map(|place| {
                let mut command = redis::cmd("HGETALL");
                command.arg(self.keys.place(place));
                command
            });
            let mut answers = self.scripts.ask("find", commands.collect()).await?;
            for _ in batch {
                let fields: Vec<(Vec<u8>, Vec<u8>)> = self.scripts.next(&mut answers)?;
                let mut rows: Vec<_> =
                    fields.iter().filter_map(|(session, value)| row::row(session, value)).collect();
                rows.sort_by_key(|row| (row.epoch, row.session));
                found.push(rows);
            }
        }
        Ok(found)
    }

    /// The claims among `in_the_way` whose nodes have no lease.
    async fn dead(&self, in_the_way: &[InTheWay]) -> Result<Vec<ClaimId>, Error> {
        let mut dead = Vec::new();
        for batch in in_the_way.chunks(BATCH_MAX) {
            let commands = batch.iter().map(|one| self.lease_holder(&one.node)).collect();
            let mut answers = self.scripts.ask("claim", commands).await?;
            for one in batch {
                let holder: Option<String> = self.scripts.next(&mut answers)?;
                if holder.as_deref() != Some(one.incarnation.as_str()) {
                    dead.push(one.claim);
                }
            }
        }
        Ok(dead)
    }

    /// `verb` on the place of `claim`, with what `claim` and `check` are told alike.
    fn on_place(&self, verb: &Verb, claim: &Claim) -> Cmd {
        let mut command = verb.on(&[&self.keys.place(&claim.place)]);
        self.add_asker(&mut command, &claim.place, &claim.id);
        command
            .arg(claim.session.as_str())
            .arg(row::kind_of(claim.transport, claim.ready))
            .arg(&*claim.device)
            .arg(packed::pack_incarnation(&self.incarnation))
            .arg(u64::try_from(self.fence_after.as_millis()).unwrap_or(u64::MAX));
        match claim.policy {
            Policy::PerDevice => command.arg("device"),
            Policy::Max(count) => command.arg(count.max(1)),
            Policy::Unlimited => command.arg("any"),
        };
        command
    }

    /// The arguments that every script of `lua/place.lua` begins with.
    fn add_asker(&self, command: &mut Cmd, place: &Place, claim: &ClaimId) {
        command
            .arg(self.keys.node_channel_front())
            .arg(place.namespace.as_str())
            .arg(self.node.as_str())
            .arg(packed::pack_claim(claim).as_slice());
    }

    fn answer(&self, answer: Vec<Value>) -> Result<Answer, Error> {
        let read = || {
            let mut answer = answer.into_iter();
            let epoch: u64 = redis::from_redis_value(answer.next()?).ok()?;
            let mut displaced = Vec::new();
            let mut in_the_way = Vec::new();
            while let Some(first) = answer.next() {
                let (second, third) = (answer.next()?, answer.next()?);
                if epoch > 0 {
                    let session: String = redis::from_redis_value(first).ok()?;
                    let node: String = redis::from_redis_value(second).ok()?;
                    let fence_after_ms = redis::from_redis_value(third).ok()?;
                    displaced.push(row::displaced(&session, &node, fence_after_ms)?);
                } else {
                    let node: String = redis::from_redis_value(first).ok()?;
                    let incarnation: Vec<u8> = redis::from_redis_value(second).ok()?;
                    let claim: Vec<u8> = redis::from_redis_value(third).ok()?;
                    in_the_way.push(InTheWay {
                        node: NodeId::parse(&node).ok()?,
                        incarnation: packed::unpack_incarnation(&incarnation)?,
                        claim: packed::unpack_claim(&claim)?,
                    });
                }
            }
            Some(if epoch > 0 {
                Answer::Made(Claimed {
                    epoch,
                    displaced,
                    settling: self.learned.settling.rest(Instant::now()),
                })
            } else {
                Answer::Taken(in_the_way)
            })
        };
        read().ok_or_else(|| self.unknown("claim"))
    }

    fn index_held(&self, members: impl redis::ToRedisArgs) -> Cmd {
        let mut command = redis::cmd("SADD");
        command.arg(&self.held_key).arg(members);
        command
    }

    async fn unindex_held(&self, label: &'static str, members: &[Vec<u8>]) -> Result<(), Error> {
        let mut command = redis::cmd("SREM");
        command.arg(&self.held_key).arg(members);
        let _: u64 = self.scripts.ask_one(label, command).await?;
        Ok(())
    }
}

/// What `lua/claim.lua` answers.
enum Answer {
    Made(Claimed),
    Taken(Vec<InTheWay>),
}

struct InTheWay {
    node: NodeId,
    incarnation: Incarnation,
    claim: ClaimId,
}

fn gone(claim: &Claim) -> Gone {
    Gone { place: claim.place.clone(), session: claim.session, claim: claim.id }
}

/// What `lua/check.lua` answers.
fn verdict(answer: Vec<Value>) -> Option<Verdict> {
    let mut answer = answer.into_iter();
    let word: String = redis::from_redis_value(answer.next()?).ok()?;
    Some(match word.as_str() {
        "held" => Verdict::Held,
        "restored" => Verdict::Restored,
        "absent" => Verdict::Absent,
        "evicted" => {
            let reason = row::reason(redis::from_redis_value(answer.next()?).ok()?)?;
            let by = match answer.next() {
                None => None,
                Some(device) => {
                    let device: String = redis::from_redis_value(device).ok()?;
                    let node: String = redis::from_redis_value(answer.next()?).ok()?;
                    let ts = redis::from_redis_value(answer.next()?).ok()?;
                    Some(By { device: device.into(), node: NodeId::parse(&node).ok()?, ts })
                }
            };
            Verdict::Evicted(Evicted { reason, by })
        }
        _ => return None,
    })
}
