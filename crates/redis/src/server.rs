//! Where Redis is, and how one connection to it is made.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FutureExt as _, select_ok};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, ErrorKind, ProtocolVersion, PushInfo, RedisError,
    TlsCertificates,
};
use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive as Keepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio_util::sync::CancellationToken;

use crate::keys;
use crate::line::Line;
use crate::options::{ConnectError, Options};
use crate::resp::{self, Token};
use crate::sentinel;
use crate::stream::{self, Stream};
use crate::url::{self, Target, masked};

/// The oldest Redis, and what Valkey of any version claims to be at least, as major and minor version.
const VERSION_MIN: (u32, u32) = (6, 2);

/// How many requests the library queues on one connection. They leave it as fast as they
/// are written to the socket; how much is in flight is for those who send to bound. The library's default.
const REQUESTS_MAX: usize = 50;

/// First probe of an idle connection, then between probes. The pings every second notice sooner; this is for a
/// connection whose task is stuck.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// One live connection. Whoever finds it unusable cancels `broken`; the task that owns the connection replaces it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) connection: MultiplexedConnection,
    pub(crate) broken: CancellationToken,
}

/// The server that the URL names.
#[derive(Debug)]
pub(crate) struct Server {
    target: Target,
    masked: String,
    /// For a URL that asks for TLS.
    tls: Option<Arc<ClientConfig>>,
    attempt_timeout: Duration,
    fence_after: Duration,
    connection_name: String,
}

