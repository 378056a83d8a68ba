//! Enrolment: what a CONNECT needs before it can be answered, and what must be taken back if it never is.

use std::sync::Arc;

use futures_util::future;
use tidegate_core::registry::{Claim, ClaimError, Claimed, Gone, Place};
use tidegate_core::{ClaimId, ErrorCode, Namespace, SessionId, broker};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::auth::Identity;
use crate::interest;
use crate::node::Inner;
use crate::outbox::Outbox;
use crate::pulse::Lapse;
use crate::registrar::Registrar;
use crate::session::{Holding, Membership, Rule};
use crate::takeover::{Silence, Takeover};

/// A client that asks for a session.
pub(crate) struct Entrant {
    pub(crate) id: SessionId,
    pub(crate) namespace: Namespace,
    pub(crate) rule: Arc<Rule>,
    pub(crate) identity: Identity,
    /// The session that it had before, if it comes back by itself.
    pub(crate) resumes: Option<SessionId>,
}

/// An entrant that may be seated.
pub(crate) struct Enrolled {
    pub(crate) entrant: Entrant,
    pub(crate) memberships: [Membership; 3],
    /// None for who is anonymous.
    pub(crate) tenure: Option<Tenure>,
    /// The latest lapse when it began; another one since, and what was learnt counts for nothing.
    pub(crate) lapse: Lapse,
}

/// A claim that is given back when dropped, unless it is kept.
pub(crate) struct Tenure {
    pub(crate) holding: Holding,
    takeover: Option<Takeover>,
    gone: Option<Gone>,
    registrar: Arc<Registrar>,
}

impl Tenure {
    /// From here on the session answers for its claim. Returns the wait, to be ended once the session has its seat.
    pub(crate) fn keep(mut self) -> Option<Takeover> {
        self.gone = None;
        self.takeover.take()
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        if let Some(gone) = self.gone.take() {
            self.registrar.release(gone);
        }
    }
}

/// Why an entrant is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// The policy keeps those that are there.
    Taken,
    /// The cluster cannot say.
    Unavailable,
}

impl Turned {
    const fn code(self) -> ErrorCode {
        match self {
            Self::Taken => ErrorCode::DuplicateSession,
            Self::Unavailable => ErrorCode::Unavailable,
        }
    }
}

impl Inner {
    /// Claims the user's place and subscribes to what the session must hear, side by side; resolves when everybody it
    /// displaced is silent. Dropped half way, it leaves nothing behind. `lapse` is the latest one before the node was
    /// found to hear.
    pub(crate) fn enrol(
        self: &Arc<Self>,
        entrant: Entrant,
        outbox: &Arc<Outbox>,
        lapse: Lapse,
    ) -> impl Future<Output = Result<Enrolled, Turned>> + Send + use<> {
        let subscribed = self.subscribe_session(&entrant.namespace, entrant.id);
        let claimed = self.claim(&entrant, outbox);
        let followed = self.traces.as_ref().and_then(|traces| traces.begin("connect"));
        let transport = crate::session::transport(outbox);
        async move {
            let (subscribed, claimed) = future::join(subscribed, claimed).await;
            let outcome =
                claimed.and_then(|tenure| Ok((tenure, subscribed.map_err(|_| Turned::Unavailable)?)));
            if let Some(mut followed) = followed {
                followed.note("tidegate.namespace", entrant.namespace.as_str());
                followed.note("tidegate.transport", transport.as_str());
                followed.flag("tidegate.anonymous", matches!(outcome, Ok((None, _))));
                followed.end(outcome.as_ref().err().map(|turned| turned.code().as_str()));
            }
            let (tenure, memberships) = outcome?;
            Ok(Enrolled { entrant, memberships, tenure, lapse })
        }
    }

    fn claim(
        self: &Arc<Self>,
        entrant: &Entrant,
        outbox: &Arc<Outbox>,
    ) -> impl Future<Output = Result<Option<Tenure>, Turned>> + Send + use<> {
        let claim = entrant.identity.user.clone().map(|user| Claim {
            place: Place { namespace: entrant.namespace.clone(), user },
            session: entrant.id,
            id: ClaimId::random(),
            epoch: 0,
            device: Arc::clone(&entrant.identity.device),
            transport: crate::session::transport(outbox),
            policy: entrant.rule.policy,
            on_duplicate: entrant.rule.on_duplicate,
            resumes: entrant.resumes,
            ready: false,
        });
        let node = Arc::clone(self);
        async move {
            let Some(claim) = claim else { return Ok(None) };
            let began = Instant::now();
            let mut tenure = Tenure {
                holding: Holding { claim: claim.id, epoch: 0 },
                takeover: Some(node.takeovers.begin(claim.id, claim.session, &node.broker)),
                gone: Some(Gone { place: claim.place.clone(), session: claim.session, claim: claim.id }),
                registrar: Arc::clone(&node.registrar),
            };
            let Claimed { epoch, displaced, settling } = match node.registry.claim(claim).await {
                Ok(claimed) => claimed,
                Err(ClaimError::Taken) => return Err(Turned::Taken),
                Err(ClaimError::Unavailable(_)) => {
                    // One that was under way when its connection broke may be made after it has been given back.
                    node.registrar.owe();
                    return Err(Turned::Unavailable);
                }
            };
            // The claim was made before now, so that whoever is fenced is fenced by then.
            let since = Instant::now();
            tenure.holding.epoch = epoch;
            if let Some(takeover) = &tenure.takeover
                && !displaced.is_empty()
            {
                let silence = takeover.silence(&displaced, since).await;
                node.metrics.took_over(silence, began.elapsed());
                if silence == Silence::Fenced {
                    tracing::debug!(?displaced, "answering a newcomer whose predecessor was fenced, unheard");
                }
            }
            if !settling.is_zero() {
                tokio::time::sleep_until(since + settling).await;
            }
            Ok(Some(tenure))
        }
    }

    /// Subscribes to what a session of `namespace` must hear beside its rooms: the namespace, what other servers ask of
    /// it, and itself. Resolves when all are confirmed; the memberships are the session's from then on.
    fn subscribe_session(
        &self,
        namespace: &Namespace,
        id: SessionId,
    ) -> impl Future<Output = Result<[Membership; 3], broker::Error>> + Send + use<> {
        let all = interest::of_session(namespace, id).map(|topic| {
            let (confirmed, confirmation) = oneshot::channel();
            let membership = Membership::new(&self.interest, topic.clone());
            self.interest.join(topic, |outcome| {
                // Nobody listens any more when the connection ended meanwhile.
                let _ = confirmed.send(outcome);
            });
            (membership, confirmation)
        });
        async move {
            let [one, two, three] = all;
            for confirmed in [one.1, two.1, three.1] {
                confirmed.await.unwrap_or(Err(broker::Error::Closed))?;
            }
            Ok([one.0, two.0, three.0])
        }
    }
}
