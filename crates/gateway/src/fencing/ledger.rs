//! What clients saw and when, by virtual time; and what must hold of all of it.

use std::collections::{BTreeMap, BTreeSet};

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
    /// The publication was handed to the broker.
    Handed { message: usize },
    /// The publication was carried out by the server.
    Carried { message: usize },
    /// The connection that the publication went over has ended, and nobody knows what became of it.
    GivenUp { message: usize },
    /// Its node confirms to that of `winner` that the session is silent.
    Confirms { session: usize, winner: usize },
    /// The server has passed that on.
    Silent { session: usize, winner: usize },
    /// The publication was handed to a session.
    Delivered { message: usize, session: usize },
    /// A node was taken for dead.
    Reaped { node: usize },
    /// Something went wrong at a node, or was slow there, until so much later.
    Disturbed { node: usize, for_us: u64 },
    /// The server started again, and had forgotten everything.
    Restarted,
    /// Another server has taken over, and knows everything.
    HandedOver,
    /// The server knows again that the session holds its place.
    Checked { session: usize },
}

/// Why a node closed a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// Its CONNECT could not be answered.
    Refused,
    /// It missed room traffic while its node was deaf, and was not displaced.
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
    /// When the next one claimed.
    replaced_us: Option<u64>,
    /// When it was found to hold its place.
    checked_us: Vec<u64>,
    /// Whoever came after it and was answered, and when.
    winners: Vec<(usize, u64)>,
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
        self.silence(&lives, &published, &mut found);
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
            | Event::Silent { session, .. }
            | Event::Checked { session } => of_user(session),
            Event::Published { .. }
            | Event::Handed { .. }
            | Event::Acked { .. }
            | Event::Confirms { .. }
            | Event::Carried { .. }
            | Event::GivenUp { .. } => false,
            Event::Delivered { message, session } => {
                of_user(session) && lives[session].winners.iter().any(|(_, us)| *us < published[message].0)
            }
            Event::Reaped { .. } | Event::Disturbed { .. } | Event::Restarted | Event::HandedOver => true,
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
                Event::Checked { session } => lives[session].checked_us.push(*now_us),
                Event::Acked { .. }
                | Event::Handed { .. }
                | Event::Confirms { .. }
                | Event::Carried { .. }
                | Event::GivenUp { .. }
                | Event::Silent { .. }
                | Event::HandedOver
                | Event::Delivered { .. }
                | Event::Reaped { .. }
                | Event::Disturbed { .. }
                | Event::Restarted => {}
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
            life.replaced_us = newer.clone().filter_map(|(_, rival)| rival.claimed.map(|(_, us)| us)).min();
            life.winners = newer.filter_map(|(winner, rival)| Some((winner, came(rival)?))).collect();
        }
        (lives, published)
    }

    /// Who says that `session` has no part at `now_us` in what was begun at `begun_us`, and since when.
    ///
    /// A server that starts again does not know whom it had displaced, nor who was there when somebody came, until
    /// nodes tell it. The first may act until the node of their winner has told, the second once their winner is gone.
    fn silencer(&self, lives: &[Life], session: usize, begun_us: u64, now_us: u64) -> Option<(usize, u64)> {
        let life = &lives[session];
        let restarts = || {
            self.events
                .iter()
                .filter(|(_, event)| *event == Event::Restarted)
                .map(|(restarted_us, _)| *restarted_us)
        };
        life.winners.iter().copied().find(|(winner, answered_us)| {
            let winner = &lives[*winner];
            let claimed_us = winner.claimed.map_or(0, |(_, at_us)| at_us);
            let unheard = |restarted_us: u64| life.ended_us.is_none_or(|ended_us| restarted_us < ended_us);
            let forgotten = restarts()
                .any(|restarted_us| (claimed_us..now_us).contains(&restarted_us) && unheard(restarted_us));
            let known_us = life.claimed.iter().map(|(_, at_us)| at_us).chain(&life.checked_us);
            let known_us = known_us.copied().filter(|known_us| *known_us < claimed_us).max().unwrap_or(0);
            let unknown = restarts().any(|restarted_us| (known_us..claimed_us).contains(&restarted_us));
            // Also when it has lost its place to somebody who is gone, and does not know yet.
            let replaced_us = winner.replaced_us.into_iter().chain(winner.ended_us).min();
            let over = replaced_us.is_some_and(|replaced_us| replaced_us <= now_us);
            begun_us > *answered_us && !forgotten && !(unknown && over)
        })
    }

    /// From the moment a newcomer is answered, whom it displaced is still: what its client begins after it is neither
    /// acknowledged nor delivered, and what anybody begins after it is not delivered to it.
    fn stillness(&self, lives: &[Life], published: &Published, found: &mut Vec<String>) {
        for (now_us, event) in &self.events {
            let (message, does) = match *event {
                Event::Acked { message } => (message, "acknowledged"),
                Event::Delivered { message, .. } => (message, "delivered"),
                _ => continue,
            };
            let (begun_us, publisher) = published[message];
            let mut judge = |session: usize, what: &str| {
                if let Some((winner, since_us)) = self.silencer(lives, session, begun_us, *now_us) {
                    found.push(format!(
                        "user {}: {session} was displaced by {winner}, answered at {since_us} us; {what} {message} of \
                         {begun_us} us was {does} at {now_us} us",
                        lives[session].user
                    ));
                }
            };
            judge(publisher, "its publication");
            if let Event::Delivered { session, .. } = *event {
                judge(session, "to it, publication");
            }
        }
    }

    /// Who is confirmed to be silent is: nothing that was handed on before is carried out later, but what its node gave
    /// up with the connection that it went over.
    fn silence(&self, lives: &[Life], published: &Published, found: &mut Vec<String>) {
        let (mut handed, mut given_up) = (BTreeMap::new(), BTreeSet::new());
        // When each confirmation was sent, and for each session when the latest was sent that has come through.
        let (mut confirms, mut silent) = (BTreeMap::new(), BTreeMap::new());
        for (order, (now_us, event)) in self.events.iter().enumerate() {
            match *event {
                Event::Handed { message } => {
                    handed.insert(message, order);
                }
                Event::GivenUp { message } => {
                    given_up.insert(message);
                }
                Event::Confirms { session, winner } => {
                    confirms.insert((session, winner), order);
                }
                Event::Silent { session, winner } => {
                    let sent = confirms[&(session, winner)];
                    let latest = silent.entry(session).or_insert(sent);
                    *latest = sent.max(*latest);
                }
                Event::Carried { message } if !given_up.contains(&message) => {
                    let (_, session) = published[message];
                    if silent.get(&session).is_some_and(|sent| handed[&message] < *sent) {
                        found.push(format!(
                            "user {}: {session} was confirmed to be silent, and its {message} was carried out later, at \
                             {now_us} us",
                            lives[session].user
                        ));
                    }
                }
                _ => {}
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
                        found.push(format!(
                            "user {}: {session} was evicted at {now_us} us, and nobody came in its place",
                            lives[session].user
                        ));
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
