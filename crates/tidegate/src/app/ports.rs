//! Listening sockets.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::Error;
use crate::config::PORT_STEP;

/// Connections the kernel completes before they are accepted. Clients of a node that died all come back at once;
/// the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// A port, and the address it came to be at, which differs from the one asked for when that had port 0.
pub(super) struct Port {
    pub(super) listener: TcpListener,
    pub(super) address: SocketAddr,
}

/// Binds the port of node `index`, where the first node's is at `first`; `key` is the setting that says so.
pub(super) fn bind(key: &'static str, first: SocketAddr, index: u16) -> Result<Port, Error> {
    let mut address = first;
    if first.port() != 0 {
        // The configuration leaves room for the last node's.
        address.set_port(first.port() + index * PORT_STEP);
    }
    listen(address).map_err(|fault| Error::Listen { key, address, fault })
}

fn listen(address: SocketAddr) -> std::io::Result<Port> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the last connections of the process before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    Ok(Port { listener, address })
}
