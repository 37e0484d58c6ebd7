//! Where peers come from, as far as limits tell them apart.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A share of a limit: an IPv4 address, an IPv6 /64 network (the smallest that one user is assigned),
/// or all peers without an address, which are on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source(Option<IpAddr>);

impl Source {
    pub(crate) fn of(address: Option<SocketAddr>) -> Self {
        const NETWORK: u128 = u128::MAX << 64;
        Self(address.map(|address| match address.ip().to_canonical() {
            IpAddr::V6(ip) if !ip.is_loopback() => Ipv6Addr::from_bits(ip.to_bits() & NETWORK).into(),
            ip => ip,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::Source;

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        let of = |text: &str| Source::of(Some(text.parse().unwrap()));
        assert_eq!(of("10.0.0.1:1"), of("10.0.0.1:2"));
        assert_eq!(of("10.0.0.1:1"), of("[::ffff:10.0.0.1]:1"));
        assert_ne!(of("10.0.0.1:1"), of("10.0.0.2:1"));
        assert_eq!(of("[2001:db8:0:1::1]:1"), of("[2001:db8:0:1:ffff::2]:2"));
        assert_ne!(of("[2001:db8:0:1::1]:1"), of("[2001:db8:0:2::1]:1"));
        assert_ne!(Source::of(None), of("[::1]:1"));
    }
}
