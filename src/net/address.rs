//! Where a listener or a target is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The longest path of a unix socket in bytes: `sockaddr_un` has 108, the last one for the end.
pub const UNIX_PATH_BYTES: usize = 107;

/// An IP address with its port, or a unix socket. Shown as in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    /// None: a unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(addr) => Some(*addr),
            Address::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Address {
        Address::Tcp(addr)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => addr.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The address with an IPv4 address written as one: on a socket of both families `::ffff:192.0.2.7` is `192.0.2.7`.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_it_is_written() {
        let tcp: SocketAddr = "[::1]:80".parse().unwrap();
        assert_eq!(Address::from(tcp).to_string(), "[::1]:80");
        assert_eq!(Address::Unix("/run/app.sock".into()).to_string(), "unix:/run/app.sock");
    }

    #[test]
    fn ipv4_over_ipv6_is_ipv4() {
        let seen = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(seen("[::ffff:192.0.2.7]:81"), "192.0.2.7:81");
        assert_eq!(seen("[2001:db8::1]:81"), "[2001:db8::1]:81");
        assert_eq!(seen("192.0.2.7:81"), "192.0.2.7:81");
    }
}
