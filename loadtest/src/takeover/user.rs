//! A user who can log in on either of two nodes.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_client::Reason;
use tidegate_client::raw::{Connection, Message};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A login that has no answer, or a displaced session that has heard nothing, for this long has failed. It is ten
/// times what the cluster takes by default when the old node says nothing.
const LOGIN_LIMIT: Duration = Duration::from_secs(10);

/// The user's transports, one to each node, and where it is logged in.
pub(super) struct User {
    index: u32,
    nodes: [Connection; 2],
    at: Option<usize>,
    namespace: String,
}

/// A user was told to log in, and this is what became of it.
pub(super) struct Outcome {
    pub(super) index: u32,
    pub(super) login: Result<Login, Failure>,
}

/// What a login took, counted from the moment before its CONNECT is handed to the socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Login {
    /// Until the answer was decoded.
    pub(super) answer: Duration,
    /// Until the session on the other node, if there was one, had decoded its DISCONNECT.
    pub(super) farewell: Option<Duration>,
}

/// Why a login failed. Where the user is logged in now is then unknown.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// With a CONNECT_ERROR.
    Refused(String),
    /// The newcomer was not answered, or the displaced session not told, in time.
    Unanswered(&'static str),
    /// A transport ended.
    Lost(Reason),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(refusal) => write!(f, "refused: {refusal}"),
            Failure::Unanswered(what) => write!(f, "no {what} within {} s", LOGIN_LIMIT.as_secs()),
            Failure::Lost(reason) => write!(f, "a transport was lost: {reason}"),
        }
    }
}

/// What one node has said about the namespace, and when.
#[derive(Debug, Default)]
struct Heard {
    connected: Option<Instant>,
    disconnected: Option<Instant>,
    refused: Option<String>,
}

impl User {
    /// `nodes` have joined another namespace, so that the transports stay when a session ends.
    pub(super) fn new(index: u32, nodes: [Connection; 2], namespace: &str) -> User {
        User { index, nodes, at: None, namespace: namespace.to_owned() }
    }

    /// Its number.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Answers pings and logs in on the node where it is not whenever `turns` says so, until a transport ends or
    /// nobody is there to say so.
    pub(super) async fn live(
        mut self,
        mut turns: mpsc::Receiver<()>,
        outcomes: mpsc::Sender<Outcome>,
    ) -> Reason {
        loop {
            let mut unasked = [Heard::default(), Heard::default()];
            let turn = tokio::select! {
                turn = turns.recv() => turn,
                lost = self.read(&mut unasked) => match lost {
                    Ok(()) => continue,
                    Err(reason) => {
                        // Whoever told it to log in at this very moment waits for an outcome.
                        turns.close();
                        if turns.recv().await.is_some() {
                            self.tell(Err(Failure::Lost(reason)), &outcomes).await;
                        }
                        return reason;
                    }
                },
            };
            if turn.is_none() {
                return Reason::IoClientDisconnect;
            }
            let login = self.log_in().await;
            let lost = if let Err(Failure::Lost(reason)) = login { Some(reason) } else { None };
            self.tell(login, &outcomes).await;
            if let Some(reason) = lost {
                return reason;
            }
        }
    }

    async fn tell(&self, login: Result<Login, Failure>, outcomes: &mpsc::Sender<Outcome>) {
        // Nobody listens when the run has ended.
        let _ = outcomes.send(Outcome { index: self.index, login }).await;
    }

    async fn log_in(&mut self) -> Result<Login, Failure> {
        let from = self.at;
        let to = from.map_or(0, |from| 1 - from);
        let auth = json!({ "user": format!("u{}", self.index) });
        let connect = format!("0{},{auth}", self.namespace);
        let mut heard = [Heard::default(), Heard::default()];

        let sent = Instant::now();
        let exchange = async {
            self.nodes[to].push_message(Message::Text(&connect));
            self.nodes[to].flush().await.map_err(Failure::Lost)?;
            while !is_over(&heard, from, to) {
                self.read(&mut heard).await.map_err(Failure::Lost)?;
            }
            Ok(())
        };
        let in_time = timeout(LOGIN_LIMIT, exchange).await;
        if let Some(refusal) = heard[to].refused.take() {
            return Err(Failure::Refused(refusal));
        }
        in_time.unwrap_or(Ok(()))?;
        let answered = heard[to].connected.ok_or(Failure::Unanswered("answer"))?;
        let farewell = match from.map(|from| heard[from].disconnected) {
            None => None,
            Some(Some(told)) => Some(told - sent),
            Some(None) => return Err(Failure::Unanswered("disconnect of the displaced session")),
        };
        self.at = Some(to);
        Ok(Login { answer: answered - sent, farewell })
    }

    /// Waits until either node says something. Cancel safe.
    async fn read(&mut self, heard: &mut [Heard; 2]) -> Result<(), Reason> {
        let User { nodes: [first, second], namespace, .. } = self;
        let [heard_first, heard_second] = heard;
        tokio::select! {
            read = first.read(|message| heard_first.hear(message, namespace)) => read,
            read = second.read(|message| heard_second.hear(message, namespace)) => read,
        }
    }
}

/// Whether a login has come to its end, good or bad.
fn is_over(heard: &[Heard; 2], from: Option<usize>, to: usize) -> bool {
    heard[to].refused.is_some()
        || heard[to].connected.is_some() && from.is_none_or(|from| heard[from].disconnected.is_some())
}

impl Heard {
    fn hear(&mut self, message: Message<'_>, namespace: &str) {
        let Message::Text(packet) = message else { return };
        let Some(rest) = packet.get(1..).and_then(|rest| rest.strip_prefix(namespace)) else { return };
        if !(rest.is_empty() || rest.starts_with(',')) {
            return;
        }
        match packet.as_bytes()[0] {
            b'0' => self.connected = Some(Instant::now()),
            b'1' => self.disconnected = Some(Instant::now()),
            b'4' => self.refused = Some(rest.trim_start_matches(',').to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(packets: &[&str]) -> Heard {
        let mut heard = Heard::default();
        for packet in packets {
            heard.hear(Message::Text(packet), "/t");
        }
        heard
    }

    #[test]
    fn packets_of_the_namespace_are_told_apart() {
        let all = heard(&[r#"0/t,{"sid":"a"}"#, r#"2/t,["evicted",{}]"#, "1/t,", r#"4/t,{"message":"no"}"#]);
        assert!(all.connected.is_some() && all.disconnected.is_some());
        assert_eq!(all.refused.as_deref(), Some(r#"{"message":"no"}"#));
        assert!(heard(&["1/t"]).disconnected.is_some());

        let others = heard(&["", "0", r#"0{"sid":"a"}"#, "1/tt,", "1/", "é/t,", r#"2/t,["1/t"]"#]);
        assert!(others.connected.is_none() && others.disconnected.is_none() && others.refused.is_none());
    }

    #[test]
    fn a_takeover_ends_with_both_halves_or_a_refusal() {
        let said = |packet| heard(&[packet]);
        let over = |first, second, from, to| is_over(&[said(first), said(second)], from, to);
        assert!(over("0/t,{}", "", None, 0));
        assert!(!over("", "0/t,{}", Some(0), 1));
        assert!(!over("1/t,", "", Some(0), 1));
        assert!(over("1/t,", "0/t,{}", Some(0), 1));
        assert!(over("0/t,{}", "1/t,", Some(1), 0));
        assert!(over("", "4/t,{}", Some(0), 1));
    }
}
