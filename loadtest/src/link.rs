//! What passes between the run and those who hold its connections: orders one way, reports the other. In one process
//! these are channels; between processes they are lines of JSON in a pipe.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::tally::Tally;
use crate::{acks, audience, churn, idle, rooms};

/// Orders that wait for a worker. There is one at a time.
pub(crate) const ORDERS_MAX: usize = 4;
/// Reports that wait for the run: the completions of all messages in flight, and one of each other kind, of each worker.
pub(crate) const REPORTS_MAX: usize = 8192;

/// What a worker is there for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Job {
    Audience(audience::Job),
    Rooms(rooms::Job),
    Acks(acks::Job),
    Churn(churn::Job),
    Idle(idle::Job),
}

/// What a worker is told. It answers each with [`Report::Done`] once it has been carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The first one: what to do. Connections are opened.
    Job(Box<Job>),
    /// A phase begins; what was counted before does not count.
    Start,
    /// The phase ends: what is under way may finish. Answered with what was counted.
    Halt,
    /// Some connections are not read any more.
    Stall,
    /// They are read again.
    Resume,
}

/// What a worker says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Report {
    /// So many connections are open.
    Opened(u32),
    /// So much has been done since the worker began, whatever the scenario does.
    Count(u64),
    /// Message number so many has reached everyone here.
    Completed(u64),
    /// An order has been carried out.
    Done(Box<Tally>),
    /// There is no point in going on.
    Failed(String),
}

/// Connections first to first + count, of all workers' together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl Share {
    /// Divides `count` things among so many; nobody goes without, so there may be fewer shares.
    pub(crate) fn divide(count: u32, among: u32) -> Vec<Share> {
        let among = among.min(count).max(1);
        let end = |at: u32| (u64::from(count) * u64::from(at) / u64::from(among)) as u32;
        (0..among).map(|at| Share { first: end(at), count: end(at + 1) - end(at) }).collect()
    }
}

/// A worker's end.
pub(crate) struct Port {
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) reports: Reports,
}

/// The way to the run. It knows whose it is.
#[derive(Clone)]
pub(crate) struct Reports {
    pub(crate) worker: usize,
    pub(crate) sender: mpsc::Sender<(usize, Report)>,
}

impl Reports {
    /// Fails when the run is over.
    pub(crate) async fn tell(&self, report: Report) -> anyhow::Result<()> {
        self.sender.send((self.worker, report)).await.ok().context("the run is over")
    }

    /// Tells what there is room for: see [`REPORTS_MAX`]. A completion that found none would stop the run, which says so.
    pub(crate) fn tell_now(&self, report: Report) {
        let _ = self.sender.try_send((self.worker, report));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_leave_nothing_out() {
        for (count, among) in [(10, 3), (1, 4), (0, 2), (20_001, 7), (u32::MAX, 64)] {
            let shares = Share::divide(count, among);
            assert_eq!(shares.iter().map(|share| u64::from(share.count)).sum::<u64>(), u64::from(count));
            assert!(shares.windows(2).all(|pair| pair[0].first + pair[0].count == pair[1].first));
            let counts = shares.iter().map(|share| share.count);
            assert!(counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0) <= 1);
        }
    }
}