impl Server {
    pub(crate) fn parse(options: &Options) -> Result<Self, ConnectError> {
        let masked = masked(&options.url);
        let unusable = |reason| ConnectError::Url { url: masked.clone(), reason };
        let Target { mut info, sentinels } = url::parse(&options.url).map_err(unusable)?;
        let mut tls = None;
        if let ConnectionAddr::TcpTls { .. } = info.addr() {
            tls = Some(stream::trusting(options.tls_ca.as_deref()).map_err(unusable)?);
            // The library asks the system by itself.
            if let Some(authorities) = &options.tls_ca {
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(authorities.clone()) };
                let client = redis::Client::build_with_tls(info, certificates);
                info = client.map_err(|fault| unusable(fault.to_string()))?.get_connection_info().clone();
            }
        }
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Ok(Self {
            target: Target { info: info.set_redis_settings(settings), sentinels },
            tls,
            attempt_timeout: options.command_timeout.min(options.connect_timeout),
            fence_after: options.fence_after,
            connection_name: keys::connection_name(&options.incarnation),
            masked,
        })
    }

    /// The URL without its password.
    pub(crate) fn masked(&self) -> &str {
        &self.masked
    }

    /// Where to connect to now, as the sentinels say if there are any, and how.
    pub(crate) async fn info(&self) -> Result<ConnectionInfo, RedisError> {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        // A node that fenced itself must not be heard later: what Redis has not acknowledged within
        // `fence_after` is given up, and closing discards what is still unsent instead of sending it on.
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive)
            .set_user_timeout(self.fence_after)
            .set_linger_time(Duration::ZERO);
        let mut info = self.target.info.clone().set_tcp_settings(tcp);
        if let Some(sentinels) = &self.target.sentinels {
            info = info.set_addr(sentinels.master(self.attempt_timeout).await?);
        }
        Ok(info)
    }

    /// Whether the server is the master, where sentinels are asked for it: they may be behind.
    pub(crate) async fn check_role(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        if self.target.sentinels.is_none() {
            return Ok(());
        }
        sentinel::check_role(connection, self.attempt_timeout).await
    }

    /// Connects for commands, once. `on_push` sees what the server sends unasked, and must not block.
    pub(crate) async fn open(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<MultiplexedConnection, RedisError> {
        let client = redis::Client::open(self.info().await?)?;
        // Commands are timed by their callers, who know what each is worth waiting for.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.attempt_timeout))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(REQUESTS_MAX)
            .set_push_sender(move |info| {
                on_push(info);
                Ok::<(), std::convert::Infallible>(())
            });
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        self.check_role(&mut connection).await?;
        let mut name = redis::cmd("CLIENT");
        name.arg("SETNAME").arg(&self.connection_name);
        let named = tokio::time::timeout(self.attempt_timeout, connection.send_packed_command(&name));
        if let Ok(Err(error)) = named.await {
            tracing::debug!(%error, "failed to name the command connection");
        }
        Ok(connection)
    }

    /// Connects a line, once, and says nothing on it yet.
    pub(crate) async fn dial(&self) -> Result<Line, RedisError> {
        // Each sentinel is given its own time.
        let info = self.info().await?;
        let (ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }) = info.addr()
        else {
            // The URLs that are taken have no other.
            return Err(RedisError::from((ErrorKind::InvalidClientConfig, "not an address of TCP")));
        };
        let dialling = async {
            // All that the name has, as the library does: the first may lead nowhere.
            let addresses = lookup_host((host.as_str(), *port)).await?;
            let attempts: Vec<_> = addresses.map(|address| TcpStream::connect(address).boxed()).collect();
            if attempts.is_empty() {
                return Err(RedisError::from((ErrorKind::Io, "the host's name has no address")));
            }
            let (stream, _) = select_ok(attempts).await?;
            // What `info` asks of the library.
            let socket = SockRef::from(&stream);
            socket.set_tcp_nodelay(true)?;
            socket.set_tcp_keepalive(&Keepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
            socket.set_tcp_user_timeout(Some(self.fence_after))?;
            socket.set_linger(Some(Duration::ZERO))?;
            let stream = match &self.tls {
                None => Stream::plain(stream),
                Some(config) => Stream::secure(stream, host, Arc::clone(config)).await?,
            };
            Ok(Line::new(stream))
        };
        let timed_out = |_| RedisError::from((ErrorKind::Io, "the server could not be reached in time"));
        tokio::time::timeout(self.attempt_timeout, dialling).await.map_err(timed_out)?
    }

    /// Introduces this node on a line that is read already.
    ///
    /// # Errors
    /// The server's reason, or that it is no master where sentinels say it is.
    pub(crate) async fn greet(&self, line: &Line) -> Result<Greeting, String> {
        let settings = self.target.info.redis_settings();
        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = settings.password() {
            hello.extend([b"AUTH", settings.username().unwrap_or("default").as_bytes(), password.as_bytes()]);
        }
        hello.extend([&b"SETNAME"[..], self.connection_name.as_bytes()]);
        let answer = tokio::time::timeout(self.attempt_timeout, line.ask(&hello));
        let answer = answer.await.map_err(|_| "the server did not answer in time".to_owned())??;
        let greeting = Greeting::read(&answer).ok_or_else(|| "the server does not speak RESP3".to_owned())?;
        if self.target.sentinels.is_some() && !greeting.master {
            return Err("the server that a sentinel names is no master".to_owned());
        }
        Ok(greeting)
    }
}

/// What a server answers to HELLO, as far as it is of interest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// The connection's id; 0 if the server does not tell.
    pub(crate) client: u64,
    master: bool,
}

impl Greeting {
    /// None if it is not what a server says that speaks RESP3 from now on.
    fn read(answer: &[u8]) -> Option<Self> {
        let mut reader = resp::Reader::new(answer);
        let Some(Token::Aggregate(count)) = reader.token().ok()? else { return None };
        if !answer.starts_with(b"%") {
            return None;
        }
        let mut greeting = Self::default();
        for _ in 0..count / 2 {
            let (key, value) = (reader.token().ok()??, reader.token().ok()??);
            match (key, value) {
                (Token::Bulk(b"id"), Token::Integer(id)) => greeting.client = u64::try_from(id).ok()?,
                (Token::Bulk(b"proto"), Token::Integer(version)) if version != 3 => return None,
                (Token::Bulk(b"role"), Token::Bulk(role)) => greeting.master = role == b"master",
                (_, value) => {
                    reader.skip(&value).ok()?.then_some(())?;
                }
            }
        }
        Some(greeting)
    }
}

