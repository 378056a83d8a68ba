//! The offline store against plain lists of messages: whatever happens, both say the same after every step.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tidegate_core::offline::{
    Full, HolderError, Letter, Quotas, SendError, Serial, Settled, Settlement, Span, Status,
};
use tidegate_core::registry::Claim;
use tidegate_test::offline_suite::{all_after, holder, letter, letter_of, text};
use tidegate_test::registry_suite::{Cluster, Node, claim, node, place};

const NODES: [&str; 2] = ["a", "b"];
const USERS: [&str; 2] = ["u", "v"];
const DEVICES: [&str; 2] = ["phone", "desk"];
const KEYS: [&str; 2] = ["k", "l"];

/// Few, so that histories reach it.
const MESSAGES_MAX: u64 = 5;

/// One thing that happens. An `at` is which of the claims made so far, counted from the latest; a `mark` which of the
/// serials.
#[derive(Clone, Debug)]
enum Step {
    Claim {
        node: usize,
        user: usize,
        device: usize,
    },
    Release {
        at: usize,
    },
    Open {
        at: usize,
    },
    Send {
        node: usize,
        at: Option<usize>,
        to: usize,
        key: Option<usize>,
    },
    /// Something that has expired before the next step.
    SendBrief {
        node: usize,
        to: usize,
    },
    Read {
        at: usize,
        mark: usize,
        messages_max: usize,
        until: Option<usize>,
    },
    Settle {
        at: usize,
        marks: Vec<usize>,
    },
    Clear {
        node: usize,
        user: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (nodes, users, devices) = (0..NODES.len(), 0..USERS.len(), 0..DEVICES.len());
    let (at, mark) = (|| 0..4_usize, || 0..8_usize);
    prop_oneof![
        4 => (nodes.clone(), users.clone(), devices)
            .prop_map(|(node, user, device)| Step::Claim { node, user, device }),
        1 => at().prop_map(|at| Step::Release { at }),
        3 => at().prop_map(|at| Step::Open { at }),
        10 => (nodes.clone(), prop::option::of(at()), users.clone(), prop::option::weighted(0.3, 0..KEYS.len()))
            .prop_map(|(node, at, to, key)| Step::Send { node, at, to, key }),
        2 => (nodes.clone(), users.clone()).prop_map(|(node, to)| Step::SendBrief { node, to }),
        5 => (at(), mark(), 1..4_usize, prop::option::of(mark()))
            .prop_map(|(at, mark, messages_max, until)| Step::Read { at, mark, messages_max, until }),
        4 => (at(), prop::collection::vec(mark(), 1..4)).prop_map(|(at, marks)| Step::Settle { at, marks }),
        1 => (nodes, users).prop_map(|(node, user)| Step::Clear { node, user }),
    ]
}

/// Runs `cases` random histories, each on what `cluster` gives.
///
/// # Panics
/// With the shortest history found on which store and model disagree.
pub(crate) fn holds<C: Cluster>(cases: u32, cluster: impl Fn() -> C) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&prop::collection::vec(step(), 1..60), |steps| {
        runtime.block_on(async {
            let cluster = cluster();
            let mut world = World::new(&cluster).await;
            for step in steps {
                world.take(step).await?;
            }
            Ok(())
        })
    });
    if let Err(failure) = outcome {
        panic!("{failure}\n{runner}");
    }
}

/// A claim, and what has become of it.
struct Session {
    node: usize,
    claim: Claim,
    standing: Result<(), HolderError>,
    ready: bool,
}

/// The inbox of one user.
#[derive(Default)]
struct Inbox {
    waiting: Vec<(Serial, String)>,
    /// Every serial that was ever given out.
    serials: Vec<Serial>,
    /// At most so many have expired since somebody looked; exactly so many, unless somebody has looked who does not
    /// tell.
    expired: u64,
    is_vague: bool,
    /// By sender and key.
    known: HashMap<(Option<&'static str>, &'static str), Serial>,
}

impl Inbox {
    fn last(&self) -> Serial {
        self.serials.last().copied().unwrap_or(Serial::ZERO)
    }

    /// Somebody looks who does not tell what has expired.
    fn look(&mut self) {
        self.is_vague |= self.expired > 0;
    }

    /// Somebody looks and tells: whether that can be.
    fn told(&mut self, expired: u64) -> bool {
        let most = std::mem::take(&mut self.expired);
        if std::mem::take(&mut self.is_vague) { expired <= most } else { expired == most }
    }

    /// The serial `back` ones before the latest, or before all.
    fn mark(&self, back: usize) -> Serial {
        self.serials.len().checked_sub(back + 1).map_or(Serial::ZERO, |at| self.serials[at])
    }
}

