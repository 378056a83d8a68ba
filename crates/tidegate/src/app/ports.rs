//! Listening sockets.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::Error;
use crate::config::PORT_STEP;

/// Connections the kernel completes before they are accepted. Clients of a node that died all come back at once;
/// the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// A port that is ours and refuses connections so far.
pub(super) struct Port {
    socket: TcpSocket,
    key: &'static str,
    /// Where it came to be, which differs from what was asked for when that had port 0.
    pub(super) address: SocketAddr,
}

/// Binds the port of node `index`, where the first node's is at `first`; `key` is the setting that says so.
pub(super) fn bind(key: &'static str, first: SocketAddr, index: u16) -> Result<Port, Error> {
    let mut address = first;
    if first.port() != 0 {
        // The configuration leaves room for the last node's.
        address.set_port(first.port() + index * PORT_STEP);
    }
    let failed = |fault| Error::Listen { key, address, fault };
    let socket = bound(address).map_err(failed)?;
    let address = socket.local_addr().map_err(failed)?;
    Ok(Port { socket, key, address })
}

fn bound(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the last connections of the process before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

impl Port {
    /// Takes connections from now on. It fails when another process has bound the same port and listens by now:
    /// with `SO_REUSEADDR` only whoever listens keeps others out.
    pub(super) fn listen(self) -> Result<TcpListener, Error> {
        let Self { socket, key, address } = self;
        socket.listen(BACKLOG).map_err(|fault| Error::Listen { key, address, fault })
    }
}