/// Whether the server is new enough; if not, what it says it is.
pub(crate) async fn check_version(
    connection: &mut MultiplexedConnection,
) -> Result<Result<(), String>, RedisError> {
    let info: String = redis::cmd("INFO").arg("server").query_async(connection).await?;
    // Valkey claims the version of Redis that it is compatible with, under the same name.
    let found = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("unknown").trim();
    Ok(if version(found).is_some_and(|version| version >= VERSION_MIN) {
        Ok(())
    } else {
        Err(found.to_owned())
    })
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The pauses between attempts to connect: none before the first, then 50 ms doubling to 1 s, each shortened by up
/// to half at random, so that the nodes of a cluster do not return all at once. A connection that did not last
/// counts as a failed attempt.
#[derive(Debug, Default)]
pub(crate) struct Backoff(u32);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LAST: Duration = Duration::from_secs(1);

    pub(crate) fn next(&mut self) -> Duration {
        let attempt = self.0;
        self.0 = attempt.saturating_add(1);
        if attempt == 0 {
            return Duration::ZERO;
        }
        let full = Self::FIRST.saturating_mul(1 << (attempt - 1).min(16)).min(Self::LAST);
        // A hasher of the standard library is seeded anew each time; more randomness is not needed here.
        let share = RandomState::new().hash_one(attempt) % 512;
        full.mul_f64(1.0 - share as f64 / 1024.0)
    }

    /// A connection ended that had been of use for `lasted`.
    pub(crate) fn ended(&mut self, lasted: Duration) {
        if lasted >= Self::LAST {
            self.0 = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::NodeId;

    use super::*;

    #[test]
    fn a_url_that_cannot_be_used_is_told_without_its_password() {
        for (url, shown) in
            [("redis://:hunter2@h/99x", "redis://:***@h/99x"), ("redis://:hun?ter2@h", "redis://:***@h")]
        {
            let error = Server::parse(&Options::new(url, NodeId::random())).expect_err(url).to_string();
            assert!(error.starts_with(&format!("redis url {shown}: cannot be used")), "{error}");
            assert!(!error.contains("hun"), "{error}");
        }
    }

    #[test]
    fn a_greeting_says_who_is_there() {
        let answer = b"%4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$2\r\nid\r\n:42\r\n$7\r\nmodules\r\n*1\r\n\
            %1\r\n$4\r\nname\r\n$1\r\nx\r\n$4\r\nrole\r\n$6\r\nmaster\r\n";
        assert_eq!(Greeting::read(answer), Some(Greeting { client: 42, master: true }));
        assert_eq!(Greeting::read(b"+OK\r\n"), None);
        assert_eq!(Greeting::read(b"*2\r\n$2\r\nid\r\n:1\r\n"), None);
        assert_eq!(Greeting::read(b"%1\r\n$5\r\nproto\r\n:2\r\n"), None);
        assert_eq!(Greeting::read(b"%1\r\n$2\r\nid\r\n"), None);
    }

    #[test]
    fn versions_are_compared_by_number() {
        let accepted = |text| version(text).is_some_and(|version| version >= VERSION_MIN);
        for good in ["6.2.0", "7.0.15", "7.2.4", "10.0.1"] {
            assert!(accepted(good), "{good}");
        }
        for bad in ["6.0.16", "5.0.14", "unknown", ""] {
            assert!(!accepted(bad), "{bad}");
        }
    }

    #[test]
    fn pauses_grow_to_a_second() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(), Duration::ZERO);
        for full in [50, 100, 200, 400, 800, 1000, 1000, 1000] {
            let pause = backoff.next();
            assert!(
                pause <= Duration::from_millis(full) && pause >= Duration::from_millis(full / 2),
                "{pause:?}"
            );
        }
        backoff.ended(Duration::from_millis(999));
        assert!(backoff.next() > Duration::ZERO, "a server that drops every connection is not stormed");
        backoff.ended(Duration::from_secs(1));
        assert_eq!(backoff.next(), Duration::ZERO);
    }
}
