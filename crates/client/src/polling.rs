//! The HTTP long-polling transport: one request waits for packets, another carries packets out. Both are futures
//! kept here, so that waiting for either may be interrupted at any time.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use tidegate_protocol::engineio::payload;

use crate::endpoint::Endpoint;
use crate::engine::Outgoing;
use crate::error::Error;
use crate::http::Http;

/// A session's two lanes.
pub(crate) struct Polling {
    target: String,
    body_bytes_max: usize,
    poll: Lane,
    post: Lane,
}

/// One connection and the exchange under way on it.
struct Lane {
    idle: Option<Http>,
    busy: Option<Exchange>,
}

type Exchange = Pin<Box<dyn Future<Output = (Http, Result<Bytes, Error>)> + Send>>;

/// What one of the lanes brought.
pub(crate) enum Brought {
    /// The body of a poll.
    Packets(Bytes),
    /// A post was accepted.
    Sent,
}

impl Polling {
    /// Goes on with the connection that the handshake was made on.
    pub(crate) fn new(
        endpoint: &Arc<Endpoint>,
        handshake: Http,
        target: String,
        body_bytes_max: usize,
        answer_bytes_max: usize,
    ) -> Polling {
        Polling {
            target,
            body_bytes_max,
            poll: Lane { idle: Some(handshake), busy: None },
            post: Lane { idle: Some(Http::new(endpoint.clone(), answer_bytes_max)), busy: None },
        }
    }

    /// Starts a poll unless one is under way.
    pub(crate) fn start_poll(&mut self) {
        self.poll.start(Method::GET, &self.target, Bytes::new());
    }

    /// Starts a post of as much of `outbox` as one body may hold, unless one is under way.
    pub(crate) fn start_post(&mut self, outbox: &mut VecDeque<Outgoing>) {
        if self.post.busy.is_some() || outbox.is_empty() {
            return;
        }
        let mut body = Vec::new();
        while let Some(next) = outbox.front() {
            // A packet that is too large by itself goes alone: it is the server that refuses it.
            if !body.is_empty() && body.len() + 1 + next.polling_len() > self.body_bytes_max {
                break;
            }
            match next {
                Outgoing::Text(packet) => payload::push_text(&mut body, packet),
                Outgoing::Binary(bytes) => payload::push_binary(&mut body, bytes),
            }
            outbox.pop_front();
        }
        self.post.start(Method::POST, &self.target, body.into());
    }

    /// Whether a post is under way.
    pub(crate) fn is_posting(&self) -> bool {
        self.post.busy.is_some()
    }

    /// Whether nothing at all is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.poll.busy.is_none() && self.post.busy.is_none()
    }

    /// Waits for either lane; for ever when nothing is under way. Cancel safe.
    pub(crate) async fn brought(&mut self) -> Result<Brought, Error> {
        tokio::select! {
            body = self.poll.done() => body.map(Brought::Packets),
            answer = self.post.done() => answer.map(|_| Brought::Sent),
        }
    }
}

impl Lane {
    fn start(&mut self, method: Method, target: &str, body: Bytes) {
        let Some(mut http) = self.idle.take() else { return };
        let target = target.to_owned();
        self.busy = Some(Box::pin(async move {
            let answer = http.exchange(method, &target, body).await;
            (http, answer)
        }));
    }

    async fn done(&mut self) -> Result<Bytes, Error> {
        let Some(exchange) = &mut self.busy else { return pending().await };
        let (http, answer) = exchange.await;
        self.busy = None;
        self.idle = Some(http);
        answer
    }
}
