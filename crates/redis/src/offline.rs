//! The offline store on Redis: one stream a place, beside the hash of its sessions, in the same slot.
//!
//! Sending takes two steps, since sender and recipient live in different slots: an attempt out of the sender's minute,
//! which its claim must allow, and then one script that does all the rest: idempotency, quotas, the message, and word to
//! the nodes of whoever is ready. Word goes out in that step, like evictions: no node can die in between.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use redis::{Cmd, FromRedisValue, Value};
use tidegate_core::OfflineStore;
use tidegate_core::offline::{
    Full, Holder, HolderError, Letter, Page, Quotas, SendError, Sender, Sent, Serial, Settled, Settlement,
    Span, Status, Stored, Unavailable,
};
use tidegate_core::registry::{Error, Place};

use crate::inbox;
use crate::packed;
use crate::registry::Registry;
use crate::replication::Replication;
use crate::scripts::{BATCH_MAX, Verb};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Most bytes of a message that nodes are told along with its arrival, so that a full queue of a node's own channel
/// stays within some 64 MiB. Larger ones are read from the inbox.
const INLINE_BYTES_MAX: usize = 4 * 1024;

/// Most bytes of one page, of which a first message may take more: half a millisecond of Redis.
const PAGE_BYTES_MAX: usize = 256 * 1024;

/// Pages that may be under way at once. Thousands of sessions come back at the same moment, and a pulse waits behind
/// what was sent before it: behind so many of the largest pages, for less than twenty milliseconds.
const READERS_MAX: usize = 32;

/// The port. Every call runs on its own, and is given up when its future is dropped.
pub(crate) struct Offline(pub(crate) Arc<Inboxes>);

/// What its calls share.
pub(crate) struct Inboxes {
    registry: Arc<Registry>,
    quotas: Quotas,
    /// The way of what waits for replicas.
    replication: Option<Replication>,
    /// A permit for each page that may be read.
    readers: Semaphore,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unavailable(_: Error) -> Unavailable {
    Unavailable
}

impl Inboxes {
    pub(crate) fn new(registry: Arc<Registry>, quotas: Quotas, replication: Option<Replication>) -> Self {
        Self { registry, quotas, replication, readers: Semaphore::new(READERS_MAX) }
    }

    async fn ask<T: FromRedisValue>(&self, label: &'static str, command: Cmd) -> Result<T, Unavailable> {
        self.registry.scripts.ask_one(label, command).await.map_err(unavailable)
    }

    fn unknown(&self, what: &'static str) -> Unavailable {
        unavailable(self.registry.unknown(what))
    }

    /// `verb` on the inbox of `holder`, with the arguments that name it.
    fn as_holder(&self, verb: &Verb, holder: &Holder) -> Cmd {
        let mut command = verb.on(&self.registry.keys.inbox(&holder.place));
        command.arg(holder.session.as_str()).arg(packed::pack_claim(&holder.claim).as_slice());
        command
    }

    /// Both steps, within one command timeout.
    async fn send(&self, letter: &Letter) -> Result<Sent, SendError> {
        let limit = self.registry.scripts.timeout;
        tokio::time::timeout(limit, self.send_in_time(letter)).await.unwrap_or(Err(Unavailable.into()))
    }

    async fn send_in_time(&self, letter: &Letter) -> Result<Sent, SendError> {
        let began = Instant::now();
        if let Sender::Session(holder) = &letter.from {
            self.take_token(holder).await?;
        }
        if began.elapsed() > self.registry.fence_after {
            // The sender may have lost its place since, and whoever has it may have been answered.
            return Err(Unavailable.into());
        }
        let command = self.sending(letter);
        let answer: Vec<Value> = match &self.replication {
            None => self.ask("send", command).await?,
            Some(replication) => {
                let scripts = &self.registry.scripts;
                let answer = replication.replicated(&scripts.verbs.send, command, self.quotas.wait_replicas);
                redis::from_redis_value(answer.await?).map_err(|_| self.unknown("send"))?
            }
        };
        self.sent(answer).ok_or_else(|| self.unknown("send"))?
    }

