//! What the client port is made of where it speaks TLS: a certificate, its key, and nothing that has to be chosen.
//!
//! A certificate is renewed in place: new handshakes are shown the new one, and connections stay as they are.
//!
//! TLS 1.3 and 1.2, with rustls's defaults for everything that is safe by default. Absent on purpose: client
//! certificates, early data (which can be replayed), and HTTP/2, over which no client opens a WebSocket here.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The only protocol inside TLS that is spoken.
const HTTP_1: &[u8] = b"http/1.1";

/// A certificate and its key, ready to be shown to clients. Clones share them.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub(crate) config: Arc<ServerConfig>,
    shown: Arc<Shown>,
}

/// What the next handshake is shown.
struct Shown(RwLock<Arc<CertifiedKey>>);

/// Nothing of a key.
impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown(..)")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

/// Why there is no TLS with these files. Nothing of a key is ever in the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The certificates are none.
    #[error("{0}")]
    Certificate(String),
    /// The key is none, or not that of the certificate.
    #[error("{0}")]
    Key(String),
}

impl Credentials {
    /// Of a chain of certificates, the server's own first, and its private key, both in PEM.
    ///
    /// # Errors
    /// When either is not what it should be, or they do not belong together.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let certified = certified(certificates, key, &provider)?;
        let shown = Arc::new(Shown(RwLock::new(Arc::new(certified))));
        let tickets =
            ring::Ticketer::new().map_err(|fault| Error::Key(format!("cannot be used: {fault}")))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|fault| Error::Key(format!("cannot be used: {fault}")))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as _);
        config.alpn_protocols = vec![HTTP_1.to_vec()];
        // A client that polls opens two or three connections to the same node: with a ticket only the first costs a
        // signature. The node keeps nothing of them.
        config.ticketer = tickets;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), shown })
    }

    /// Shows a new certificate from the next handshake on, under the same conditions as the first.
    ///
    /// # Errors
    /// As for [`Credentials::from_pem`]; then the one before stays.
    pub fn renew(&self, certificates: &[u8], key: &[u8]) -> Result<(), Error> {
        let certified = certified(certificates, key, self.config.crypto_provider())?;
        *self.shown.0.write() = Arc::new(certified);
        Ok(())
    }
}

fn certified(certificates: &[u8], key: &[u8], provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
    let chain = match chain {
        Ok(chain) if chain.is_empty() => {
            return Err(Error::Certificate("holds no certificate in PEM".to_owned()));
        }
        Ok(chain) => chain,
        Err(fault) => return Err(Error::Certificate(format!("is not PEM: {}", broken(&fault)))),
    };
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|fault| Error::Key(keyless(&fault, key)))?;
    CertifiedKey::from_der(chain, key, provider).map_err(unusable)
}

/// What is broken, without what it says of the text: that may be part of a key.
fn broken(fault: &PemError) -> &'static str {
    match fault {
        PemError::MissingSectionEnd { .. } => "a section does not end",
        PemError::IllegalSectionStart { .. } => "a section does not begin as it should",
        PemError::Base64Decode(_) => "a section is not base64",
        _ => "it cannot be read",
    }
}

fn keyless(fault: &PemError, text: &[u8]) -> String {
    match fault {
        PemError::NoItemsFound if names(text, b"ENCRYPTED PRIVATE KEY-----") => {
            "is protected by a passphrase, which nobody could type in; write it out without one".to_owned()
        }
        PemError::NoItemsFound => "holds no private key in PEM".to_owned(),
        fault => format!("is not PEM: {}", broken(fault)),
    }
}

fn names(text: &[u8], label: &[u8]) -> bool {
    text.windows(label.len()).any(|part| part == label)
}

fn unusable(fault: rustls::Error) -> Error {
    match fault {
        rustls::Error::InconsistentKeys(_) => {
            Error::Key("is not the key of the first certificate in server.tls.cert".to_owned())
        }
        rustls::Error::InvalidCertificate(fault) => {
            Error::Certificate(format!("begins with a certificate that cannot be read: {fault}"))
        }
        fault => Error::Key(format!("cannot be used: {fault}")),
    }
}

