//! Durable messages of a gateway that keeps them for users who are away, as their recipient sees them.
//!
//! Says `online` whenever the socket is connected, and so gets what it has missed. A message that is not acknowledged
//! comes again the next time: whoever must not take one twice compares ids.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::socket::{AckHandle, Event, Signal, Socket};
use crate::value::Value;

/// When a message counts as delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Settle {
    /// When it is acknowledged.
    #[default]
    Each,
    /// When the gateway has written it out.
    Written,
}

/// How long to wait before a gateway that was unavailable is told again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A socket that is ready for durable messages.
#[derive(Debug)]
pub struct Inbox<'s> {
    socket: &'s Socket,
    settle: Settle,
    /// Limit of one answer to `online`.
    limit: Duration,
    /// When `online` is to be said, if it is.
    due: Option<Instant>,
}

/// What comes through an inbox.
#[derive(Debug)]
pub enum Arrival {
    /// A durable message.
    Message(Delivery),
    /// All that had waited has been sent, so many messages.
    CaughtUp {
        /// How many.
        count: u64,
    },
    /// Anything else the socket was sent.
    Event(Event),
}

/// A durable message.
#[derive(Debug)]
pub struct Delivery {
    /// Its id. One that comes again has the same.
    pub id: String,
    /// The user who sent it; null when it came from a backend.
    pub from: Value,
    /// The event it was sent as.
    pub event: String,
    /// The data.
    pub data: Value,
    /// When it was stored, in Unix milliseconds.
    pub sent_at_ms: i64,
    /// Whether it had waited, instead of coming live.
    pub waited: bool,
    /// There unless the inbox was opened with [`Settle::Written`].
    pub ack: Option<AckHandle>,
}

impl Delivery {
    /// Acknowledges the message, so that it does not come again.
    ///
    /// # Errors
    /// As [`AckHandle::send`].
    pub async fn acknowledge(self) -> Result<(), Error> {
        match self.ack {
            Some(ack) => ack.send(&[]).await,
            None => Ok(()),
        }
    }
}

