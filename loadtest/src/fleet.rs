//! Many connections at once.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tidegate_client::Reason;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::process::{connections_max, ports_max};

/// How long one connection may take to open.
pub(crate) const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// So many more connections are open before it is told again.
const TELL_EVERY: u32 = 50;

/// `wanted`, or as many connections as so many processes may open, having said so. `beside` is what they need besides.
pub(crate) fn capped(wanted: u32, beside: u32, processes: u32) -> anyhow::Result<u32> {
    let most = connections_max()?.saturating_sub(beside).saturating_mul(processes);
    if wanted > most {
        eprintln!(
            "only {most} of {wanted} connections: the limit of open files (ulimit -n) allows no more, --processes does"
        );
    }
    if most == 0 {
        bail!("the limit of open files (ulimit -n) allows no connection");
    }
    Ok(wanted.min(most))
}

/// Refuses more connections than there are ports for, with so many pairs of server and source address.
pub(crate) fn has_ports(wanted: u32, pairs: u32) -> anyhow::Result<()> {
    let most = ports_max()?.saturating_mul(pairs);
    if wanted > most {
        bail!(
            "{wanted} connections need more than the {most} ports there are for them: several --url or --source-addresses \
             have ports of their own"
        );
    }
    Ok(())
}

/// Opens `count` connections, or what else `connect` makes of an index, some at a time, and lets each run in a task of
/// the set, which ends with the reason when the connection does. Dropping the set closes them all. `opened` hears now and
/// then how many there are.
pub(crate) async fn open<T, C, R>(
    count: u32,
    opening_max: u32,
    opened: impl Fn(u32),
    connect: impl Fn(u32) -> C,
    run: impl Fn(T) -> R,
) -> anyhow::Result<JoinSet<Reason>>
where
    T: Send + 'static,
    C: Future<Output = anyhow::Result<T>> + Send + 'static,
    R: Future<Output = Reason> + Send + 'static,
{
    let (mut opening, mut running) = (JoinSet::new(), JoinSet::new());
    let mut open_count = 0;
    for index in 0..count {
        opening.spawn(timeout(OPEN_LIMIT, connect(index)));
        while opening.len() >= opening_max as usize || (index + 1 == count && !opening.is_empty()) {
            let one = opening.join_next().await.context("the set is not empty")??;
            let one = one.context("a connection took too long to open")?;
            running.spawn(run(one.with_context(|| format!("{open_count} of {count} connected"))?));
            open_count += 1;
            if open_count % TELL_EVERY == 0 || open_count == count {
                opened(open_count);
            }
        }
    }
    Ok(running)
}

/// The first connection that was lost, if any.
pub(crate) fn lost(running: &mut JoinSet<Reason>) -> Option<Reason> {
    running.try_join_next().map(|ended| ended.unwrap_or(Reason::TransportError))
}

/// How many connections were lost since this was asked last.
pub(crate) fn lost_count(running: &mut JoinSet<Reason>) -> u32 {
    std::iter::from_fn(|| lost(running)).map(|_| 1).sum()
}
