//! The task of one client: it owns the transport and every namespace on it.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_protocol::engineio::Transport;
use tidegate_protocol::socketio::encode;
use tidegate_protocol::socketio::{Decoder, Encoded, Packet, Violation};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::client::SIGNALS_RESERVED;
use crate::endpoint::Endpoint;
use crate::engine::{Engine, Message};
use crate::error::{Error, Reason};
use crate::namespace::{Answer, Joining, Namespace};
use crate::opening;
use crate::options::Options;
use crate::socket::{AckHandle, Event, Signal, State};
use crate::value::Value;
use crate::value::wire::{connect_error, decode_args};
use crate::websocket::random_bytes;

/// What the handles ask for. Packets come encoded, so that whoever gave what cannot be is told.
#[derive(Debug)]
pub(crate) enum Command {
    Join(Joining),
    Leave {
        namespace: String,
    },
    /// An event, and who waits for the acknowledgement of its id.
    Emit {
        namespace: String,
        packet: Encoded,
        answer: Option<(u64, Answer)>,
    },
    Ack {
        namespace: String,
        packet: Encoded,
    },
    Close,
}

/// Why the transport is no longer used.
enum End {
    /// The handle asked for it.
    Closed,
    /// No namespace is left on it.
    Unused,
    /// It broke.
    Lost(Reason),
    /// A socket's user does not take its events.
    Unread,
}

pub(crate) struct Session {
    endpoint: Arc<Endpoint>,
    options: Options,
    commands: mpsc::Receiver<Command>,
    /// For the acknowledgement handles of events. Weak: the handles decide how long the client lives.
    loopback: mpsc::WeakSender<Command>,
    transport: watch::Sender<Transport>,
    namespaces: HashMap<String, Namespace>,
}

impl Session {
    pub(crate) fn new(
        endpoint: Arc<Endpoint>,
        options: Options,
        commands: mpsc::Receiver<Command>,
        loopback: mpsc::WeakSender<Command>,
        transport: watch::Sender<Transport>,
    ) -> Session {
        Session { endpoint, options, commands, loopback, transport, namespaces: HashMap::new() }
    }

    /// Lives until the client is closed or its handles are gone.
    pub(crate) async fn run(mut self, engine: Engine) {
        let mut engine = Some(engine);
        loop {
            let end = match &mut engine {
                Some(engine) => self.serve(engine).await,
                None => self.rest().await,
            };
            match end {
                End::Closed => {
                    if let Some(mut engine) = engine.take() {
                        self.say_goodbye(&mut engine);
                        engine.close().await;
                    }
                    return self.end_all(Reason::IoClientDisconnect);
                }
                End::Unused => match engine.take() {
                    Some(unused) => unused.close().await,
                    None => match self.open().await {
                        Ok(Ok(opened)) => engine = Some(opened),
                        Ok(Err(error)) => self.refuse_all(&error),
                        Err(()) => return self.end_all(Reason::IoClientDisconnect),
                    },
                },
                End::Unread => {
                    self.end_all(Reason::EventsUnread);
                    if let Some(unread) = engine.take() {
                        unread.close().await;
                    }
                    return;
                }
                End::Lost(reason) => {
                    engine = None;
                    self.lose_all(reason);
                    match self.come_back(reason).await {
                        Ok(back) => engine = back,
                        Err(End::Closed) => return self.end_all(Reason::IoClientDisconnect),
                        Err(_) => self.end_all(reason),
                    }
                }
            }
        }
    }

    /// One transport, from its opening to its end.
    async fn serve(&mut self, engine: &mut Engine) -> End {
        let bytes_max = self.options.message_bytes_max;
        let mut decoder = Decoder::client(self.options.parser, bytes_max);
        for namespace in self.namespaces.values() {
            engine.send(namespace.connect.clone());
        }
        // A new transport has nothing on it until the first join; it is unused only when it has been used.
        let mut is_used = !self.namespaces.is_empty();
        loop {
            if is_used && self.namespaces.is_empty() {
                return End::Unused;
            }
            is_used |= !self.namespaces.is_empty();
            self.transport.send_if_modified(|transport| {
                let now = engine.transport();
                std::mem::replace(transport, now) != now
            });
            tokio::select! {
                command = self.commands.recv(), if !engine.is_congested() => {
                    if self.obey(engine, command).is_err() {
                        return End::Closed;
                    }
                }
                message = engine.next() => {
                    let packet = match message {
                        Ok(None) => continue,
                        Ok(Some(Message::Text(text))) => decoder.text(&text),
                        Ok(Some(Message::Binary(bytes))) => decoder.binary(&bytes),
                        Err(reason) => return End::Lost(reason),
                    };
                    if let Err(end) = self.receive(packet) {
                        return end;
                    }
                }
            }
        }
    }

