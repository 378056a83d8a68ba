//! The socket of a [`Line`](crate::line::Line), over TLS or not: written by whoever has something to send, read by one task.
//!
//! Over TLS a write is taken when it is encrypted. What of that has not left yet is rustls's to keep, a record's worth at
//! most, since nothing is encrypted before it has: [`Stream::flush`] says whether there is any.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Most bytes that are encrypted at a time: what TLS lets one record hold.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// A connected socket.
pub(crate) struct Stream {
    tcp: TcpStream,
    tls: Option<Box<Mutex<ClientConnection>>>,
}

/// Whether `authorities` are certificates in PEM.
///
/// # Errors
/// What is wrong with them.
pub fn check_authorities(authorities: &[u8]) -> Result<(), String> {
    trusting(Some(authorities)).map(drop)
}

/// Whose signature under a server's certificate is believed.
///
/// # Errors
/// What is wrong with `authorities`, which are in PEM; or with the system's, where none are given.
pub(crate) fn trusting(authorities: Option<&[u8]>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(pem) => {
            for authority in CertificateDer::pem_slice_iter(pem) {
                let authority = authority.map_err(|_| "is not PEM".to_owned())?;
                roots.add(authority).map_err(|fault| format!("holds what is no authority: {fault}"))?;
            }
            if roots.is_empty() {
                return Err("holds no certificate in PEM".to_owned());
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err("this system knows no authorities for certificates: set redis.tls.ca".to_owned());
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|fault| fault.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Stream {
    /// A socket without TLS.
    pub(crate) fn plain(tcp: TcpStream) -> Self {
        Self { tcp, tls: None }
    }

    /// Shakes hands with the server that is called `host`. The caller limits the time.
    ///
    /// # Errors
    /// When it does not speak TLS, or its certificate is not believed or names somebody else.
    pub(crate) async fn secure(tcp: TcpStream, host: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no certificate can name this host"))?;
        let (tcp, tls) = TlsConnector::from(config).connect(name, tcp).await?.into_inner();
        Ok(Self { tcp, tls: Some(Box::new(Mutex::new(tls))) })
    }

    /// Writes what is taken now.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return self.tcp.try_write(bytes) };
        let mut tls = tls.lock();
        self.send(&mut tls)?;
        let taken = tls.writer().write(&bytes[..bytes.len().min(RECORD_BYTES_MAX)])?;
        match self.send(&mut tls) {
            Err(fault) if fault.kind() != io::ErrorKind::WouldBlock => Err(fault),
            _ => Ok(taken),
        }
    }

    /// Sends on what was taken and has not left yet.
    ///
    /// # Errors
    /// `WouldBlock` while something of it is left.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.tls.as_ref().map_or(Ok(()), |tls| self.send(&mut tls.lock()))
    }

    fn send(&self, tls: &mut ClientConnection) -> io::Result<()> {
        while tls.wants_write() {
            match tls.write_tls(&mut Ready(&self.tcp)) {
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                written => drop(written?),
            }
        }
        Ok(())
    }

    /// Whether there may be more where so many bytes of so many that were asked for came from. Over TLS nobody can tell.
    pub(crate) fn may_have_more(&self, count: usize, asked: usize) -> bool {
        count == asked || self.tls.is_some()
    }

    /// Reads once; nothing at the end.
    ///
    /// # Errors
    /// When the connection broke, or what came is not what TLS lets anybody send.
    pub(crate) fn poll_read(&self, context: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        match &self.tls {
            None => self.poll_receive(context, room),
            Some(tls) => self.poll_decrypt(context, &mut tls.lock(), room),
        }
    }

    fn poll_receive(&self, context: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let asked = room.len();
        loop {
            ready!(self.tcp.poll_read_ready(context))?;
            let mut count = None;
            let read = self.tcp.try_io(Interest::READABLE, || {
                let read = (&*SockRef::from(&self.tcp)).read(room)?;
                count = Some(read);
                // The socket is empty, and says so when it is not any more: that saves asking again.
                if read < asked { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (count, read) {
                (Some(count), _) => return Poll::Ready(Ok(count)),
                (None, Err(fault)) if is_passing(&fault) => {}
                (None, Err(fault)) => return Poll::Ready(Err(fault)),
                // Whatever was read was counted.
                (None, Ok(())) => {}
            }
        }
    }

    fn poll_decrypt(
        &self,
        context: &mut Context<'_>,
        tls: &mut ClientConnection,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match tls.reader().read(room) {
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
            ready!(self.tcp.poll_read_ready(context))?;
            match tls.read_tls(&mut Ready(&self.tcp)) {
                Ok(_) => {
                    tls.process_new_packets()
                        .map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))?;
                    // Keys may be changed at the server's wish. What does not leave now does with the next write.
                    match self.send(tls) {
                        Err(fault) if fault.kind() != io::ErrorKind::WouldBlock => {
                            return Poll::Ready(Err(fault));
                        }
                        _ => {}
                    }
                }
                Err(fault) if is_passing(&fault) => {}
                Err(fault) => return Poll::Ready(Err(fault)),
            }
        }
    }

    /// Waits until the socket may take more.
    ///
    /// # Errors
    /// When the runtime is going away.
    pub(crate) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(context)
    }
}

fn is_passing(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The socket as rustls reads and writes it: what is not possible now would block.
struct Ready<'a>(&'a TcpStream);

impl Read for Ready<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(room)
    }
}