    async fn take_token(&self, holder: &Holder) -> Result<(), SendError> {
        let keys = &self.registry.keys;
        let keys = [keys.place(&holder.place), keys.attempts(&holder.place)];
        let mut command = self.registry.scripts.verbs.token.on(&keys);
        command
            .arg(holder.session.as_str())
            .arg(packed::pack_claim(&holder.claim).as_slice())
            .arg(self.quotas.sender_per_minute_max);
        let mut answer = self.ask::<Vec<Value>>("token", command).await?.into_iter();
        let word: String = next(&mut answer).ok_or_else(|| self.unknown("token"))?;
        match word.as_str() {
            "ok" => Ok(()),
            "limited" => {
                let left_ms: u64 = next(&mut answer).ok_or_else(|| self.unknown("token"))?;
                Err(SendError::RateLimited { retry_after: Duration::from_millis(left_ms) })
            }
            word => Err(self.refusal(word).into()),
        }
    }

    fn sending(&self, letter: &Letter) -> Cmd {
        let Registry { keys, scripts, node, .. } = &*self.registry;
        let mut all = Vec::from(keys.inbox(&letter.to));
        if let Some(id) = &letter.id {
            all.push(keys.idempotency(&letter.to, letter.from.user().map(|user| &**user), id));
        }
        let ttl = letter.ttl.unwrap_or(self.quotas.age_max).min(self.quotas.age_max);
        let mut command = scripts.verbs.send.on(&all);
        command
            .arg(keys.node_channel_front())
            .arg(letter.to.namespace.as_str())
            .arg(inbox::encode(letter, node))
            .arg(millis(ttl))
            .arg(self.quotas.messages_max)
            .arg(self.quotas.bytes_max)
            .arg(millis(self.quotas.id_ttl).max(1))
            .arg(u8::from(self.replication.is_some()))
            .arg(INLINE_BYTES_MAX);
        command
    }

    /// What `lua/send.lua` answers; none for what is not understood.
    fn sent(&self, answer: Vec<Value>) -> Option<Result<Sent, SendError>> {
        let mut answer = answer.into_iter();
        let word: String = next(&mut answer)?;
        let what: String = next(&mut answer)?;
        let expired = next(&mut answer)?;
        let status = match word.as_str() {
            "full" => {
                let full = if what == "bytes" { Full::Bytes } else { Full::Messages };
                return Some(Err(SendError::Full(full)));
            }
            "live" => Status::Live,
            "stored" => Status::Stored,
            "duplicate" => Status::Duplicate,
            _ => return None,
        };
        let (count, bytes) = (next(&mut answer)?, next(&mut answer)?);
        Some(Ok(Sent { serial: Serial::parse(&what)?, status, expired, count, bytes }))
    }

    async fn open(&self, holder: &Holder) -> Result<Serial, HolderError> {
        let command = self.as_holder(&self.registry.scripts.verbs.open, holder);
        let mut answer = self.ask::<Vec<Value>>("open", command).await?.into_iter();
        self.allowed(&mut answer)?;
        let last: Option<String> = next(&mut answer);
        Ok(last.and_then(|last| Serial::parse(&last)).ok_or_else(|| self.unknown("open"))?)
    }

    async fn read(&self, holder: &Holder, span: &Span) -> Result<Page, HolderError> {
        // Never closed.
        let Ok(_turn) = self.readers.acquire().await else { return Err(Unavailable.into()) };
        let mut command = self.as_holder(&self.registry.scripts.verbs.read, holder);
        command
            .arg(span.after.to_string())
            .arg(span.until.map(|until| until.to_string()).unwrap_or_default())
            .arg(span.messages_max.max(1))
            .arg(span.bytes_max.min(PAGE_BYTES_MAX));
        let mut answer = self.ask::<Vec<Value>>("read", command).await?.into_iter();
        self.allowed(&mut answer)?;
        let mut page = || {
            let upto = Serial::parse(&next::<String>(&mut answer)?)?;
            let has_more = next::<u8>(&mut answer)? == 1;
            let expired = next(&mut answer)?;
            let mut messages = Vec::with_capacity(answer.len() / 2);
            while let Some(serial) = next::<String>(&mut answer) {
                let serial = Serial::parse(&serial)?;
                let raw: Vec<u8> = next(&mut answer)?;
                // One that cannot be read must not keep those behind it back. It ages and expires.
                match inbox::decode(serial, raw) {
                    Some(message) => messages.push(message),
                    None => drop(self.unknown("message")),
                }
            }
            Some(Page { messages, upto, has_more, expired })
        };
        Ok(page().ok_or_else(|| self.unknown("read"))?)
    }

    /// Reads whether the step was done.
    fn allowed(&self, answer: &mut std::vec::IntoIter<Value>) -> Result<(), HolderError> {
        let word: String = next(answer).ok_or_else(|| self.unknown("holder"))?;
        if word == "ok" { Ok(()) } else { Err(self.refusal(&word)) }
    }

