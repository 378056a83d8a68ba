//! Questions to all servers of a namespace, and the answers that come in.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_core::broker::{Broker as _, Done};
use tidegate_core::ids::RequestId;
use tidegate_core::request::{Answer, Ask, Request};
use tidegate_core::{Namespace, NodeId, Topic, registry};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::node::Inner;
use crate::session::Membership;

/// How long servers may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(900);

/// Answers to one question that are kept; more servers than this are not waited for.
const ANSWERS_MAX: usize = 10_000;

/// What a server is called in the list of those who did not answer, when nobody knows its name.
const UNKNOWN_PEER: &str = "unknown peer";

/// One entry per question that is being asked.
#[derive(Default)]
pub(crate) struct Questions(Mutex<HashMap<RequestId, Pending>>);

#[derive(Default)]
struct Pending {
    answers: Vec<(Option<NodeId>, Answer)>,
    changed: Arc<Notify>,
}

/// Takes the question away when its asker does.
struct Asking<'a> {
    questions: &'a Questions,
    id: RequestId,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.questions.0.lock().remove(&self.id);
    }
}

impl Questions {
    /// An answer came in. One that nobody waits for, any more or at all, is dropped.
    pub(crate) fn answered(&self, id: &RequestId, from: Option<NodeId>, answer: Answer) {
        if let Some(pending) = self.0.lock().get_mut(id)
            && pending.answers.len() < ANSWERS_MAX
        {
            pending.answers.push((from, answer));
            pending.changed.notify_one();
        }
    }
}

/// What all servers said.
pub(crate) struct Answers {
    pub(crate) answers: Vec<Answer>,
    /// Who did not answer in time.
    pub(crate) missing: Vec<String>,
}

impl Inner {
    /// Tells all servers of a namespace to do something. Resolves when the broker has taken it.
    pub(crate) async fn order(&self, namespace: &Namespace, ask: Ask) -> Result<(), registry::Error> {
        let (told, outcome) = oneshot::channel();
        let done = Done::call(|outcome| {
            // Nobody listens any more when the HTTP request went away.
            let _ = told.send(outcome);
        });
        let _ = self.broker.request(Request { namespace: namespace.clone(), asker: None, ask }, done);
        match outcome.await {
            Ok(Ok(())) => Ok(()),
            _ => Err(registry::Error),
        }
    }
}