impl Write for Ready<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use std::future::poll_fn;

    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::server::TlsStream;

    use super::*;

    macro_rules! pem {
        ($name:literal) => {
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../test/certificates/", $name))
        };
    }

    fn acceptor() -> TlsAcceptor {
        let certificate = CertificateDer::from_pem_slice(pem!("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(pem!("server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key);
        TlsAcceptor::from(Arc::new(config.unwrap()))
    }

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    async fn pair() -> (Stream, TlsStream<TcpStream>) {
        let (near, far) = connected().await;
        let config = trusting(Some(pem!("ca.pem"))).unwrap();
        let acceptor = acceptor();
        let (near, far) = tokio::join!(Stream::secure(near, "localhost", config), acceptor.accept(far));
        (near.unwrap(), far.unwrap())
    }

    #[tokio::test]
    async fn who_cannot_be_believed_is_refused() {
        let (ca, stranger): (&[u8], &[u8]) = (pem!("ca.pem"), pem!("renewed.pem"));
        for (authority, host, secure, why) in [
            (stranger, "localhost", true, "UnknownIssuer"),
            (ca, "redis.example", true, "NotValidForName"),
            (ca, "127.0.0.2", true, "NotValidForName"),
            (ca, "localhost", false, "InvalidContentType"),
        ] {
            let (near, mut far) = connected().await;
            let config = trusting(Some(authority)).unwrap();
            let serving = async {
                if secure {
                    // It is told off, or finds the connection gone.
                    drop(acceptor().accept(far).await);
                } else {
                    far.write_all(b"-NOAUTH this is no TLS\r\n").await.unwrap();
                    drop(far.read(&mut [0; 1]).await);
                }
            };
            let (refused, ()) = tokio::join!(Stream::secure(near, host, config), serving);
            let fault = format!("{:?}", refused.err().unwrap());
            assert!(fault.to_lowercase().contains(&why.to_lowercase()), "{host}: {fault}");
        }
        assert!(trusting(Some(b"nonsense")).is_err() && trusting(Some(pem!("server.key"))).is_err());
    }

    /// Bytes that do not repeat themselves soon.
    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| u8::try_from(at * at % 251).unwrap()).collect()
    }

    #[tokio::test]
    async fn what_a_blocked_socket_was_given_leaves_when_it_takes_more() {
        let (near, mut far) = pair().await;
        let all = bytes(8 << 20);
        let mut taken = 0;
        let mut was_clogged = false;
        let sending = async {
            while taken < all.len() {
                match near.try_write(&all[taken..]) {
                    Ok(count) => taken += count,
                    Err(fault) => {
                        assert_eq!(fault.kind(), io::ErrorKind::WouldBlock);
                        was_clogged |= near.flush().is_err();
                        poll_fn(|context| near.poll_write_ready(context)).await.unwrap();
                    }
                }
            }
            while near.flush().is_err() {
                poll_fn(|context| near.poll_write_ready(context)).await.unwrap();
            }
        };
        let mut heard = vec![0; all.len()];
        let hearing = far.read_exact(&mut heard);
        let ((), read) = tokio::join!(sending, hearing);
        read.unwrap();
        assert!(heard == all, "what arrived is not what was sent");
        assert!(was_clogged, "the socket took everything at once, and nothing was tested");
    }

    #[tokio::test]
    async fn what_has_arrived_is_read_to_its_end_and_no_further() {
        let (near, mut far) = pair().await;
        let all = bytes(100_000);
        let saying = async {
            far.write_all(&all).await.unwrap();
            far.shutdown().await.unwrap();
        };
        let hearing = async {
            let mut heard = Vec::new();
            // A reader with less room than a record has.
            let mut room = [0; 1_000];
            loop {
                let count = poll_fn(|context| near.poll_read(context, &mut room)).await.unwrap();
                if count == 0 {
                    break heard;
                }
                heard.extend_from_slice(&room[..count]);
            }
        };
        let ((), heard) = tokio::join!(saying, hearing);
        assert!(heard == all, "what was heard is not what was said");
    }
}
