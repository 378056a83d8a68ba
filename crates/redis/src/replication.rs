//! Writes that wait for replicas: a script and WAIT, back to back on one connection of a pool.
//!
//! WAIT covers only what its own connection has written, and holds that connection up until enough replicas have
//! confirmed, so none of it can go over the shared command connection. Each connection of the pool does one such write
//! at a time; who finds all of them busy waits for one.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{Connection, Hook, HookError, Manager, Pool};
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, Cmd, RedisError, Value};
use tidegate_core::offline::Unavailable;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::scripts::{Verb, is_unknown_script, load};
use crate::server::{Server, Session};

/// Connections at most. Each carries one write that waits, usually for less than a millisecond.
const CONNECTIONS_MAX: usize = 16;

/// What WAIT leaves of the time for its answer to come back.
const ANSWER_SHARE: u32 = 10;

/// The pool, and how it is made.
pub(crate) struct Replication {
    server: Arc<Server>,
    timeout: Duration,
    /// The connection for commands, which is known to lead to a master.
    sessions: watch::Receiver<Option<Session>>,
    state: Mutex<State>,
}

enum State {
    /// There is a pool once it is needed, until something goes wrong with it; the next write looks again where the
    /// master is.
    Open(Option<Open>),
    Closed,
}

struct Open {
    pool: Pool,
    /// The connection for commands when the pool was made.
    session: Session,
}

/// A connection of the pool's. Unless it is given back, it is closed: what is under way on it is nobody's any more, and
/// would hold up whoever has it next.
struct Lent(Option<Connection>);

impl Lent {
    fn give_back(mut self) {
        self.0 = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.take().map(Connection::take);
    }
}

impl Replication {
    pub(crate) fn new(
        server: Arc<Server>,
        sessions: watch::Receiver<Option<Session>>,
        timeout: Duration,
    ) -> Self {
        Self { server, sessions, timeout, state: Mutex::new(State::Open(None)) }
    }

    /// Carries out `command`, which is `verb` on something, and waits until `replicas` have what it wrote.
    ///
    /// # Errors
    /// When it was not answered in time, or too few replicas confirmed: the outcome is unknown.
    pub(crate) async fn replicated(
        &self,
        verb: &Verb,
        command: Cmd,
        replicas: u32,
    ) -> Result<Value, Unavailable> {
        let deadline = Instant::now() + self.timeout;
        let late = |_| Unavailable;
        let pool = tokio::time::timeout_at(deadline, self.pool()).await.map_err(late)??;
        let attempt = async {
            let connection = pool.get().await.map_err(|error| {
                tracing::debug!(%error, "failed to get a connection for a write that waits");
                Unavailable
            })?;
            let mut lent = Lent(Some(connection));
            let answer = self.write_and_wait(&mut lent, verb, &command, replicas, deadline).await;
            lent.give_back();
            answer
        };
        let outcome =
            tokio::time::timeout_at(deadline, attempt).await.map_err(late).and_then(|outcome| outcome);
        if outcome.is_err() {
            // The server may be gone without a word, and another one in its place.
            self.forget(&pool);
        }
        outcome
    }

    async fn write_and_wait(
        &self,
        lent: &mut Lent,
        verb: &Verb,
        command: &Cmd,
        replicas: u32,
        deadline: Instant,
    ) -> Result<Value, Unavailable> {
        let failed = |error: RedisError| {
            tracing::debug!(%error, "failed to write something that waits for replicas");
            Unavailable
        };
        let connection = lent.0.as_mut().ok_or(Unavailable)?;
        let mut answers = exchange(connection, command, replicas, deadline).await.map_err(failed)?;
        if answers.first().is_some_and(is_unknown_script) {
            connection.send_packed_command(&load(verb)).await.map_err(failed)?;
            answers = exchange(connection, command, replicas, deadline).await.map_err(failed)?;
        }
        let mut answers = answers.into_iter();
        let (Some(answer), Some(confirmed)) = (answers.next(), answers.next()) else {
            return Err(Unavailable);
        };
        if let Value::ServerError(error) = &answer {
            let (code, detail) = (error.code(), error.details());
            tracing::warn!(code, detail, "redis refuses a write that waits for replicas");
            return Err(Unavailable);
        }
        match redis::from_redis_value::<u32>(confirmed) {
            Ok(confirmed) if confirmed >= replicas => Ok(answer),
            _ => Err(Unavailable),
        }
    }

    async fn pool(&self) -> Result<Pool, Unavailable> {
        // The commands go to a master, as far as is known. When they went to another server before, so does the pool.
        let session = self.sessions.borrow().clone().ok_or(Unavailable)?;
        if let State::Open(Some(open)) = &*self.state.lock()
            && !open.session.broken.is_cancelled()
        {
            return Ok(open.pool.clone());
        }
        let failed = |error: RedisError| {
            tracing::debug!(%error, "failed to find the server for writes that wait");
            Unavailable
        };
        let info = self.server.info().await.map_err(failed)?;
        // Commands are timed by their callers.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(None);
        let manager = Manager::new_with_config(info, config).map_err(failed)?;
        let server = Arc::clone(&self.server);
        let check = Hook::async_fn(move |connection, _| {
            let server = Arc::clone(&server);
            Box::pin(async move { server.check_role(connection).await.map_err(HookError::Backend) })
        });
        let builder = Pool::builder(manager).max_size(CONNECTIONS_MAX).post_create(check);
        let pool = builder.build().map_err(|error| {
            tracing::error!(%error, "failed to make a pool");
            Unavailable
        })?;
        let mut state = self.state.lock();
        match &*state {
            State::Closed => Err(Unavailable),
            // Somebody else was faster.
            State::Open(Some(open)) if !open.session.broken.is_cancelled() => Ok(open.pool.clone()),
            State::Open(_) => {
                *state = State::Open(Some(Open { pool: pool.clone(), session }));
                Ok(pool)
            }
        }
    }

    /// Something went wrong with `pool`. What is under way on it may finish.
    fn forget(&self, pool: &Pool) {
        let mut state = self.state.lock();
        if let State::Open(Some(open)) = &*state
            && std::ptr::eq(open.pool.manager(), pool.manager())
        {
            *state = State::Open(None);
        }
    }

    pub(crate) fn close(&self) {
        let state = std::mem::replace(&mut *self.state.lock(), State::Closed);
        if let State::Open(Some(open)) = state {
            open.pool.close();
        }
    }
}

/// One exchange: the script's answer, and how many replicas confirmed.
async fn exchange(
    connection: &mut Connection,
    command: &Cmd,
    replicas: u32,
    deadline: Instant,
) -> Result<Vec<Value>, RedisError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let limit = left - left / ANSWER_SHARE;
    let mut wait = redis::cmd("WAIT");
    // 0 would wait for ever.
    wait.arg(replicas).arg(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1));
    let mut pipeline = redis::Pipeline::with_capacity(2);
    pipeline.add_command(command.clone()).add_command(wait);
    connection.send_packed_commands(&pipeline, 0, 2).await
}
