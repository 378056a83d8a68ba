//! A user who was away, comes back, and acknowledges everything at once.

use std::sync::Arc;

use tidegate_client::Reason;
use tidegate_client::raw::{Connection, Message};
use tokio::sync::watch;

use super::course::{Course, Round};
use super::packet::{Packet, is_ok};
use crate::clock::now_ns;
use crate::seen::Seen;

/// One connection of a user.
pub(super) struct Recipient {
    connection: Connection,
    rounds: watch::Receiver<Round>,
    inbox: Inbox,
}

/// What a user has got, and what it has to say to that.
struct Inbox {
    user: u32,
    seen: Seen,
    round: Round,
    /// How many messages the gateway says it has replayed in this round.
    count: Option<u64>,
    /// Packets that are to be sent.
    answers: Vec<String>,
}

impl Recipient {
    pub(super) fn new(user: u32, connection: Connection, course: &Course) -> Recipient {
        let rounds = course.rounds();
        let round = *rounds.borrow();
        let inbox = Inbox { user, seen: Seen::default(), round, count: None, answers: Vec::new() };
        Recipient { connection, rounds, inbox }
    }

    /// Answers pings, acknowledges, and says `online` whenever it is told to.
    pub(super) async fn live(mut self, course: Arc<Course>) -> Reason {
        loop {
            tokio::select! {
                biased;
                changed = self.rounds.changed() => {
                    if changed.is_err() {
                        return Reason::IoClientDisconnect;
                    }
                    self.inbox.begin(*self.rounds.borrow_and_update());
                }
                read = self.connection.read(|message| {
                    if let Message::Text(text) = message {
                        self.inbox.hear(text, &course);
                    }
                }) => if let Err(reason) = read {
                    return reason;
                },
            }
            // They leave with the next read.
            for answer in self.inbox.answers.drain(..) {
                self.connection.push_message(Message::Text(&answer));
            }
        }
    }
}

impl Inbox {
    fn begin(&mut self, round: Round) {
        self.round = round;
        self.count = None;
        self.answers.push(format!(r#"2{}["online",{{}}]"#, online_id(&round)));
    }

    fn hear(&mut self, packet: &str, course: &Course) {
        let round = self.round;
        match Packet::read(packet) {
            Some(Packet::Message { ack, is_live, number, moment_ns }) => {
                self.answers.push(format!("3{ack}[]"));
                let took_ns = is_live.then(|| now_ns().saturating_sub(moment_ns));
                course.tally().deliver(self.seen.see(number), took_ns);
            }
            // All acknowledgements leave before it, so that its answer says that all are settled.
            Some(Packet::CaughtUp { count }) => {
                if self.count.is_none() {
                    self.answers.push(format!(r#"2{}["heartbeat"]"#, heartbeat_id(&round)));
                }
                // There is one in a round; of several the sum will be wrong.
                self.count = Some(self.count.unwrap_or(0) + count);
            }
            Some(Packet::Answer { id, args }) if id == online_id(&round) || id == heartbeat_id(&round) => {
                if !is_ok(args, None) {
                    course.tally().refuse(self.user, args);
                } else if let Some(count) = self.count.filter(|_| id == heartbeat_id(&round)) {
                    course.tally().catch_up(self.user, count, round.expected, round.began.elapsed());
                }
            }
            Some(Packet::Answer { .. }) | None => {}
        }
    }
}

fn online_id(round: &Round) -> u64 {
    2 * round.number
}

fn heartbeat_id(round: &Round) -> u64 {
    2 * round.number + 1
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::progress::Progress;
    use crate::stamp::data;

    fn waited(ack: u64, number: u64) -> String {
        format!(r#"2{ack}["offline_message",{{"id":"1-0","data":"{}","sent_at":1}}]"#, data(number, 0, 40))
    }

    fn inbox() -> (Inbox, Course) {
        let round = Round { number: 1, expected: 2, began: Instant::now() };
        let mut inbox = Inbox { user: 0, seen: Seen::default(), round, count: None, answers: Vec::new() };
        inbox.begin(round);
        (inbox, Course::new(40, Progress::new()))
    }

    /// Messages delivered and repeated, users who are through and those among them for whom it went wrong.
    fn counted(course: &Course) -> [u64; 4] {
        let tally = course.tally();
        [tally.delivered, tally.repeated, tally.caught_up.into(), tally.miscounted.into()]
    }

    #[test]
    fn a_user_says_online_acknowledges_and_then_asks_whether_all_is_settled() {
        let (mut inbox, course) = inbox();
        let end = r#"2["offline_message_ack",{"count":2}]"#;
        for packet in [r#"32[{"ok":true}]"#, &waited(8, 0), &waited(9, 1), end] {
            inbox.hear(packet, &course);
        }
        assert_eq!(inbox.answers, [r#"22["online",{}]"#, "38[]", "39[]", r#"23["heartbeat"]"#]);
        assert_eq!(counted(&course), [2, 0, 0, 0]);
        inbox.hear(r#"33[{"ok":true,"ts":1}]"#, &course);
        assert_eq!(counted(&course), [2, 0, 1, 0]);
    }

    #[test]
    fn what_comes_again_is_acknowledged_again_and_counted() {
        let (mut inbox, course) = inbox();
        for packet in [&waited(8, 0), &waited(9, 0)] {
            inbox.hear(packet, &course);
        }
        assert_eq!(inbox.answers[1..], ["38[]", "39[]"]);
        assert_eq!(counted(&course), [1, 1, 0, 0]);
    }

    #[test]
    fn a_replay_that_ends_twice_ends_badly() {
        let (mut inbox, course) = inbox();
        let end = r#"2["offline_message_ack",{"count":2}]"#;
        for packet in [end, end, r#"33[{"ok":true}]"#] {
            inbox.hear(packet, &course);
        }
        assert_eq!(counted(&course), [0, 0, 1, 1]);
    }

    #[test]
    fn a_refusal_ends_the_round() {
        let (mut inbox, course) = inbox();
        inbox.hear(r#"32[{"ok":false,"error":{"code":"unavailable"}}]"#, &course);
        assert_eq!(counted(&course), [0, 0, 1, 1]);
        // What belongs to another round means nothing.
        inbox.hear(r#"31[{"ok":true}]"#, &course);
        assert_eq!(counted(&course), [0, 0, 1, 1]);
    }
}