    fn refusal(&self, word: &str) -> HolderError {
        match word {
            "displaced" => HolderError::Displaced,
            "absent" => HolderError::Absent,
            _ => self.unknown("holder").into(),
        }
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Settled>, Unavailable> {
        let mut settled = vec![Settled::Deleted(0); settlements.len()];
        // In pieces of few serials, since each of them costs Redis a look, and a pulse waits behind them.
        let mut pieces = Vec::with_capacity(settlements.len());
        for (at, settlement) in settlements.iter().enumerate() {
            pieces.extend(
                settlement.serials.chunks(BATCH_MAX).map(|serials| (at, &settlement.holder, serials)),
            );
        }
        let (mut batch, mut serials_in_batch) = (Vec::new(), 0);
        for piece in pieces {
            if serials_in_batch + piece.2.len() > BATCH_MAX {
                self.settle_batch(&mut batch, &mut settled).await?;
                serials_in_batch = 0;
            }
            serials_in_batch += piece.2.len();
            batch.push(piece);
        }
        self.settle_batch(&mut batch, &mut settled).await?;
        Ok(settled)
    }

    /// One pipeline: pieces of settlements, each with its place among `settled`.
    async fn settle_batch(
        &self,
        batch: &mut Vec<(usize, &Holder, &[Serial])>,
        settled: &mut [Settled],
    ) -> Result<(), Unavailable> {
        let scripts = &self.registry.scripts;
        let commands = batch.iter().map(|(_, holder, serials)| {
            let mut command = self.as_holder(&scripts.verbs.settle, holder);
            for serial in *serials {
                command.arg(serial.to_string());
            }
            command
        });
        let mut answers = scripts.ask("settle", commands.collect()).await.map_err(unavailable)?;
        for (at, ..) in batch.drain(..) {
            let outcome = match scripts.next::<i64>(&mut answers).map_err(unavailable)? {
                -1 => Settled::Displaced,
                deleted => u64::try_from(deleted).map_or(Settled::Absent, Settled::Deleted),
            };
            settled[at] = match (settled[at], outcome) {
                (Settled::Deleted(before), Settled::Deleted(more)) => Settled::Deleted(before + more),
                // A session that is refused once has not settled everything.
                (Settled::Deleted(_), refused) => refused,
                (refused, _) => refused,
            };
        }
        Ok(())
    }

    async fn stored(&self, place: &Place) -> Result<Stored, Unavailable> {
        let command = self.registry.scripts.verbs.stored.on(&self.registry.keys.inbox(place));
        let (count, bytes, expired) = self.ask("stored", command).await?;
        Ok(Stored { count, bytes, expired })
    }

    async fn clear(&self, place: &Place) -> Result<u64, Unavailable> {
        self.ask("clear", self.registry.scripts.verbs.clear.on(&self.registry.keys.inbox(place))).await
    }
}

fn next<T: FromRedisValue>(answer: &mut std::vec::IntoIter<Value>) -> Option<T> {
    redis::from_redis_value(answer.next()?).ok()
}

impl OfflineStore for Offline {
    fn send(&self, letter: Letter) -> BoxFuture<'static, Result<Sent, SendError>> {
        let inboxes = Arc::clone(&self.0);
        async move { inboxes.send(&letter).await }.boxed()
    }

    fn open(&self, holder: Holder) -> BoxFuture<'static, Result<Serial, HolderError>> {
        let inboxes = Arc::clone(&self.0);
        async move { inboxes.open(&holder).await }.boxed()
    }

    fn read(&self, holder: Holder, span: Span) -> BoxFuture<'static, Result<Page, HolderError>> {
        let inboxes = Arc::clone(&self.0);
        async move { inboxes.read(&holder, &span).await }.boxed()
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'static, Result<Vec<Settled>, Unavailable>> {
        let inboxes = Arc::clone(&self.0);
        async move { inboxes.settle(&settlements).await }.boxed()
    }

    fn stored(&self, place: Place) -> BoxFuture<'static, Result<Stored, Unavailable>> {
        let inboxes = Arc::clone(&self.0);
        async move { inboxes.stored(&place).await }.boxed()
    }

    fn clear(&self, place: Place) -> BoxFuture<'static, Result<u64, Unavailable>> {
        let inboxes = Arc::clone(&self.0);
        async move { inboxes.clear(&place).await }.boxed()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let inboxes = Arc::clone(&self.0);
        async move {
            if let Some(replication) = &inboxes.replication {
                replication.close();
            }
        }
        .boxed()
    }
}
