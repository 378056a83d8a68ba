//! What a Redis server is asked, told by itself: its MONITOR, in the order in which it carries things out.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::cluster::{PATIENCE, within};
use crate::redis_server::RedisServer;

/// A command that a client has sent. What scripts call is not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its name, in capitals.
    pub name: String,
    /// Its arguments, as MONITOR writes them.
    pub arguments: Vec<String>,
}

/// A connection that is told of every command.
pub struct Monitor {
    heard: Arc<Heard>,
    /// How many it has told of.
    told: Mutex<usize>,
    /// Where marks are made.
    marks: redis::aio::MultiplexedConnection,
    /// Ends with this.
    _listening: JoinSet<()>,
}

#[derive(Default)]
struct Heard {
    commands: Mutex<Vec<Command>>,
    more: Notify,
}

impl Monitor {
    /// Begins to listen.
    ///
    /// # Panics
    /// When the server does not let it.
    pub async fn start(server: &RedisServer) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.expect("the server is up");
        stream.write_all(b"MONITOR\r\n").await.expect("the server reads");
        let mut lines = BufReader::new(stream).lines();
        let begun = within("MONITOR to begin", lines.next_line()).await;
        assert_eq!(begun.expect("the server answers").as_deref(), Some("+OK"));
        let heard = Arc::new(Heard::default());
        let listener = Arc::clone(&heard);
        let mut listening = JoinSet::new();
        // If it failed, the next mark would never be heard.
        listening.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                listener.commands().extend(command(&line));
                listener.more.notify_waiters();
            }
        });
        let monitor =
            Self { heard, told: Mutex::default(), marks: server.connection().await, _listening: listening };
        monitor.during(async {}, |_| true).await;
        monitor
    }

    /// Does something, and returns the commands since the last time, once they are what is `expected`. None is ever
    /// left out between two times, so that what comes too late to be unexpected is found the next time.
    ///
    /// # Panics
    /// When they are not within [`PATIENCE`].
    pub async fn during<T>(
        &self,
        doing: impl Future<Output = T>,
        expected: impl Fn(&[Command]) -> bool,
    ) -> (T, Vec<Command>) {
        let output = doing.await;
        let from = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let so_far =
            |all: &[Command]| all[from..].iter().filter(|it| !it.is_aside()).cloned().collect::<Vec<_>>();
        let met = self.heard.until(|all| expected(&so_far(all)).then_some(()));
        if tokio::time::timeout(PATIENCE, met).await.is_err() {
            panic!("these are not the commands that were expected: {:?}", so_far(&self.heard.commands()));
        }
        let to = self.mark().await;
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = to;
        (output, so_far(&self.heard.commands()[..to]))
    }

    /// How many commands came before now.
    async fn mark(&self) -> usize {
        let from = self.heard.commands().len();
        let mark = format!("mark {from}");
        let mut marks = self.marks.clone();
        let said: Result<String, _> = redis::cmd("ECHO").arg(&mark).query_async(&mut marks).await;
        assert_eq!(said.as_ref().ok(), Some(&mark));
        let is_it = |command: &Command| command.name == "ECHO" && command.arguments == [mark.as_str()];
        within("a mark", self.heard.until(|all| all.iter().skip(from).position(is_it).map(|at| from + at)))
            .await
    }
}

impl Heard {
    fn commands(&self) -> std::sync::MutexGuard<'_, Vec<Command>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn until<T>(&self, look: impl Fn(&[Command]) -> Option<T>) -> T {
        loop {
            let more = self.more.notified();
            tokio::pin!(more);
            // Before looking, so that nothing that comes meanwhile is missed.
            more.as_mut().enable();
            if let Some(found) = look(&self.commands()) {
                return found;
            }
            more.await;
        }
    }
}

impl Command {
    /// A PING shows that a connection lives, an ECHO is a mark, an INFO a test's question.
    fn is_aside(&self) -> bool {
        ["PING", "ECHO", "INFO", "CLIENT", "HELLO"].contains(&self.name.as_str())
    }
}

/// A line such as `+1700000000.123456 [0 127.0.0.1:5000] "get" "key"`; none for what a script has called.
fn command(line: &str) -> Option<Command> {
    let (head, rest) = line.split_once("] ")?;
    if head.ends_with(" lua") {
        return None;
    }
    let mut words = words(rest).into_iter();
    let name = words.next()?.to_ascii_uppercase();
    Some(Command { name, arguments: words.collect() })
}

/// `"a" "b"`, in which quotes inside are escaped; other escapes are left as they are.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut characters) = (Vec::new(), None::<String>, text.chars());
    while let Some(character) = characters.next() {
        match (&mut word, character) {
            (None, '"') => word = Some(String::new()),
            (None, _) => {}
            (Some(_), '"') => words.extend(word.take()),
            (Some(word), '\\') => {
                let escaped = characters.next().unwrap_or('\\');
                if !matches!(escaped, '"' | '\\') {
                    word.push('\\');
                }
                word.push(escaped);
            }
            (Some(word), character) => word.push(character),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use super::*;

    #[test]
    fn lines_are_read() {
        let line = r##"+1.2 [0 127.0.0.1:5] "publish" "a#/#\"r\"#" "\x93] \\ x""##;
        let arguments = vec![r##"a#/#"r"#"##.to_owned(), r"\x93] \ x".to_owned()];
        assert_eq!(command(line).unwrap(), Command { name: "PUBLISH".to_owned(), arguments });
        assert_eq!(command(r#"+1.2 [0 lua] "hget" "k""#), None);
    }
}
