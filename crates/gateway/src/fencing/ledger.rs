//! What clients saw and when, by virtual time; and what must hold of all of it.

use std::collections::BTreeSet;

use super::{FENCE_US, SLACK_US};

/// Something that happened. Sessions are called by the number of their CONNECT, in the order of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A client asked `node` for a session.
    Connect { session: usize, user: usize, node: usize },
    /// Its claim was carried out by the server.
    Claimed { session: usize },
    /// Its CONNECT was answered.
    Answered { session: usize },
    /// Its client was told that it was evicted.
    Evicted { session: usize },
    /// Its transport was closed by the node.
    Closed { session: usize, why: Closed },
    /// Its client went away.
    Left { session: usize },
    /// Its client sent a publication.
    Published { message: usize, session: usize },
    /// The publication was acknowledged.
    Acked { message: usize },
    /// The publication was handed to a session.
    Delivered { message: usize, session: usize },
    /// A node was taken for dead.
    Reaped { node: usize },
    /// Something went wrong at a node, or was slow there, until so much later.
    Disturbed { node: usize, for_us: u64 },
    /// The server forgot that a session was displaced, before its node knew.
    Forgotten { session: usize },
}

/// Why a node closed a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// Its CONNECT could not be answered.
    Refused,
    /// Room traffic for it was held for too long by a deaf node.
    Deaf,
    /// Its node was taken for dead.
    Absent,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) events: Vec<(u64, Event)>,
    /// What was found wrong at rest.
    pub(super) unrest: Vec<String>,
    /// Rows of sessions that live nowhere, at rest. They do no harm to per-device places with `replace`.
    pub(super) orphans: usize,
}

/// What the ledger says of one session.
#[derive(Clone, Default)]
struct Life {
    user: usize,
    node: usize,
    connect_us: u64,
    /// Its place in the order of claims, from 1.
    claimed: Option<(usize, u64)>,
    answered_us: Option<u64>,
    evicted_us: Option<u64>,
    ended_us: Option<u64>,
    /// From when on it must be still.
    displaced: Option<(usize, u64)>,
    forgotten: bool,
}

/// Publications: when, and by which session.
type Published = Vec<(u64, usize)>;

impl Ledger {
    pub(super) fn write(&mut self, now_us: u64, event: Event) {
        self.events.push((now_us, event));
    }

    /// Everything that should not have happened.
    pub(super) fn violations(&self) -> Vec<String> {
        let (lives, published) = self.read();
        let mut found = self.unrest.clone();
        self.stillness(&lives, &published, &mut found);
        self.endings(&lives, &mut found);
        self.liveness(&lives, &mut found);
        found
    }

    /// What happened to the sessions of `user`, and to nodes, as lines.
    pub(super) fn trace(&self, user: usize) -> Vec<String> {
        let (lives, published) = self.read();
        let of_user = |session: usize| lives[session].user == user;
        let told = self.events.iter().filter(|(_, event)| match *event {
            Event::Connect { session, .. }
            | Event::Claimed { session }
            | Event::Answered { session }
            | Event::Evicted { session }
            | Event::Closed { session, .. }
            | Event::Left { session }
            | Event::Forgotten { session } => of_user(session),
            Event::Published { .. } | Event::Acked { .. } => false,
            Event::Delivered { message, session } => {
                of_user(session) && lives[session].displaced.is_some_and(|(_, us)| us < published[message].0)
            }
            Event::Reaped { .. } | Event::Disturbed { .. } => true,
        });
        told.map(|(at_us, event)| format!("{:>12.3} ms {event:?}", *at_us as f64 / 1_000.0)).collect()
    }

    fn read(&self) -> (Vec<Life>, Published) {
        let (mut lives, mut published, mut claims) = (Vec::<Life>::new(), Published::new(), 0);
        for (now_us, event) in &self.events {
            let now = Some(*now_us);
            match *event {
                Event::Connect { user, node, .. } => {
                    lives.push(Life { user, node, connect_us: *now_us, ..Life::default() });
                }
                Event::Claimed { session } => {
                    claims += 1;
                    lives[session].claimed = Some((claims, *now_us));
                }
                Event::Answered { session } => lives[session].answered_us = now,
                Event::Evicted { session } => {
                    lives[session].evicted_us = now;
                    lives[session].ended_us = now;
                }
                Event::Closed { session, .. } | Event::Left { session } => {
                    lives[session].ended_us = lives[session].ended_us.or(now);
                }
                Event::Published { session, .. } => published.push((*now_us, session)),
                Event::Forgotten { session } => lives[session].forgotten = true,
                Event::Acked { .. } | Event::Delivered { .. } | Event::Reaped { .. } | Event::Disturbed { .. } => {}
            }
        }
        // Whoever is told in one breath that it is connected and that it no longer is never was.
        let came = |life: &Life| life.answered_us.filter(|answered_us| life.evicted_us != Some(*answered_us));
        let rivals: Vec<Life> = lives.clone();
        for life in &mut lives {
            let Some((order, _)) = life.claimed else { continue };
            let newer = rivals.iter().enumerate().filter(|(_, rival)| {
                rival.user == life.user && rival.claimed.is_some_and(|(later, _)| later > order)
            });
            let answered = newer.filter_map(|(winner, rival)| Some((winner, came(rival)?)));
            life.displaced = answered.min_by_key(|(_, answered_us)| *answered_us);
        }
        (lives, published)
    }