/// What tests of everything that TLS runs through need: credentials, and clients that trust them.
#[cfg(test)]
pub(crate) mod testing {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::socket::Socket;

    macro_rules! pem {
        ($name:literal) => {
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../test/certificates/", $name))
        };
    }
    pub(super) use pem;

    pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] =
        [&rustls::version::TLS13, &rustls::version::TLS12];

    pub(crate) fn credentials() -> Credentials {
        Credentials::from_pem(pem!("server.pem"), pem!("server.key")).unwrap()
    }

    pub(crate) fn connector(version: &'static SupportedProtocolVersion) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem!("ca.pem")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    /// Two ends of a TCP connection whose kernel holds little of what is sent to the second.
    pub(crate) async fn narrow_pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpSocket::new_v4().unwrap();
        listener.set_send_buffer_size(4_096).unwrap();
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener: TcpListener = listener.listen(1).unwrap();
        let client = tokio::net::TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4_096).unwrap();
        let client = client.connect(listener.local_addr().unwrap()).await.unwrap();
        let server = listener.accept().await.unwrap().0;
        server.set_nodelay(true).unwrap();
        client.set_nodelay(true).unwrap();
        (server, client)
    }

    /// The same over TLS.
    pub(crate) async fn secure_pair(
        version: &'static SupportedProtocolVersion,
    ) -> (Socket, TlsStream<TcpStream>) {
        let (server, client) = narrow_pair().await;
        let connector = connector(version);
        let secured = Socket::secure(server, credentials().config);
        let name = "localhost".try_into().unwrap();
        let (secured, client) = tokio::join!(secured, connector.connect(name, client));
        (secured.unwrap(), client.unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::pem;
    use super::*;

    #[test]
    fn what_cannot_be_used_says_why() {
        let (certificate, key): (&[u8], &[u8]) = (pem!("server.pem"), pem!("server.key"));
        assert!(Credentials::from_pem(certificate, key).is_ok());
        let both = [certificate, key].concat();
        assert!(Credentials::from_pem(&both, &both).is_ok(), "a file that holds both is fine");

        let fault = |certificate: &[u8], key: &[u8]| match Credentials::from_pem(certificate, key) {
            Ok(_) => panic!("it can be used"),
            Err(Error::Certificate(fault)) => format!("certificate {fault}"),
            Err(Error::Key(fault)) => format!("key {fault}"),
        };
        assert_eq!(fault(key, key), "certificate holds no certificate in PEM");
        assert_eq!(fault(certificate, certificate), "key holds no private key in PEM");
        assert_eq!(fault(certificate, b""), "key holds no private key in PEM");
        assert_eq!(
            fault(certificate, pem!("other.key")),
            "key is not the key of the first certificate in server.tls.cert"
        );
        assert!(fault(certificate, pem!("encrypted.key")).starts_with("key is protected by a passphrase"));
        let broken = b"-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n";
        assert_eq!(fault(broken, key), "certificate is not PEM: a section is not base64");
        let cut = &key[..key.len() / 2];
        assert_eq!(fault(certificate, cut), "key is not PEM: a section does not end");
        let nonsense = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(
            fault(nonsense, key).starts_with("certificate begins with a certificate that cannot be read")
        );
        let nonsense = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(fault(certificate, nonsense).starts_with("key cannot be used: "));
    }

    #[test]
    fn credentials_do_not_show_their_key() {
        let shown = format!("{:?}", testing::credentials());
        let key = PrivateKeyDer::from_pem_slice(pem!("server.key")).unwrap();
        // The bytes of the scalar itself stand behind a header of some 36.
        let digits: Vec<String> = key.secret_der()[36..44].iter().map(ToString::to_string).collect();
        let hex: String = key.secret_der()[36..44].iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!shown.contains(&digits.join(", ")) && !shown.to_lowercase().contains(&hex), "{shown}");
    }
}
