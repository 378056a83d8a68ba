//! Where a request comes from: the socket's address, or what a trusted proxy says about it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::HashMap;
use http::HeaderMap;
use parking_lot::Mutex;

/// A range of addresses, as `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// The text is no address and no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an address such as 10.1.2.3 or a range such as 10.0.0.0/8")]
pub struct InvalidNetwork;

impl std::str::FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| InvalidNetwork)?,
            None => width,
        };
        if prefix > width { Err(InvalidNetwork) } else { Ok(Self { address, prefix }) }
    }
}

impl Network {
    /// Whether `address` is in the range. An IPv4 address that came through an IPv6 socket counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

/// The client's address: the socket's, or if that is a trusted proxy, the last address in `X-Forwarded-For` that is
/// none. What a client itself wrote there stands further left and is never reached.
pub(crate) fn client_address(socket: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = socket.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    let forwarded = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = forwarded.flat_map(|value| value.split(',')).map(str::trim).collect();
    for hop in hops.iter().rev() {
        let Some(address) = hop_address(hop) else { break };
        client = address.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// The address of one hop, which some proxies write with a port or in brackets.
fn hop_address(hop: &str) -> Option<IpAddr> {
    hop.parse::<IpAddr>()
        .or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_| hop.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>())
        .ok()
}

/// What counts as one address: of IPv6 the first 64 bits, of which whoever has one address has them all. Every
/// connection holds one, so it is no larger than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Counted {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Counted {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// Open connections per address. An entry exists only while its address has one.
pub(crate) struct Addresses {
    max: usize,
    counts: Arc<Mutex<HashMap<Counted, usize>>>,
}

/// One connection's place in the count; given back when dropped.
pub(crate) struct Place {
    address: Counted,
    counts: Arc<Mutex<HashMap<Counted, usize>>>,
}

impl Addresses {
    /// At most `max` per address; 0 counts nothing.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, counts: Arc::default() }
    }

    /// A place for one more connection of `address`, or none if it has all it may. `Ok(None)` when nothing is counted.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<Option<Place>, TooMany> {
        if self.max == 0 {
            return Ok(None);
        }
        let address = Counted::from(address);
        let mut counts = self.counts.lock();
        let count = counts.entry(address).or_insert(0);
        if *count >= self.max {
            return Err(TooMany);
        }
        *count += 1;
        Ok(Some(Place { address, counts: Arc::clone(&self.counts) }))
    }
}

/// The address has all the connections it may have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_contain_their_addresses() {
        let network: Network = "10.0.0.0/8".parse().unwrap();
        assert!(network.contains(address("10.255.0.1")));
        assert!(network.contains(address("::ffff:10.1.1.1")));
        assert!(!network.contains(address("11.0.0.1")));
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains(address("8.8.8.8")));
        assert!("fd00::/8".parse::<Network>().unwrap().contains(address("fd12::1")));
        for bad in ["10.0.0.0/33", "x", "", "10.0.0.0/", "10.0.0/8"] {
            assert_eq!(bad.parse::<Network>(), Err(InvalidNetwork), "{bad}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.0.0.9".parse().unwrap());
        assert_eq!(client_address(address("10.0.0.1"), &headers, &trusted), address("1.2.3.4"));
        assert_eq!(client_address(address("9.9.9.9"), &headers, &trusted), address("9.9.9.9"));
        for (written, read) in
            [("1.2.3.4:5678", "1.2.3.4"), ("[2001:db8::1]:80", "2001:db8::1"), ("[::5]", "::5")]
        {
            headers.insert("x-forwarded-for", written.parse().unwrap());
            assert_eq!(client_address(address("10.0.0.1"), &headers, &trusted), address(read));
        }
    }

    #[test]
    fn places_are_given_back() {
        let addresses = Addresses::new(1);
        let one = addresses.admit(address("1.1.1.1")).unwrap();
        assert!(addresses.admit(address("1.1.1.1")).is_err());
        assert!(addresses.admit(address("2.2.2.2")).is_ok());
        drop(one);
        assert!(addresses.admit(address("1.1.1.1")).is_ok());
        let _one = addresses.admit(address("2001:db8::1")).unwrap();
        assert_eq!(addresses.admit(address("2001:db8::2")).err(), Some(TooMany), "one /64 is one address");
        assert!(addresses.admit(address("2001:db8:0:1::2")).is_ok());
        assert!(Addresses::new(0).admit(address("1.1.1.1")).unwrap().is_none());
    }
}