    /// From the moment a newcomer is answered, whom it displaced is still: what its client begins after it is neither
    /// acknowledged nor delivered, and what anybody begins after it is not delivered to it.
    fn stillness(&self, lives: &[Life], published: &Published, found: &mut Vec<String>) {
        let still_since = |session: usize| lives[session].displaced.filter(|_| !lives[session].forgotten);
        for (now_us, event) in &self.events {
            let (message, does) = match *event {
                Event::Acked { message } => (message, "was acknowledged"),
                Event::Delivered { message, .. } => (message, "was delivered"),
                _ => continue,
            };
            let (begun_us, publisher) = published[message];
            if let Some((winner, since_us)) = still_since(publisher)
                && begun_us > since_us
            {
                found.push(format!(
                    "user {}: {publisher} was displaced by {winner}, answered at {since_us} us; its publication \
                     {message} of {begun_us} us {does} at {now_us} us",
                    lives[publisher].user
                ));
            }
            if let Event::Delivered { session, .. } = *event
                && let Some((winner, since_us)) = still_since(session)
                && begun_us > since_us
            {
                found.push(format!(
                    "user {}: {session} was displaced by {winner}, answered at {since_us} us; publication {message} \
                     of {begun_us} us was delivered to it at {now_us} us",
                    lives[session].user
                ));
            }
        }
    }

    /// Nobody is evicted for whom nobody came, and no node gives up a session but after it was itself given up.
    fn endings(&self, lives: &[Life], found: &mut Vec<String>) {
        let mut reaped = BTreeSet::new();
        for (now_us, event) in &self.events {
            match *event {
                Event::Reaped { node } => {
                    reaped.insert(node);
                }
                Event::Closed { session, why: Closed::Absent } if !reaped.contains(&lives[session].node) => {
                    found.push(format!("user {}: {session} was closed for a reaper at {now_us} us, and its node was not reaped", lives[session].user));
                }
                Event::Evicted { session } => {
                    let order = lives[session].claimed.map_or(0, |(order, _)| order);
                    let came = lives.iter().any(|rival| {
                        rival.user == lives[session].user
                            && rival.claimed.is_some_and(|(later, at_us)| later > order && at_us <= *now_us)
                    });
                    if !came {
                        found.push(format!("user {}: {session} was evicted at {now_us} us, and nobody came in its place", lives[session].user));
                    }
                }
                _ => {}
            }
        }
    }

    /// On a node that nothing happened to, a newcomer is answered within `fence_after` of its claim and a bit.
    fn liveness(&self, lives: &[Life], found: &mut Vec<String>) {
        let disturbed: Vec<(usize, u64, u64)> = self
            .events
            .iter()
            .filter_map(|(at_us, event)| match *event {
                Event::Disturbed { node, for_us } => Some((node, *at_us, at_us + for_us)),
                _ => None,
            })
            .collect();
        for (session, life) in lives.iter().enumerate() {
            let Some((_, claimed_us)) = life.claimed else { continue };
            let due_us = claimed_us + FENCE_US + SLACK_US;
            // A disturbance is felt for a while: connections come back, lapses are audited.
            let well = !disturbed.iter().any(|(node, from_us, until_us)| {
                *node == life.node && *from_us <= due_us && until_us + 3 * FENCE_US >= life.connect_us
            });
            let settled_us = life.answered_us.into_iter().chain(life.ended_us).min();
            if well && settled_us.is_none_or(|settled_us| settled_us > due_us) {
                found.push(format!(
                    "user {}: {session} claimed at {claimed_us} us on a healthy node and was not answered by {due_us} us",
                    life.user
                ));
            }
        }
    }
}