    /// Carries out a command on a live transport. `Err` means the client is to be closed.
    fn obey(&mut self, engine: &mut Engine, command: Option<Command>) -> Result<(), ()> {
        match command {
            None | Some(Command::Close) => return Err(()),
            Some(Command::Join(joining)) => {
                let connect = joining.connect.clone();
                if self.add(joining) {
                    engine.send(connect);
                }
            }
            Some(Command::Leave { namespace }) => {
                if self.end(&namespace, Reason::IoClientDisconnect) {
                    engine.send(encode::disconnect(self.options.parser, &namespace));
                }
            }
            Some(Command::Emit { namespace, packet, answer }) => {
                let Some(state) = self.namespaces.get_mut(&namespace) else {
                    refuse(answer, Reason::IoClientDisconnect);
                    return Ok(());
                };
                if !matches!(*state.state.borrow(), State::Connected { .. }) {
                    refuse(answer, Reason::TransportClose);
                    return Ok(());
                }
                if let Some((id, answer)) = answer {
                    state.expect_ack(id, answer);
                }
                engine.send(packet);
            }
            Some(Command::Ack { namespace, packet }) => {
                if self.namespaces.contains_key(&namespace) {
                    engine.send(packet);
                }
            }
        }
        Ok(())
    }

    /// Carries out a command while there is no transport.
    fn obey_offline(&mut self, command: Option<Command>) -> Result<(), ()> {
        match command {
            None | Some(Command::Close) => return Err(()),
            Some(Command::Join(joining)) => {
                self.add(joining);
            }
            Some(Command::Leave { namespace }) => drop(self.end(&namespace, Reason::IoClientDisconnect)),
            Some(Command::Emit { answer, .. }) => refuse(answer, Reason::TransportClose),
            // What was to be acknowledged came on a transport that is gone.
            Some(Command::Ack { .. }) => {}
        }
        Ok(())
    }

    fn receive(&mut self, packet: Result<Option<Packet>, Violation>) -> Result<(), End> {
        let packet = match packet {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(()),
            Err(violation) => {
                tracing::debug!(%violation, "server broke the protocol");
                return Err(End::Lost(Reason::ParseError));
            }
        };
        let Some(namespace) = self.namespaces.get_mut(packet.namespace()) else { return Ok(()) };
        let unreadable = |_| End::Lost(Reason::ParseError);
        match packet {
            Packet::Connect { auth, .. } => {
                let details = Value::decode(auth.as_deref().unwrap_or(&[0xc0])).map_err(unreadable)?;
                let id = details["sid"].as_str().ok_or(End::Lost(Reason::ParseError))?.to_owned();
                namespace.state.send_replace(State::Connected { id: id.clone() });
                match namespace.joining.take() {
                    Some(joining) => drop(joining.send(Ok(()))),
                    None => namespace.signal(Signal::Connected { id }),
                }
            }
            Packet::ConnectError { namespace: name, data } => {
                let (message, data) = connect_error(&data).map_err(unreadable)?;
                match namespace.joining.take() {
                    // Whoever asked may have stopped waiting.
                    Some(joining) => drop(joining.send(Err(Error::ConnectError { message, data }))),
                    None => namespace.signal(Signal::Refused { message, data }),
                }
                namespace.state.send_replace(State::Ended(Reason::ConnectError));
                self.namespaces.remove(&name);
            }
            Packet::Disconnect { namespace: name } => drop(self.end(&name, Reason::IoServerDisconnect)),
            Packet::Event { namespace: name, id, data } => {
                let mut args = decode_args(&data).map_err(unreadable)?;
                if args.is_empty() {
                    return Err(End::Lost(Reason::ParseError));
                }
                let event = match args.remove(0) {
                    Value::String(event) => event,
                    Value::Int(number) => number.to_string(),
                    _ => return Err(End::Lost(Reason::ParseError)),
                };
                let commands = self.loopback.upgrade();
                let parser = self.options.parser;
                let ack = id.zip(commands).map(|(id, commands)| AckHandle {
                    namespace: name,
                    parser,
                    id,
                    commands,
                });
                if namespace.signal.capacity() <= SIGNALS_RESERVED {
                    return Err(End::Unread);
                }
                namespace.signal(Signal::Event(Event { name: event, args, ack }));
            }
            Packet::Ack { id, data, .. } => {
                let args = decode_args(&data).map_err(unreadable)?;
                if let Some(answer) = namespace.acks.remove(&id) {
                    // Whoever asked may have stopped waiting.
                    let _ = answer.send(Ok(args));
                }
            }
        }
        Ok(())
    }