struct World {
    nodes: Vec<Node>,
    sessions: Vec<Session>,
    inboxes: HashMap<&'static str, Inbox>,
    sent: usize,
}

impl World {
    async fn new(cluster: &impl Cluster) -> Self {
        let mut nodes = Vec::new();
        for name in NODES {
            nodes.push(node(cluster, name).await);
        }
        let inboxes = USERS.iter().map(|user| (*user, Inbox::default())).collect();
        Self { nodes, sessions: Vec::new(), inboxes, sent: 0 }
    }

    fn store(&self, node: usize) -> std::sync::Arc<dyn tidegate_core::OfflineStore> {
        let quotas = Quotas { messages_max: MESSAGES_MAX, sender_per_minute_max: 0, ..Quotas::default() };
        (self.nodes[node].stores.0)(quotas)
    }

    /// The session `at`, and its user.
    fn session(&self, at: usize) -> Option<(usize, &'static str)> {
        let index = self.sessions.len().checked_sub(at + 1)?;
        let user = USERS.iter().find(|user| ***user == *self.sessions[index].claim.place.user)?;
        Some((index, user))
    }

    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Claim { node, user, device } => self.claim(node, USERS[user], DEVICES[device]).await,
            Step::Release { at } => {
                let Some((index, _)) = self.session(at) else { return Ok(()) };
                let session = &mut self.sessions[index];
                self.nodes[session.node].release(&session.claim).await;
                session.standing = Err(HolderError::Absent);
            }
            Step::Open { at } => {
                let Some((index, user)) = self.session(at) else { return Ok(()) };
                let store = self.store(self.sessions[index].node);
                let session = &mut self.sessions[index];
                let opened = store.open(holder(&session.claim)).await;
                prop_assert_eq!(opened, session.standing.map(|()| self.inboxes[user].last()));
                session.ready |= session.standing.is_ok();
            }
            Step::Send { node, at, to, key } => {
                self.send(node, at, USERS[to], key.map(|key| KEYS[key])).await?;
            }
            Step::Read { at, mark, messages_max, until } => {
                self.read(at, mark, messages_max, until).await?;
            }
            Step::SendBrief { node, to } => {
                // What has expired is to be found by whatever comes next.
                return self.send_brief(node, USERS[to]).await;
            }
            Step::Settle { at, marks } => {
                let Some((index, user)) = self.session(at) else { return Ok(()) };
                let session = &self.sessions[index];
                let inbox = self.inboxes.get_mut(user).unwrap();
                let serials: Vec<_> = marks.iter().map(|mark| inbox.mark(*mark)).collect();
                let before = inbox.waiting.len();
                if session.standing.is_ok() {
                    inbox.waiting.retain(|(serial, _)| !serials.contains(serial));
                }
                let deleted = (before - inbox.waiting.len()) as u64;
                inbox.look();
                let most = deleted + inbox.expired;
                let settlement = Settlement { holder: holder(&session.claim), serials };
                let store = self.store(self.sessions[index].node);
                let settled = store.settle(vec![settlement]).await.unwrap();
                match (self.sessions[index].standing, &settled[..]) {
                    // One that has expired is settled all the same.
                    (Ok(()), [Settled::Deleted(found)]) => prop_assert!((deleted..=most).contains(found)),
                    (Err(HolderError::Displaced), [Settled::Displaced])
                    | (Err(HolderError::Absent), [Settled::Absent]) => {}
                    (standing, _) => prop_assert!(false, "{standing:?} but {settled:?}"),
                }
            }
            Step::Clear { node, user } => {
                let store = self.store(node);
                let inbox = self.inboxes.get_mut(USERS[user]).unwrap();
                let cleared = std::mem::take(&mut inbox.waiting).len() as u64;
                inbox.look();
                prop_assert_eq!(store.clear(place(USERS[user])).await, Ok(cleared));
            }
        }
        for user in USERS {
            let stored = self.store(0).stored(place(user)).await.unwrap();
            let inbox = self.inboxes.get_mut(user).unwrap();
            prop_assert_eq!(stored.count, inbox.waiting.len() as u64);
            prop_assert!(inbox.told(stored.expired), "{} have expired", stored.expired);
            prop_assert_eq!(stored.bytes == 0, inbox.waiting.is_empty());
        }
        Ok(())
    }

    async fn claim(&mut self, node: usize, user: &'static str, device: &str) {
        let (held, _) = self.nodes[node].claim(claim(user, device)).await;
        for session in &mut self.sessions {
            if session.standing.is_ok()
                && session.claim.place == held.place
                && session.claim.device == held.device
            {
                session.standing = Err(HolderError::Displaced);
            }
        }
        self.sessions.push(Session { node, claim: held, standing: Ok(()), ready: false });
    }

    async fn send(
        &mut self,
        node: usize,
        at: Option<usize>,
        to: &'static str,
        key: Option<&'static str>,
    ) -> Result<(), TestCaseError> {
        let data = self.sent.to_string();
        self.sent += 1;
        let from = match at {
            Some(at) => match self.session(at) {
                Some(from) => Some(from),
                None => return Ok(()),
            },
            None => None,
        };
        let letter = match from {
            Some((index, _)) => letter_of(&self.sessions[index].claim, to, &data),
            None => letter(to, &data),
        };
        let letter = Letter { id: key.map(Into::into), ..letter };
        let outcome = self.store(node).send(letter).await;
        if let Some(Err(error)) = from.map(|(index, _)| self.sessions[index].standing) {
            prop_assert_eq!(outcome, Err(SendError::Sender(error)));
            return Ok(());
        }
        let ready: HashSet<_> = self
            .sessions
            .iter()
            .filter(|session| session.ready && session.standing.is_ok() && *session.claim.place.user == *to)
            .map(|session| session.claim.session)
            .collect();
        let known = key.map(|key| (from.map(|(_, user)| user), key));
        let inbox = self.inboxes.get_mut(to).unwrap();
        inbox.look();
        if let Some(first) = known.and_then(|known| inbox.known.get(&known)) {
            let sent = outcome.map(|sent| (sent.status, sent.serial));
            prop_assert_eq!(sent, Ok((Status::Duplicate, *first)));
        } else if inbox.waiting.len() as u64 >= MESSAGES_MAX {
            prop_assert_eq!(outcome, Err(SendError::Full(Full::Messages)));
        } else {
            let sent = outcome.unwrap();
            prop_assert!(sent.serial > inbox.last());
            prop_assert_eq!(sent.status, if ready.is_empty() { Status::Stored } else { Status::Live });
            inbox.waiting.push((sent.serial, data));
            inbox.serials.push(sent.serial);
            known.map(|known| inbox.known.insert(known, sent.serial));
        }
        Ok(())
    }

    async fn send_brief(&mut self, node: usize, to: &'static str) -> Result<(), TestCaseError> {
        let brief = Letter { ttl: Some(Duration::from_millis(1)), ..letter(to, "brief") };
        let outcome = self.store(node).send(brief).await;
        let inbox = self.inboxes.get_mut(to).unwrap();
        inbox.look();
        if inbox.waiting.len() as u64 >= MESSAGES_MAX {
            prop_assert_eq!(outcome, Err(SendError::Full(Full::Messages)));
            return Ok(());
        }
        let serial = outcome.unwrap().serial;
        prop_assert!(serial > inbox.last());
        inbox.serials.push(serial);
        inbox.expired += 1;
        // Both stores go by a clock of the system.
        tokio::time::sleep(Duration::from_millis(3)).await;
        Ok(())
    }

    async fn read(
        &mut self,
        at: usize,
        mark: usize,
        messages_max: usize,
        until: Option<usize>,
    ) -> Result<(), TestCaseError> {
        let Some((index, user)) = self.session(at) else { return Ok(()) };
        let store = self.store(self.sessions[index].node);
        let (session, inbox) = (&self.sessions[index], self.inboxes.get_mut(user).unwrap());
        let after = inbox.mark(mark);
        let until = until.map(|until| inbox.mark(until).max(after));
        let span = Span { until, messages_max, ..all_after(after) };
        let page = store.read(holder(&session.claim), span).await;
        let page = match session.standing {
            Ok(()) => page.unwrap(),
            Err(error) => {
                prop_assert_eq!(page, Err(error));
                return Ok(());
            }
        };
        let within = |serial: &Serial| *serial > after && until.is_none_or(|until| *serial <= until);
        let all: Vec<_> = inbox.waiting.iter().filter(|(serial, _)| within(serial)).collect();
        let expected = &all[..all.len().min(messages_max)];
        let has_more = all.len() > messages_max;
        let found: Vec<_> =
            page.messages.iter().map(|message| (message.serial, message.data.clone())).collect();
        let wanted: Vec<_> = expected.iter().map(|(serial, data)| (*serial, text(data))).collect();
        prop_assert_eq!(found, wanted);
        prop_assert_eq!(page.has_more, has_more);
        let end = until.unwrap_or(inbox.last());
        prop_assert_eq!(page.upto, if has_more { expected[expected.len() - 1].0 } else { end });
        prop_assert!(inbox.told(page.expired), "{} have expired", page.expired);
        Ok(())
    }
}
