//! The registry's way to Redis: its scripts, and commands sent in pipelines on the command connection.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, RedisError, Script, Value};
use tidegate_core::Subscriber;
use tidegate_core::registry::Error;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::server::Session;

/// Most members of a list that one pipeline carries. At some 10 us of Redis for each, a pulse waits for less than
/// 3 ms behind one.
pub(crate) const BATCH_MAX: usize = 256;

/// Most commands that are under way at once. Ten thousand clients that come at the same moment make as many claims, and
/// the pulse has no lane of its own: what is sent before it is done before it. At some 25 us of Redis for a claim with
/// its entry in the index, a pulse waits for some 10 ms behind this many. The rest waits here, for its own time.
const IN_FLIGHT_MAX: usize = 512;

/// One atomic verb, a file of `lua/`.
pub(crate) struct Verb {
    code: String,
    hash: String,
}

impl Verb {
    fn new(parts: &[&str]) -> Self {
        let code = parts.concat();
        let hash = Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }

    /// The command that carries it out on `keys`; its arguments are still to be added.
    pub(crate) fn on<K: AsRef<str>>(&self, keys: &[K]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.hash).arg(keys.len());
        for key in keys {
            command.arg(key.as_ref());
        }
        command
    }
}

/// All of the registry's.
pub(crate) struct Verbs {
    pub(crate) claim: Verb,
    pub(crate) check: Verb,
    pub(crate) kick: Verb,
    pub(crate) refresh: Verb,
    pub(crate) release: Verb,
    pub(crate) enter: Verb,
    pub(crate) depart: Verb,
    pub(crate) enlist: Verb,
    pub(crate) reap_begin: Verb,
    pub(crate) reap_end: Verb,
    pub(crate) token: Verb,
    pub(crate) send: Verb,
    pub(crate) open: Verb,
    pub(crate) read: Verb,
    pub(crate) settle: Verb,
    pub(crate) stored: Verb,
    pub(crate) clear: Verb,
}

impl Verbs {
    fn new() -> Self {
        let place = include_str!("lua/place.lua");
        let inbox = include_str!("lua/inbox.lua");
        Self {
            claim: Verb::new(&[place, include_str!("lua/claim.lua")]),
            check: Verb::new(&[place, include_str!("lua/check.lua")]),
            kick: Verb::new(&[place, include_str!("lua/kick.lua")]),
            refresh: Verb::new(&[include_str!("lua/refresh.lua")]),
            release: Verb::new(&[include_str!("lua/release.lua")]),
            enter: Verb::new(&[include_str!("lua/enter.lua")]),
            depart: Verb::new(&[include_str!("lua/depart.lua")]),
            enlist: Verb::new(&[include_str!("lua/enlist.lua")]),
            reap_begin: Verb::new(&[include_str!("lua/reap_begin.lua")]),
            reap_end: Verb::new(&[include_str!("lua/reap_end.lua")]),
            token: Verb::new(&[include_str!("lua/token.lua")]),
            send: Verb::new(&[inbox, include_str!("lua/send.lua")]),
            open: Verb::new(&[inbox, include_str!("lua/open.lua")]),
            read: Verb::new(&[inbox, include_str!("lua/read.lua")]),
            settle: Verb::new(&[inbox, include_str!("lua/settle.lua")]),
            stored: Verb::new(&[inbox, include_str!("lua/stored.lua")]),
            clear: Verb::new(&[inbox, include_str!("lua/clear.lua")]),
        }
    }

    fn all(&self) -> [&Verb; 17] {
        let Self {
            claim, check, kick, refresh, release, enter, depart, enlist, reap_begin, reap_end, ..
        } = self;
        let Self { token, send, open, read, settle, stored, clear, .. } = self;
        [
            claim, check, kick, refresh, release, enter, depart, enlist, reap_begin, reap_end, token, send,
            open, read, settle, stored, clear,
        ]
    }
}

/// Sends commands and waits for all answers, within the command timeout.
pub(crate) struct Scripts {
    pub(crate) verbs: Verbs,
    pub(crate) timeout: Duration,
    sessions: watch::Receiver<Option<Session>>,
    /// Weak, since the subscriber usually owns the broker.
    subscriber: Weak<dyn Subscriber>,
    /// Whether the latest answer was a refusal; each series of refusals is logged once.
    failing: AtomicBool,
    /// A permit for each command that may be sent.
    room: Semaphore,
}

impl Scripts {
    pub(crate) fn new(
        sessions: watch::Receiver<Option<Session>>,
        subscriber: Weak<dyn Subscriber>,
        timeout: Duration,
    ) -> Self {
        let room = Semaphore::new(IN_FLIGHT_MAX);
        Self { verbs: Verbs::new(), timeout, sessions, subscriber, failing: AtomicBool::new(false), room }
    }

