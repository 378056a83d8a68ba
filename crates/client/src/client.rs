//! The handle of one client.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tidegate_protocol::engineio::Transport;
use tidegate_protocol::socketio::{Encoded, Parser, encode};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::namespace::Joining;
use crate::opening;
use crate::options::Options;
use crate::session::{Command, Session};
use crate::socket::{Signal, Socket, State};
use crate::value::Value;

/// Commands that wait for the client's task. More make their callers wait.
const COMMANDS_MAX: usize = 256;
/// Signals other than events that fit beside [`Options::events_max`] events.
pub(crate) const SIGNALS_RESERVED: usize = 16;
/// How long [`Client::close`] waits for the task beyond the limit the goodbye itself has.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A connection to a Socket.IO server, with one task behind it. Dropping it stops the task at once, as
/// [`Client::abort`] does.
#[derive(Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    transport: watch::Receiver<Transport>,
    parser: Parser,
    connect_timeout: Duration,
    events_max: usize,
    first: Socket,
    /// One task. Dropping the set stops it.
    task: JoinSet<()>,
}

impl Client {
    /// Connects and joins `namespace` with [`Options::auth`]. One attempt, whatever [`Options::reconnect`] says.
    ///
    /// # Errors
    /// [`Error::Refused`] when the handshake is, [`Error::ConnectError`] when the namespace is,
    /// [`Error::Unsendable`] for such credentials, [`Error::Timeout`], and whatever else the network and the server
    /// can do wrong.
    pub async fn connect(options: Options, namespace: &str) -> Result<Client, Error> {
        let endpoint = Arc::new(Endpoint::new(&options)?);
        let (limit, events_max, parser) = (options.connect_timeout, options.events_max, options.parser);
        let connect = connect_packet(parser, namespace, options.auth.as_ref())?;
        let attempt = async {
            let engine = opening::open(&endpoint, &options).await?;
            let (commands, inbound) = mpsc::channel(COMMANDS_MAX);
            let (transport_changed, transport) = watch::channel(engine.transport());
            let session =
                Session::new(endpoint.clone(), options, inbound, commands.downgrade(), transport_changed);
            let mut task = JoinSet::new();
            task.spawn(session.run(engine));
            let first = join(&commands, namespace, parser, connect, events_max).await?;
            Ok(Client { commands, transport, parser, connect_timeout: limit, events_max, first, task })
        };
        timeout(limit, attempt).await.unwrap_or(Err(Error::Timeout { limit }))
    }

    /// The namespace the client was connected with.
    pub fn socket(&self) -> &Socket {
        &self.first
    }

    /// Joins another namespace on the same transport. If the transport was closed because no namespace was left
    /// on it, it is opened again.
    ///
    /// # Errors
    /// As [`Client::connect`]; [`Error::Closed`] when the client has given up.
    pub async fn namespace(&self, namespace: &str, auth: Option<Value>) -> Result<Socket, Error> {
        let limit = self.connect_timeout;
        let connect = connect_packet(self.parser, namespace, auth.as_ref())?;
        let joining = join(&self.commands, namespace, self.parser, connect, self.events_max);
        match timeout(limit, joining).await {
            Ok(joined) => joined,
            Err(_) => {
                self.commands
                    .send(Command::Leave { namespace: namespace.to_owned() })
                    .await
                    .map_err(|_| Error::Closed)?;
                Err(Error::Timeout { limit })
            }
        }
    }

    /// The transport that packets take now.
    pub fn transport(&self) -> Transport {
        *self.transport.borrow()
    }

    /// Waits until packets take `transport`, for example until the upgrade is done.
    ///
    /// # Errors
    /// [`Error::Closed`] when the client ends before.
    pub async fn transport_is(&self, transport: Transport) -> Result<(), Error> {
        let mut changes = self.transport.clone();
        changes.wait_for(|now| *now == transport).await.map(drop).map_err(|_| Error::Closed)
    }

    /// Sends what was emitted before, leaves every namespace, closes the transport and waits for the task, all
    /// within a few seconds.
    pub async fn close(mut self) {
        // The task is gone if the command cannot be sent.
        let _ = timeout(CLOSE_LIMIT, self.commands.send(Command::Close)).await;
        if timeout(CLOSE_LIMIT, self.task.join_next()).await.is_err() {
            self.task.shutdown().await;
        }
    }

    /// Drops the transport without a goodbye, as a crash would, and waits for the task.
    pub async fn abort(mut self) {
        self.task.shutdown().await;
    }
}

/// The CONNECT of a namespace.
pub(crate) fn connect_packet(
    parser: Parser,
    namespace: &str,
    auth: Option<&Value>,
) -> Result<Encoded, Error> {
    let auth = auth.map(|auth| {
        let mut wire = Vec::new();
        auth.encode(&mut wire);
        wire
    });
    Ok(encode::connect(parser, namespace, auth.as_deref())?)
}

async fn join(
    commands: &mpsc::Sender<Command>,
    namespace: &str,
    parser: Parser,
    connect: Encoded,
    events_max: usize,
) -> Result<Socket, Error> {
    let (signal, signals) = mpsc::channel::<Signal>(events_max + SIGNALS_RESERVED);
    let (state_changed, state) = watch::channel(State::Connecting);
    let (answer, answered) = oneshot::channel();
    let joining = Joining { namespace: namespace.to_owned(), connect, signal, state: state_changed, answer };
    commands.send(Command::Join(joining)).await.map_err(|_| Error::Closed)?;
    answered.await.unwrap_or(Err(Error::Closed))?;
    Ok(Socket {
        namespace: namespace.to_owned(),
        parser,
        ack_next: AtomicU64::new(0),
        commands: commands.clone(),
        signals: Mutex::new(signals),
        state,
    })
}
