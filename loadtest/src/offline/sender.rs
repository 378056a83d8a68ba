//! A user who sends, one message after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_client::Reason;
use tidegate_client::raw::{Connection, Message};

use super::course::Course;
use super::packet::{Packet, is_ok};
use super::rota::Turn;
use crate::clock::now_ns;
use crate::stamp::data;

/// One connection of a user of its own.
pub(super) struct Sender {
    connection: Connection,
    /// Messages it has sent. The last one's id.
    sent: u64,
}

impl Sender {
    pub(super) fn new(connection: Connection) -> Sender {
        Sender { connection, sent: 0 }
    }

    /// Answers pings, and sends whenever there is something to send.
    pub(super) async fn live(mut self, course: Arc<Course>) -> Reason {
        let mut posting = course.posting();
        loop {
            let status = *posting.borrow_and_update();
            while let Some(turn) = course.turn() {
                let sent = self.send(&turn, status, &course).await;
                // Whoever is lost leaves the user's next message to the others.
                course.done(&turn);
                match sent {
                    Ok(Ok(took)) => course.tally().answer(took),
                    Ok(Err(args)) => course.tally().fail(turn.user, &args),
                    Err(reason) => {
                        course.tally().fail(turn.user, &format!("the sender was lost: {reason}"));
                        return reason;
                    }
                }
            }
            tokio::select! {
                changed = posting.changed() => if changed.is_err() {
                    return Reason::IoClientDisconnect;
                },
                read = self.connection.read(|_| ()) => if let Err(reason) = read {
                    return reason;
                },
            }
        }
    }

    /// How long the answer took, or what it says instead of `status`.
    async fn send(
        &mut self,
        turn: &Turn,
        status: &str,
        course: &Course,
    ) -> Result<Result<Duration, String>, Reason> {
        self.sent += 1;
        let id = self.sent;
        let began = Instant::now();
        let packet = packet(id, turn, &data(turn.number, now_ns(), course.bytes));
        self.connection.push_message(Message::Text(&packet));
        self.connection.flush().await?;
        let mut answer = None;
        loop {
            let read = self.connection.read(|message| {
                if let Message::Text(text) = message
                    && let Some(Packet::Answer { id: answered, args }) = Packet::read(text)
                    && answered == id
                {
                    let is_good = is_ok(args, Some(status));
                    answer = Some(if is_good { Ok(began.elapsed()) } else { Err(args.to_owned()) });
                }
            });
            read.await?;
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
    }
}

/// The packet is written as it is: the tool shares a core with Redis, and ought to leave it as much as it can.
fn packet(id: u64, turn: &Turn, data: &str) -> String {
    format!(r#"2{id}["send",{{"to":"{}","data":"{data}"}}]"#, super::recipient(turn.user))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::offline::rota::Rota;

    #[test]
    fn a_send_is_an_event_with_an_id() {
        let turn = Rota::new(1, 3, 1).next().unwrap();
        assert_eq!(packet(7, &turn, "#x"), r##"27["send",{"to":"u0","data":"#x"}]"##);
    }
}
