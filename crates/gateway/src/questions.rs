//! Questions to all servers of a namespace, and the answers that come in.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_core::broker::Done;
use tidegate_core::request::{Answer, Ask, Asker, Request};
use tidegate_core::{Namespace, NodeId, RequestId, Topic, registry};
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

impl Asking<'_> {
    fn count(&self) -> usize {
        self.questions.0.lock().get(&self.id).map_or(0, |pending| pending.answers.len())
    }

    fn take(&self) -> Vec<(Option<NodeId>, Answer)> {
        let mut questions = self.questions.0.lock();
        questions.get_mut(&self.id).map(|pending| std::mem::take(&mut pending.answers)).unwrap_or_default()
    }
}

impl Questions {
    fn begin(&self, id: RequestId) -> (Asking<'_>, Arc<Notify>) {
        let pending = Pending::default();
        let changed = Arc::clone(&pending.changed);
        self.0.lock().insert(id.clone(), pending);
        (Asking { questions: self, id }, changed)
    }

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
    /// Asks all servers of a namespace, and gathers what they answer in time.
    ///
    /// Whoever does not answer can be named as far as nodes go: those that live, have sessions and said nothing. A
    /// server of another kind has no name, and a node that died a moment ago is no longer known.
    pub(crate) async fn ask(&self, namespace: &Namespace, ask: Ask) -> Result<Answers, registry::Error> {
        let topic = Topic::Answers(namespace.clone());
        let _membership = self.subscribed(topic).await?;
        let servers = self.broker.listeners(namespace.clone()).await.map_err(|_| registry::Error)?;
        let asker = Asker::new(RequestId::random());
        let (asking, changed) = self.questions.begin(asker.id.clone());
        let deadline = Instant::now() + ANSWER_WITHIN;
        self.send(Request { namespace: namespace.clone(), asker: Some(asker), ask }).await?;
        loop {
            let mut changed = pin!(changed.notified());
            // Before the look, or an answer in between would go unnoticed.
            changed.as_mut().enable();
            if asking.count() >= servers || tokio::time::timeout_at(deadline, changed).await.is_err() {
                break;
            }
        }
        let answers = asking.take();
        let missing =
            if answers.len() < servers { self.missing(&answers, servers).await } else { Vec::new() };
        Ok(Answers { answers: answers.into_iter().map(|(_, answer)| answer).collect(), missing })
    }

    /// Tells all servers of a namespace to do something. Resolves when the broker has taken it.
    pub(crate) async fn order(&self, namespace: &Namespace, ask: Ask) -> Result<(), registry::Error> {
        self.send(Request { namespace: namespace.clone(), asker: None, ask }).await
    }

    async fn send(&self, request: Request) -> Result<(), registry::Error> {
        let (told, outcome) = oneshot::channel();
        let done = Done::call(|outcome| {
            // Nobody listens any more when whoever asked went away.
            let _ = told.send(outcome);
        });
        self.broker.request(request, done);
        match outcome.await {
            Ok(Ok(())) => Ok(()),
            _ => Err(registry::Error),
        }
    }

    /// Subscribes to `topic` for as long as what comes back is kept, and a moment longer.
    async fn subscribed(&self, topic: Topic) -> Result<Membership, registry::Error> {
        let (confirmed, confirmation) = oneshot::channel();
        let membership = Membership::new(&self.interest, topic.clone());
        self.interest.join(topic, |outcome| {
            // As above.
            let _ = confirmed.send(outcome);
        });
        match confirmation.await {
            Ok(Ok(())) => Ok(membership),
            _ => Err(registry::Error),
        }
    }

    async fn missing(&self, answers: &[(Option<NodeId>, Answer)], servers: usize) -> Vec<String> {
        let nodes = self.registry.nodes().await.unwrap_or_default();
        let silent = |node: &NodeId| !answers.iter().any(|(from, _)| from.as_ref() == Some(node));
        let mut missing: Vec<String> = nodes
            .iter()
            .filter(|row| row.vitals.sessions > 0 && silent(&row.node))
            .map(|row| row.node.to_string())
            .collect();
        missing.sort_unstable();
        // Of several nodes that may not have sessions in this namespace at all, those named are too many rather than
        // too few.
        let unnamed = (servers - answers.len()).saturating_sub(missing.len());
        missing.extend(std::iter::repeat_n(UNKNOWN_PEER.to_owned(), unnamed));
        missing
    }
}
