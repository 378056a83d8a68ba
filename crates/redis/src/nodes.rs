//! The list of nodes, and what each says of itself in its lease.
//!
//! An entry of the list is a MessagePack array, written by `lua/enlist.lua` and `lua/reap_*.lua`:
//!
//! | 0 | 1 | 2 | 3 | 4 | 5 | 6 |
//! |---|---|---|---|---|---|---|
//! | node | id of its subscription's connection, 0 if unknown | since when it must have a lease | 0: lives | | | |
//! | as above | as above | as above | 1: is taken over | when that began | until when that is one node's alone | by which incarnation |
//! | as above | as above | as above | 2: was taken over | when that ended | | |
//!
//! All times are in Unix ms by the clock of Redis. A node that has its lease when it writes its entry must have it from
//! then on: whatever loses the one without the lease's time being over loses the other, too. One that has none yet, since
//! it starts or Redis has forgotten everything, gets the time that a lease lives.

use std::sync::atomic::Ordering;

use redis::Cmd;
use tidegate_core::registry::{Error, NodeRow, Own, Vitals};
use tidegate_core::{Incarnation, NodeId};
use tidegate_msgpack::{Reader, Token};

use crate::registry::Registry;
use crate::scripts::BATCH_MAX;

/// One node in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) node: NodeId,
    /// The id of its subscription's connection; 0 if it does not know.
    pub(crate) client: u64,
    /// From when on it is dead when it has no lease.
    pub(crate) due_ms: u64,
    pub(crate) state: State,
}

/// How an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its node lives, as far as anybody has noticed.
    Lives,
    /// Somebody takes over from it.
    Reaping,
    /// Somebody has taken over from it.
    Reaped {
        /// When that ended.
        at_ms: u64,
    },
}

impl Entry {
    /// Reads an entry. None for what is not understood.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let length = reader.array().ok()?;
        let node = NodeId::parse(text(&mut reader)?).ok()?;
        let client = reader.uint().ok()?;
        let due_ms = reader.uint().ok()?;
        let state = match reader.uint().ok()? {
            0 => State::Lives,
            1 if length >= 7 => State::Reaping,
            2 => State::Reaped { at_ms: reader.uint().ok()? },
            _ => return None,
        };
        Some(Self { node, client, due_ms, state })
    }
}

fn text<'a>(reader: &mut Reader<'a>) -> Option<&'a str> {
    match reader.token().ok()? {
        Token::Str(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

impl Registry {
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeRow>, Error> {
        let entries = self.entries(self.scripts.ask_one("nodes", self.list_entries()).await?);
        let mut rows = Vec::new();
        for batch in entries.chunks(BATCH_MAX) {
            self.living(batch, &mut rows).await?;
        }
        rows.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(rows)
    }

    /// Adds those of `entries` that hold their lease to `rows`.
    async fn living(&self, entries: &[(Incarnation, Entry)], rows: &mut Vec<NodeRow>) -> Result<(), Error> {
        let leases = entries.iter().map(|(_, entry)| {
            let mut command = redis::cmd("HMGET");
            command.arg(self.keys.node_lease(&entry.node)).arg(&[
                "incarnation",
                "started_at",
                "connections",
                "sessions",
                "draining",
                "version",
            ]);
            command
        });
        let mut answers = self.scripts.ask("nodes", leases.collect()).await?;
        for (incarnation, entry) in entries {
            let [holder, started_at, connections, sessions, draining, version]: [Option<String>; 6] =
                self.scripts.next(&mut answers)?;
            if holder.as_deref() != Some(incarnation.as_str()) {
                continue;
            }
            let number = |text: Option<String>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
            rows.push(NodeRow {
                node: entry.node.clone(),
                incarnation: incarnation.clone(),
                started_at_ms: number(started_at),
                vitals: Vitals {
                    connections: number(connections),
                    sessions: number(sessions),
                    draining: draining.as_deref() == Some("1"),
                    version: version.unwrap_or_default().into(),
                },
            });
        }
        Ok(())
    }

    pub(crate) async fn own(&self) -> Result<Own, Error> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.nodes()).arg(self.incarnation.as_str());
        let entry: Option<Vec<u8>> = self.scripts.ask_one("own", command).await?;
        Ok(match entry.as_deref().and_then(Entry::decode).map(|entry| entry.state) {
            None => Own::Unknown,
            Some(State::Lives) => Own::Listed,
            Some(State::Reaping | State::Reaped { .. }) => {
                self.knows_of_reaping.store(true, Ordering::Relaxed);
                self.was_reaped.store(true, Ordering::Relaxed);
                Own::Reaped
            }
        })
    }

    /// Writes this incarnation into the list.
    pub(crate) fn enlist(&self, has_lease: bool, knows_of_reaping: bool) -> Cmd {
        let lease_ttl_ms = self.learned.lease_ttl_ms.load(Ordering::Relaxed);
        let mut command = self.scripts.verbs.enlist.on(&[&self.keys.nodes()]);
        command
            .arg(self.incarnation.as_str())
            .arg(self.node.as_str())
            .arg(self.learned.subscription_client.load(Ordering::Relaxed))
            .arg(if has_lease { 0 } else { lease_ttl_ms })
            .arg(u8::from(knows_of_reaping));
        command
    }

    pub(crate) fn list_entries(&self) -> Cmd {
        let mut command = redis::cmd("HGETALL");
        command.arg(self.keys.nodes());
        command
    }

    /// Those of the list that are understood. What a newer version has written is for its own nodes to deal with.
    pub(crate) fn entries(&self, fields: Vec<(String, Vec<u8>)>) -> Vec<(Incarnation, Entry)> {
        let entry = |(incarnation, entry): (String, Vec<u8>)| {
            Some((Incarnation::from(incarnation.as_str()), Entry::decode(&entry)?))
        };
        fields.into_iter().filter_map(entry).collect()
    }

    /// Asks which incarnation holds the lease of `node`.
    pub(crate) fn lease_holder(&self, node: &NodeId) -> Cmd {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.node_lease(node)).arg("incarnation");
        command
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use proptest::prelude::*;
    use tidegate_msgpack::write;

    use super::*;

    fn encode(entry: &Entry) -> Vec<u8> {
        let mut out = Vec::new();
        let (state, times): (u64, &[u64]) = match entry.state {
            State::Lives => (0, &[]),
            State::Reaping => (1, &[1, 2]),
            State::Reaped { at_ms } => (2, &[at_ms]),
        };
        let by = u32::from(entry.state == State::Reaping);
        write::array(&mut out, 4 + u32::try_from(times.len()).unwrap() + by);
        write::str(&mut out, entry.node.as_str());
        for number in [entry.client, entry.due_ms, state].iter().chain(times) {
            write::uint(&mut out, *number);
        }
        if by > 0 {
            write::str(&mut out, "incarnation");
        }
        out
    }

    proptest! {
        #[test]
        fn entries_are_read_again(
            node in "[a-z0-9_.-]{1,20}",
            client: u64,
            due_ms: u64,
            state in prop_oneof![
                Just(State::Lives),
                Just(State::Reaping),
                any::<u64>().prop_map(|at_ms| State::Reaped { at_ms }),
            ],
        ) {
            let entry = Entry { node: NodeId::parse(&node).unwrap(), client, due_ms, state };
            prop_assert_eq!(Entry::decode(&encode(&entry)), Some(entry));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Entry::decode(&bytes);
        }
    }
}