impl<'s> Inbox<'s> {
    /// Says `online`, and waits for the answer, at most `limit`. The same limit holds after every reconnection. If the
    /// gateway is unavailable, [`Inbox::next`] says it again.
    ///
    /// # Errors
    /// [`Error::Protocol`] with the gateway's code when it refuses; otherwise as [`Socket::emit_with_ack`].
    pub async fn open(socket: &'s Socket, settle: Settle, limit: Duration) -> Result<Inbox<'s>, Error> {
        let mut inbox = Inbox { socket, settle, limit, due: None };
        match inbox.say_online().await? {
            Answer::Ready => {}
            Answer::Unavailable => inbox.due = Some(Instant::now() + RETRY_AFTER),
        }
        Ok(inbox)
    }

    /// The next thing that comes, over as many reconnections as the client is told to make. A gateway that is
    /// unavailable after one is told again every half second. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Closed`] when nothing will come any more, [`Error::ConnectError`] when the namespace is refused at a
    /// reconnection, [`Error::Protocol`] or [`Error::Timeout`] when `online` is refused or not answered; the next call
    /// says it again.
    pub async fn next(&mut self) -> Result<Arrival, Error> {
        loop {
            let signal = match self.due {
                Some(due) => tokio::select! {
                    // First, or a stream of other events would keep it waiting.
                    biased;
                    () = tokio::time::sleep_until(due) => {
                        self.be_online().await?;
                        continue;
                    }
                    signal = self.socket.next_signal() => signal,
                },
                None => self.socket.next_signal().await,
            };
            match signal {
                Some(Signal::Event(event)) => return Ok(arrival(event)),
                Some(Signal::Connected { .. }) => self.due = Some(Instant::now()),
                Some(Signal::Disconnected(_)) => self.due = None,
                Some(Signal::Refused { message, data }) => return Err(Error::ConnectError { message, data }),
                None => return Err(Error::Closed),
            }
        }
    }

    async fn be_online(&mut self) -> Result<(), Error> {
        match self.say_online().await {
            // Lost again meanwhile: there will be another signal.
            Ok(Answer::Ready) | Err(Error::Disconnected(_)) => self.due = None,
            Ok(Answer::Unavailable) => self.due = Some(Instant::now() + RETRY_AFTER),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn say_online(&self) -> Result<Answer, Error> {
        let ack = match self.settle {
            Settle::Each => "each",
            Settle::Written => "none",
        };
        let argument = Value::from(serde_json::json!({ "ack": ack }));
        let answer = self.socket.emit_with_ack("online", &[argument], self.limit).await?;
        match answer.first() {
            Some(answer) if answer["ok"] == Value::Bool(true) => Ok(Answer::Ready),
            Some(answer) if answer["error"]["code"] == "unavailable" => Ok(Answer::Unavailable),
            answer => Err(Error::Protocol(format!("online is refused: {answer:?}"))),
        }
    }
}

/// What the gateway says to `online`.
enum Answer {
    Ready,
    /// Its Redis is away.
    Unavailable,
}

/// What an event is to whoever has an inbox.
fn arrival(event: Event) -> Arrival {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let time = |value: &Value| value.as_i64();
    let Event { name, args, ack } = event;
    match (name.as_str(), &args[..]) {
        ("offline_message", [message]) => {
            if let (Some(id), Some(event), Some(sent_at_ms)) =
                (text(&message["id"]), text(&message["event"]), time(&message["sent_at"]))
            {
                let (from, data) = (message["from"].clone(), message["data"].clone());
                return Arrival::Message(Delivery { id, from, event, data, sent_at_ms, waited: true, ack });
            }
        }
        ("offline_message_ack", [told]) => {
            if let Some(count) = time(&told["count"]).and_then(|count| u64::try_from(count).ok()) {
                return Arrival::CaughtUp { count };
            }
        }
        // Events of a room have such a second argument, too, and name the room in it.
        (_, [data, meta]) if meta["room"] == Value::Null => {
            if let (Some(id), Some(sent_at_ms)) = (text(&meta["id"]), time(&meta["ts"]))
                && is_serial(&id)
            {
                let (from, data) = (meta["from"].clone(), data.clone());
                return Arrival::Message(Delivery {
                    id,
                    from,
                    event: name,
                    data,
                    sent_at_ms,
                    waited: false,
                    ack,
                });
            }
        }
        _ => {}
    }
    Arrival::Event(Event { name, args, ack })
}

/// Ids of durable messages are two numbers with a dash between them; a broadcast's is another kind of word.
fn is_serial(id: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    id.split_once('-').is_some_and(|(ms, number)| digits(ms) && digits(number))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn came(name: &str, args: &[serde_json::Value]) -> Arrival {
        let args = args.iter().cloned().map(Value::from).collect();
        arrival(Event { name: name.to_owned(), args, ack: None })
    }

    #[test]
    fn messages_are_told_from_other_events() {
        let waited = json!({ "id": "17-0", "from": "ann", "event": "note", "data": [1], "sent_at": 17 });
        let Arrival::Message(message) = came("offline_message", &[waited]) else { panic!("a message") };
        assert_eq!(
            (&*message.id, &*message.event, message.sent_at_ms, message.waited),
            ("17-0", "note", 17, true)
        );
        assert_eq!((message.from, message.data), ("ann".into(), json!([1]).into()));
        let meta = json!({ "id": "18-1", "from": null, "node": "a", "ts": 18 });
        let Arrival::Message(message) = came("note", &[json!("x"), meta]) else { panic!("a message") };
        assert_eq!(
            (&*message.id, &*message.event, message.sent_at_ms, message.waited),
            ("18-1", "note", 18, false)
        );
        assert!(matches!(
            came("offline_message_ack", &[json!({ "count": 3 })]),
            Arrival::CaughtUp { count: 3 }
        ));
        let broadcast = json!({ "id": "AZ-0", "from": "ann", "node": "a", "ts": 18 });
        let of_a_room = json!({ "id": "18-1", "room": "r", "from": "ann", "node": "a", "ts": 18 });
        for (name, args) in [
            ("message", vec![json!("x"), broadcast]),
            ("message", vec![json!("x"), of_a_room]),
            ("message", vec![json!("x")]),
            ("offline_message", vec![json!({ "id": "17-0" })]),
            ("offline_message_ack", vec![json!({ "count": -1 })]),
            ("evicted", vec![json!({ "reason": "kicked" })]),
        ] {
            let Arrival::Event(event) = came(name, &args) else { panic!("{name} {args:?}") };
            assert_eq!((&*event.name, event.args.len()), (name, args.len()));
        }
    }
}