    /// Sends `commands` in one pipeline, which is observed as `label`, and returns as many answers.
    ///
    /// A timeout leaves the connection alone: what it is worth is for the pulse to find out.
    ///
    /// # Errors
    /// When one of them was refused or not answered. What became of the others is unknown.
    pub(crate) async fn ask(
        &self,
        label: &'static str,
        commands: Vec<Cmd>,
    ) -> Result<std::vec::IntoIter<Value>, Error> {
        let answers = self.attempt(label, commands).await?;
        for answer in &answers {
            if let Value::ServerError(error) = answer {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    let (code, detail) = (error.code(), error.details());
                    tracing::warn!(label, code, detail, "redis refuses the session registry");
                }
                return Err(Error);
            }
        }
        self.failing.store(false, Ordering::Relaxed);
        Ok(answers.into_iter())
    }

    /// Sends one command.
    ///
    /// # Errors
    /// As [`Scripts::ask`], and when the answer is of another type.
    pub(crate) async fn ask_one<T: FromRedisValue>(
        &self,
        label: &'static str,
        command: Cmd,
    ) -> Result<T, Error> {
        let mut answers = self.ask(label, vec![command]).await?;
        self.next(&mut answers)
    }

    /// Reads the next of `answers`.
    ///
    /// # Errors
    /// When it is missing or of another type.
    pub(crate) fn next<T: FromRedisValue>(
        &self,
        answers: &mut std::vec::IntoIter<Value>,
    ) -> Result<T, Error> {
        redis::from_redis_value(answers.next().unwrap_or(Value::Nil)).map_err(|error| {
            if !self.failing.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, "redis answers the session registry with something unknown");
            }
            Error
        })
    }

    /// Something called `label` was answered.
    pub(crate) fn took(&self, label: &'static str, elapsed: Duration) {
        if let Some(subscriber) = self.subscriber.upgrade() {
            subscriber.observe(label, elapsed);
        }
    }

    /// Sends `commands` and returns the answers, refusals among them. Scripts that the server does not know are
    /// loaded and carried out once more; a server forgets them when it is restarted.
    ///
    /// # Errors
    /// When the connection broke, or nothing came in time. What did not get its turn in that time was not sent.
    pub(crate) async fn attempt(&self, label: &'static str, commands: Vec<Cmd>) -> Result<Vec<Value>, Error> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let session = self.sessions.borrow().clone().ok_or(Error)?;
        let deadline = Instant::now() + self.timeout;
        let permits = u32::try_from(commands.len().min(IN_FLIGHT_MAX)).unwrap_or(u32::MAX);
        let turn = tokio::select! {
            turn = tokio::time::timeout_at(deadline, self.room.acquire_many(permits)) => turn,
            () = session.broken.cancelled() => return Err(Error),
        };
        // It is never closed, and a turn that came too late is none.
        let (Ok(Ok(_turn)), true) = (turn, Instant::now() < deadline) else { return Err(Error) };
        let sent = Instant::now();
        let exchange = async {
            let mut answers = send(&session, commands.iter()).await?;
            let unknown: Vec<_> = (0..answers.len()).filter(|&at| is_unknown_script(&answers[at])).collect();
            if !unknown.is_empty() {
                let loads: Vec<_> = self.verbs.all().iter().map(|verb| load(verb)).collect();
                let again = loads.iter().chain(unknown.iter().map(|&at| &commands[at]));
                let mut repeated = send(&session, again).await?;
                for (at, answer) in unknown.into_iter().zip(repeated.drain(loads.len()..)) {
                    answers[at] = answer;
                }
            }
            Ok::<_, RedisError>(answers)
        };
        let answered = tokio::select! {
            answered = tokio::time::timeout_at(deadline, exchange) => answered,
            () = session.broken.cancelled() => return Err(Error),
        };
        match answered {
            Ok(Ok(answers)) => {
                self.took(label, sent.elapsed());
                Ok(answers)
            }
            Ok(Err(error)) => {
                tracing::debug!(label, %error, "failed to reach the session registry");
                session.broken.cancel();
                Err(Error)
            }
            Err(_) => {
                tracing::debug!(label, "the session registry did not answer in time");
                Err(Error)
            }
        }
    }
}

async fn send<'a>(
    session: &Session,
    commands: impl Iterator<Item = &'a Cmd>,
) -> Result<Vec<Value>, RedisError> {
    let mut pipeline = redis::Pipeline::new();
    for command in commands {
        pipeline.add_command(command.clone());
    }
    session.connection.clone().send_packed_commands(&pipeline, 0, pipeline.len()).await
}

pub(crate) fn load(verb: &Verb) -> Cmd {
    let mut command = redis::cmd("SCRIPT");
    command.arg("LOAD").arg(&verb.code);
    command
}

pub(crate) fn is_unknown_script(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}