    /// Without a transport and without a namespace: waits for one to be joined.
    async fn rest(&mut self) -> End {
        while self.namespaces.is_empty() {
            let command = self.commands.recv().await;
            if self.obey_offline(command).is_err() {
                return End::Closed;
            }
        }
        End::Unused
    }

    /// Opens a transport while commands are carried out. The outer `Err` means the client is to be closed.
    async fn open(&mut self) -> Result<Result<Engine, Error>, ()> {
        let limit = self.options.connect_timeout;
        let (endpoint, options) = (self.endpoint.clone(), self.options.clone());
        let attempt = async move {
            timeout(limit, opening::open(&endpoint, &options)).await.unwrap_or(Err(Error::Timeout { limit }))
        };
        self.meanwhile(attempt).await
    }

    /// Tries to get a transport again for as long as the options allow and a namespace wants it.
    async fn come_back(&mut self, reason: Reason) -> Result<Option<Engine>, End> {
        let Some(reconnect) = self.options.reconnect.clone().filter(|_| reason.reconnects()) else {
            return Err(End::Lost(reason));
        };
        let mut attempt = 0;
        while reconnect.attempts_max.is_none_or(|attempts_max| attempt < attempts_max) {
            let spread = f64::from(u32::from_ne_bytes(random_bytes())) / f64::from(u32::MAX);
            let wait = sleep(reconnect.wait(attempt, spread));
            self.meanwhile(wait).await.map_err(|()| End::Closed)?;
            if self.namespaces.is_empty() {
                return Ok(None);
            }
            match self.open().await.map_err(|()| End::Closed)? {
                Ok(engine) => return Ok(Some(engine)),
                Err(error) => tracing::debug!(%error, attempt, "reconnecting failed"),
            }
            attempt += 1;
        }
        Err(End::Lost(reason))
    }

    /// Waits for `work` and carries out commands. `Err` means the client is to be closed.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, ()> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                output = &mut work => return Ok(output),
                command = self.commands.recv() => self.obey_offline(command)?,
            }
        }
    }

    /// Takes a namespace in; false if it is there already.
    fn add(&mut self, joining: Joining) -> bool {
        if self.namespaces.contains_key(&joining.namespace) {
            let twice = Error::Protocol(format!("namespace is joined already: {}", joining.namespace));
            // Whoever asked may have stopped waiting.
            let _ = joining.answer.send(Err(twice));
            return false;
        }
        let (name, namespace) = Namespace::new(joining);
        self.namespaces.insert(name, namespace);
        true
    }

    /// Ends one namespace; false if there is none of that name.
    fn end(&mut self, name: &str, reason: Reason) -> bool {
        let Some(mut namespace) = self.namespaces.remove(name) else { return false };
        namespace.disconnect(State::Ended(reason), reason);
        true
    }

    fn end_all(&mut self, reason: Reason) {
        for (_, mut namespace) in self.namespaces.drain() {
            namespace.disconnect(State::Ended(reason), reason);
        }
    }

    /// The transport is gone; the namespaces may come back.
    fn lose_all(&mut self, reason: Reason) {
        for namespace in self.namespaces.values_mut() {
            namespace.disconnect(State::Lost(reason), reason);
        }
    }

    /// No transport could be opened for those who asked to join.
    fn refuse_all(&mut self, error: &Error) {
        for (_, mut namespace) in self.namespaces.drain() {
            namespace.state.send_replace(State::Ended(Reason::TransportError));
            if let Some(joining) = namespace.joining.take() {
                let error = match error {
                    Error::Refused { status, body } => Error::Refused { status: *status, body: body.clone() },
                    other => Error::Protocol(format!("transport could not be opened: {other}")),
                };
                // Whoever asked may have stopped waiting.
                let _ = joining.send(Err(error));
            }
        }
    }

    fn say_goodbye(&mut self, engine: &mut Engine) {
        for name in self.namespaces.keys() {
            engine.send(encode::disconnect(self.options.parser, name));
        }
    }
}

fn refuse(answer: Option<(u64, Answer)>, reason: Reason) {
    if let Some((_, answer)) = answer {
        // Whoever asked may have stopped waiting.
        let _ = answer.send(Err(Error::Disconnected(reason)));
    }
}
