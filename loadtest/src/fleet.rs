//! Many connections at once.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tidegate_client::{Reason, Value};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::process::connections_max;

/// How long one connection may take to open.
const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// `wanted`, or as many connections as this process may open, having said so.
pub(crate) fn capped(wanted: u32, beside: u32) -> anyhow::Result<u32> {
    let most = connections_max()?.saturating_sub(beside);
    if wanted > most {
        eprintln!("only {most} of {wanted} connections: the limit of open files (ulimit -n) allows no more");
    }
    if most == 0 {
        bail!("the limit of open files (ulimit -n) allows no connection");
    }
    Ok(wanted.min(most))
}

/// The CONNECT payload of connection number `index`, if connections have users.
pub(crate) fn auth(has_user: bool, index: u32) -> Option<Value> {
    has_user.then(|| serde_json::json!({ "user": format!("u{index}") }).into())
}

/// Opens `count` connections, or what else `connect` makes of an index, some at a time, and lets each run in a task of
/// the set, which ends with the reason when the connection does. Dropping the set closes them all.
pub(crate) async fn open<T, C, R>(
    count: u32,
    opening_max: u32,
    connect: impl Fn(u32) -> C,
    run: impl Fn(T) -> R,
) -> anyhow::Result<JoinSet<Reason>>
where
    T: Send + 'static,
    C: Future<Output = anyhow::Result<T>> + Send + 'static,
    R: Future<Output = Reason> + Send + 'static,
{
    let (mut opening, mut running) = (JoinSet::new(), JoinSet::new());
    for index in 0..count {
        opening.spawn(timeout(OPEN_LIMIT, connect(index)));
        while opening.len() >= opening_max as usize || (index + 1 == count && !opening.is_empty()) {
            let opened = opening.join_next().await.context("the set is not empty")??;
            let opened = opened.context("a connection took too long to open")?;
            running.spawn(run(opened.with_context(|| format!("{} of {count} connected", running.len()))?));
        }
    }
    Ok(running)
}

/// The first connection that was lost, if any.
pub(crate) fn lost(running: &mut JoinSet<Reason>) -> Option<Reason> {
    running.try_join_next().map(|ended| ended.unwrap_or(Reason::TransportError))
}
