//! `tidegate healthcheck`: asks a node whether it is ready, or alive, for images without a shell.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The whole of it, name resolution included. Probes of Docker and Kubernetes are given a few seconds each.
const TIMEOUT: Duration = Duration::from_secs(3);

/// More than any answer of `/readyz`; a stranger at that port may send without end.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Why the node does not count as ready.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is none that can be asked.
    #[error("{0:?} is no URL such as http://127.0.0.1:8081")]
    Url(String),
    /// Nobody answered in time.
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
    /// The connection failed.
    #[error("cannot ask {host}: {fault}")]
    Connection {
        /// Whom.
        host: String,
        /// Why not.
        fault: std::io::Error,
    },
    /// It answered something else than 200.
    #[error("not ready: {0}")]
    NotReady(String),
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether a message published now would be delivered: `/readyz`. Red while Redis is away.
    Ready,
    /// Whether the process answers at all: `/healthz`.
    Alive,
}

impl Question {
    const fn path(self) -> &'static str {
        match self {
            Self::Ready => "readyz",
            Self::Alive => "healthz",
        }
    }
}

/// Asks the admin port at `url`.
///
/// # Errors
/// Unless the answer is 200.
pub async fn run(url: &str, question: Question) -> Result<(), Error> {
    let (host, path) = target(url, question).ok_or_else(|| Error::Url(url.to_owned()))?;
    let answer = tokio::time::timeout(TIMEOUT, ask(&host, &path))
        .await
        .map_err(|_| Error::Timeout)?
        .map_err(|fault| Error::Connection { host, fault })?;
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    if answer.starts_with("HTTP/1.") && status == "200" {
        return Ok(());
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim());
    let first = answer.lines().next().unwrap_or_default();
    Err(Error::NotReady(if body.is_empty() { first.to_owned() } else { body.to_owned() }))
}

/// Host with port, and path.
fn target(url: &str, question: Question) -> Option<(String, String)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, base) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let printable = rest.bytes().all(|byte| byte.is_ascii_graphic());
    if authority.is_empty() || !printable || authority.contains('@') {
        return None;
    }
    // The colons of an IPv6 address stand inside its brackets.
    let after_address = authority.rsplit(']').next().unwrap_or(authority);
    let host = if after_address.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    Some((host, format!("{}/{}", base.trim_end_matches('/'), question.path())))
}

async fn ask(host: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(host).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    #[test]
    fn urls() {
        let of = |url| target(url, Question::Ready).map(|(host, path)| format!("{host} {path}"));
        assert_eq!(of("http://127.0.0.1:8081").unwrap(), "127.0.0.1:8081 /readyz");
        assert_eq!(of("http://gw/").unwrap(), "gw:80 /readyz");
        assert_eq!(of("http://[::1]/admin/").unwrap(), "[::1]:80 /admin/readyz");
        assert_eq!(of("http://[::1]:81").unwrap(), "[::1]:81 /readyz");
        for url in ["https://gw", "gw:8081", "http://", "http://a b", "http://u:p@gw", "http://gw\r\nX: y"] {
            assert!(of(url).is_none(), "{url}");
        }
        assert_eq!(target("http://gw", Question::Alive).unwrap().1, "/healthz");
    }

    async fn answered(answer: &'static str) -> Result<(), Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let outcome = run(&url, Question::Ready).await;
        server.join_all().await;
        outcome
    }

    #[tokio::test]
    async fn only_200_is_ready() {
        answered("HTTP/1.1 200 OK\r\n\r\n{}").await.unwrap();
        let red = answered("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"ready\":false}").await.unwrap_err();
        assert_eq!(red.to_string(), "not ready: {\"ready\":false}");
        assert!(matches!(answered("SSH-2.0-x\r\n").await.unwrap_err(), Error::NotReady(_)));
        assert!(matches!(answered("").await.unwrap_err(), Error::NotReady(_)));
    }

    #[tokio::test]
    async fn nobody_there_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        assert!(matches!(run(&url, Question::Ready).await.unwrap_err(), Error::Connection { .. }));
    }
}
