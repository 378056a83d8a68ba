//! The ways an Engine.IO session begins: by polling, by WebSocket, and the probe of a WebSocket for a session that
//! polls.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use tidegate_protocol::engineio::{Opened, Packet, Transport as Kind, payload};
use tokio::time::timeout;

use crate::endpoint::Endpoint;
use crate::engine::{Arrival, Engine, Message, Transport, Upgrade, arrival, arrival_of};
use crate::error::Error;
use crate::http::Http;
use crate::options::{Options, Transports};
use crate::polling::Polling;
use crate::websocket::{Frame, WebSocket};

/// Opens a session. The caller limits the time.
pub(crate) async fn open(endpoint: &Arc<Endpoint>, options: &Options) -> Result<Engine, Error> {
    match options.transports {
        Transports::WebSocket => open_websocket(endpoint, options).await,
        Transports::Polling | Transports::Default => open_polling(endpoint, options).await,
    }
}

async fn open_polling(endpoint: &Arc<Endpoint>, options: &Options) -> Result<Engine, Error> {
    // Base64 and separators make a body larger than the messages in it.
    let answer_bytes_max = options.message_bytes_max.saturating_mul(2);
    let mut http = Http::new(endpoint.clone(), answer_bytes_max);
    let body = http.exchange(Method::GET, &endpoint.target(Kind::Polling, None), Bytes::new()).await?;
    let body = std::str::from_utf8(&body).map_err(|_| Error::Protocol("handshake is not text".to_owned()))?;
    let mut pieces = payload::decode(body);
    let opened = match pieces.next().transpose()? {
        Some(payload::Piece::Packet(Packet::Open(json))) => read_open(json)?,
        _ => return Err(Error::Protocol("first packet is not open".to_owned())),
    };

    let body_bytes_max = usize::try_from(opened.max_payload).unwrap_or(usize::MAX);
    let target = endpoint.target(Kind::Polling, Some(&opened.sid));
    let polling = Polling::new(endpoint, http, target, body_bytes_max, answer_bytes_max);
    let offered = opened.upgrades.iter().any(|name| name == Kind::WebSocket.as_str());
    let upgrade = if options.transports == Transports::Default && offered {
        Upgrade::Probing(Box::pin(probe(endpoint.clone(), opened.sid.clone(), options.clone())))
    } else {
        Upgrade::Off
    };
    let mut engine = Engine::new(&opened, Transport::Polling(polling), upgrade);
    for piece in pieces {
        let arrival = match piece? {
            payload::Piece::Packet(packet) => arrival_of(packet),
            payload::Piece::Binary(bytes) => Some(Arrival::Message(Message::Binary(bytes))),
        };
        engine.arrived(arrival).map_err(|reason| Error::Protocol(reason.to_string()))?;
    }
    Ok(engine)
}

async fn open_websocket(endpoint: &Arc<Endpoint>, options: &Options) -> Result<Engine, Error> {
    let (websocket, opened, early) = websocket_session(endpoint, options.message_bytes_max).await?;
    let mut engine = Engine::new(&opened, Transport::WebSocket(websocket), Upgrade::Off);
    for arrival in early {
        engine.arrived(arrival).map_err(|reason| Error::Protocol(reason.to_string()))?;
    }
    Ok(engine)
}

/// Opens a WebSocket, takes the open packet and keeps what came right behind it.
pub(crate) async fn websocket_session(
    endpoint: &Endpoint,
    message_bytes_max: usize,
) -> Result<(WebSocket, Opened, VecDeque<Option<Arrival>>), Error> {
    let mut arrivals = VecDeque::new();
    let target = endpoint.target(Kind::WebSocket, None);
    let mut websocket =
        WebSocket::connect(endpoint, &target, message_bytes_max, |frame| arrivals.push_back(arrival(frame)))
            .await?;
    loop {
        match arrivals.pop_front() {
            Some(Some(Arrival::Open(json))) => return Ok((websocket, read_open(&json)?, arrivals)),
            Some(_) => return Err(Error::Protocol("first packet is not open".to_owned())),
            None => {
                let read = websocket.read(|frame| arrivals.push_back(arrival(frame)));
                read.await.map_err(|reason| Error::Protocol(format!("handshake: {reason}")))?;
            }
        }
    }
}

fn read_open(json: &str) -> Result<Opened, Error> {
    Opened::decode(json).map_err(|error| Error::Protocol(error.to_string()))
}

/// Opens a WebSocket for a polling session and has it confirmed.
async fn probe(endpoint: Arc<Endpoint>, sid: String, options: Options) -> Result<WebSocket, Error> {
    let attempt = async {
        let target = endpoint.target(Kind::WebSocket, Some(&sid));
        let mut answer = None;
        let is_confirmed = |frame: Frame<'_>| Some(matches!(frame, Frame::Text("3probe")));
        let mut websocket = WebSocket::connect(&endpoint, &target, options.message_bytes_max, |_| ()).await?;
        websocket.push_text("2probe");
        while answer.is_none() {
            let read = websocket.read(|frame| answer = is_confirmed(frame));
            read.await.map_err(|reason| Error::Protocol(format!("probe: {reason}")))?;
        }
        match answer {
            Some(true) => Ok(websocket),
            _ => Err(Error::Protocol("probe was answered with something else".to_owned())),
        }
    };
    let limit = options.connect_timeout;
    timeout(limit, attempt).await.unwrap_or(Err(Error::Timeout { limit }))
}
