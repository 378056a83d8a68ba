//! Where the server is, and the requests that are made to it.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use tidegate_protocol::engineio::Transport;
use tokio::net::{TcpSocket, TcpStream, lookup_host};

use crate::error::Error;
use crate::options::Options;
use crate::stream::{Security, Stream};

/// A server's address, checked once.
#[derive(Debug)]
pub(crate) struct Endpoint {
    authority: String,
    security: Option<Security>,
    path: String,
    headers: HeaderMap,
    local_address: Option<IpAddr>,
}

impl Endpoint {
    pub(crate) fn new(options: &Options) -> Result<Endpoint, Error> {
        let bad_url = || Error::Url { url: options.url.clone() };
        let uri: http::Uri = options.url.parse().map_err(|_| bad_url())?;
        let (is_secure, port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(bad_url()),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad_url());
        }
        let host = uri.host().ok_or_else(bad_url)?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(port));
        let security = is_secure.then(|| Security::new(host, &options.trust)).transpose()?;

        let path = options.path.clone();
        if !path.starts_with('/') || path.bytes().any(|byte| byte <= b' ' || byte == b'?' || byte == b'#') {
            return Err(Error::Url { url: path });
        }

        let mut headers = HeaderMap::new();
        for (name, value) in &options.headers {
            let bad_header = || Error::Header { name: name.clone() };
            let key: HeaderName = name.parse().map_err(|_| bad_header())?;
            headers.append(key, HeaderValue::from_str(value).map_err(|_| bad_header())?);
        }
        Ok(Endpoint { authority, security, path, headers, local_address: options.local_address })
    }

    /// A connection to the server.
    pub(crate) async fn dial(&self) -> Result<Stream, Error> {
        let stream = match self.local_address {
            None => TcpStream::connect(&self.authority).await?,
            Some(address) => self.dial_from(address).await?,
        };
        stream.set_nodelay(true)?;
        match &self.security {
            None => Ok(Stream::Tcp(stream)),
            // Boxed: a handshake is large, and over in a moment.
            Some(security) => Box::pin(security.secure(stream)).await,
        }
    }

    /// The same from an address of this machine. The first address of the server's name is the only one that is tried.
    async fn dial_from(&self, address: IpAddr) -> Result<TcpStream, Error> {
        let unknown = || std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
        let peer = lookup_host(&self.authority).await?.next().ok_or_else(unknown)?;
        let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(address, 0))?;
        Ok(socket.connect(peer).await?)
    }

    /// The request target of a transport, of a new session or of the one named `sid`.
    pub(crate) fn target(&self, transport: Transport, sid: Option<&str>) -> String {
        let mut target = format!("{}?EIO=4&transport={}", self.path, transport.as_str());
        if let Some(sid) = sid {
            target.push_str("&sid=");
            // The sid is the server's, but it must not be able to break the request line.
            target.extend(sid.bytes().map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            }));
        }
        target
    }

    /// A request with the headers every request carries.
    pub(crate) fn request(&self, method: Method, target: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().expect("the path was checked and the sid is escaped");
        *request.headers_mut() = self.headers.clone();
        let host = HeaderValue::from_str(&self.authority).expect("an authority is plain ASCII");
        request.headers_mut().entry(http::header::HOST).or_insert(host);
        request
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let endpoint = Endpoint::new(&Options::new("http://127.0.0.1:8080")).unwrap();
        assert_eq!(endpoint.authority, "127.0.0.1:8080");
        assert_eq!(Endpoint::new(&Options::new("http://[::1]/")).unwrap().authority, "[::1]:80");
        let secure = Options::new("https://a").danger_accept_any_certificate();
        assert_eq!(Endpoint::new(&secure).unwrap().authority, "a:443");
        for bad in ["a:80", "http://", "http://a/path", "http://a/?q", "ws://a:1"] {
            assert!(Endpoint::new(&Options::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn nobody_is_trusted_by_themselves() {
        let told = |options: &Options| Endpoint::new(options).unwrap_err().to_string();
        let options = Options::new("https://[::1]:1");
        assert_eq!(told(&options), "tls: https, and no authority is trusted");
        assert_eq!(told(&options.clone().authorities("?")), "tls: no certificate of an authority in PEM");
        let authority = include_str!("../../test/certificates/ca.pem");
        assert!(Endpoint::new(&options.authorities(authority)).is_ok());
    }

    #[test]
    fn a_session_id_cannot_break_the_request_line() {
        let endpoint = Endpoint::new(&Options::new("http://h:1")).unwrap();
        let target = endpoint.target(Transport::Polling, Some("a-_Z9 \r\n&x=ü"));
        assert_eq!(target, "/socket.io/?EIO=4&transport=polling&sid=a-_Z9%20%0D%0A%26x%3D%C3%BC");
        endpoint.request(Method::GET, &target, Bytes::new());
    }

    #[test]
    fn headers_are_checked_before_anything_is_sent() {
        let options = Options::new("http://h:1").header("x-a", "line\nbreak");
        assert!(matches!(Endpoint::new(&options), Err(Error::Header { name }) if name == "x-a"));
    }
}
