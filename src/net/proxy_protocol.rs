//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt of 2026-04-27): a preface that a proxy sends before
//! all else on a connection and that says for whom it was opened.
//!
//! Pure: bytes in, verdict out. A verdict never changes with what follows it, so that a reader may come with as many
//! bytes as it has. What the specification leaves to the receiver is decided for refusing, but for its kinds of address
//! that are no IP address here: those say that the client is not known.

mod crc32c;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    V1,
    V2,
}

/// Which versions a listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    V1,
    V2,
    Any,
}

impl Version {
    /// As in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Version::V1 => "v1",
            Version::V2 => "v2",
        }
    }
}

impl Accepts {
    /// As in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Accepts::V1 => "v1",
            Accepts::V2 => "v2",
            Accepts::Any => "any",
        }
    }
}

/// For whom a connection was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The proxy's own: a health check (v2 `LOCAL`).
    Own,
    /// A client's whose address is not said, or is no IP address with a stream (v1 `UNKNOWN`; v2 UNSPEC, UNIX, DGRAM).
    Unknown,
    Client {
        from: SocketAddr,
        /// Where it connected to.
        to: SocketAddr,
    },
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// All of them belong to a preface that is not whole.
    More,
    /// The first `length` bytes are a preface.
    Whole { origin: Origin, length: usize },
}

/// Why the first bytes are no preface, in the words of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the connection does not begin with a PROXY protocol header of an accepted version")]
    NoPreface,
    #[error("the PROXY line has a CR or LF that is no CRLF")]
    LineEnd,
    #[error("the PROXY protocol header is too long")]
    TooLong,
    #[error("the PROXY line names no known protocol")]
    Protocol,
    #[error("the PROXY line does not have two addresses and two ports")]
    Fields,
    #[error("the PROXY line has a malformed address")]
    Address,
    #[error("the PROXY line has a malformed port")]
    Port,
    #[error("the PROXY protocol header has another version than 2")]
    Version,
    #[error("the PROXY protocol header has an unknown command")]
    Command,
    #[error("the PROXY protocol header has an unknown address family or transport")]
    Family,
    #[error("the PROXY protocol header is too short for its addresses")]
    TooShort,
    #[error("the PROXY protocol header has a malformed TLV")]
    Tlv,
    #[error("the PROXY protocol header's checksum is wrong")]
    Checksum,
}

/// Reads the preface that `bytes` begin with.
pub fn parse(bytes: &[u8], accepts: Accepts) -> Result<Parsed, Malformed> {
    match (bytes.first(), accepts) {
        (None, _) => Ok(Parsed::More),
        (Some(b'P'), Accepts::V1 | Accepts::Any) => v1::parse(bytes),
        (Some(b'\r'), Accepts::V2 | Accepts::Any) => v2::parse(bytes),
        _ => Err(Malformed::NoPreface),
    }
}

/// The preface that says `origin`. In version 1 the proxy's own connection has no form of its own: say its addresses
/// instead (§2.1 of the specification), or it becomes `UNKNOWN`.
pub fn encode(version: Version, origin: Origin) -> Vec<u8> {
    let origin = match origin {
        Origin::Client { from, to } => of_one_family(from, to),
        other => other,
    };
    match version {
        Version::V1 => v1::encode(origin),
        Version::V2 => v2::encode(origin),
    }
}

/// The preface of a connection that is the sender's own, between these addresses. Version 1 says them, as its receivers
/// may refuse `UNKNOWN`.
pub fn encode_own(version: Version, between: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let origin = match (version, between) {
        (Version::V1, Some((from, to))) => Origin::Client { from, to },
        _ => Origin::Own,
    };
    encode(version, origin)
}

/// Two addresses of different families become IPv6: there is no preface for a mix.
fn of_one_family(from: SocketAddr, to: SocketAddr) -> Origin {
    let mapped = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), addr.port()),
        IpAddr::V6(_) => addr,
    };
    if from.is_ipv4() == to.is_ipv4() {
        return Origin::Client { from, to };
    }
    Origin::Client { from: mapped(from), to: mapped(to) }
}

/// Whether all of `bytes` agree with the beginning of `with`.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    bytes.iter().zip(with).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::PREFACE_BYTES;
    use proptest::prelude::*;

    fn addr() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    fn origin() -> impl Strategy<Value = Origin> {
        prop_oneof![
            Just(Origin::Own),
            Just(Origin::Unknown),
            (addr(), addr()).prop_map(|(from, to)| of_one_family(from, to)),
        ]
    }

    fn version() -> impl Strategy<Value = Version> {
        prop_oneof![Just(Version::V1), Just(Version::V2)]
    }

    fn accepts() -> impl Strategy<Value = Accepts> {
        prop_oneof![Just(Accepts::V1), Just(Accepts::V2), Just(Accepts::Any)]
    }

    /// Prefaces, broken ones among them, and what is none.
    fn input() -> impl Strategy<Value = Vec<u8>> {
        let valid = || {
            (version(), origin(), prop::collection::vec(any::<u8>(), 0..40))
                .prop_map(|(version, origin, after)| [encode(version, origin), after].concat())
        };
        let changed = (valid(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
            *at.get_mut(&mut bytes) = byte;
            bytes
        });
        let v2 = (any::<u8>(), any::<u8>(), 0_u16..300, prop::collection::vec(any::<u8>(), 0..300)).prop_map(
            |(command, family, length, rest)| {
                [v2::SIGNATURE, &[0x20 | (command & 3), family & 0x33], &length.to_be_bytes(), &rest].concat()
            },
        );
        let v1 =
            "PROXY (TCP4|TCP6|UNKNOWN)( [0-9a-f:.]{0,12}){0,4}(\r\n|\r|\n|)[a-z]{0,100}".prop_map(String::into_bytes);
        prop_oneof![valid(), changed, v2, v1, prop::collection::vec(any::<u8>(), 0..50)]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(version in version(), origin in origin(), after: Vec<u8>) {
            let preface = encode(version, origin);
            // Version 1 has no word for it.
            let said = if version == Version::V1 && origin == Origin::Own { Origin::Unknown } else { origin };
            let whole = Parsed::Whole { origin: said, length: preface.len() };
            let only = if version == Version::V1 { Accepts::V1 } else { Accepts::V2 };
            let other = if version == Version::V1 { Accepts::V2 } else { Accepts::V1 };
            let bytes = [preface, after].concat();
            prop_assert_eq!(parse(&bytes, only), Ok(whole));
            prop_assert_eq!(parse(&bytes, Accepts::Any), Ok(whole));
            prop_assert_eq!(parse(&bytes, other), Err(Malformed::NoPreface));
        }

        #[test]
        fn a_verdict_is_the_same_however_the_bytes_come(input in input(), accepts in accepts()) {
            let all = parse(&input, accepts);
            let mut verdict = None;
            for end in 0..=input.len() {
                let now = parse(&input[..end], accepts);
                match verdict {
                    None if now == Ok(Parsed::More) => {}
                    None => verdict = Some(now),
                    Some(verdict) => prop_assert_eq!(now, verdict),
                }
                if let Ok(Parsed::Whole { length, .. }) = now {
                    prop_assert!(length <= end && parse(&input[..length], accepts) == now);
                    prop_assert_eq!(parse(&input[..length - 1], accepts), Ok(Parsed::More));
                }
            }
            prop_assert_eq!(verdict.unwrap_or(Ok(Parsed::More)), all);
        }

        #[test]
        fn any_bytes_have_a_verdict_and_waiting_has_an_end(bytes: Vec<u8>, accepts in accepts(), fill: u8) {
            let long = [bytes, vec![fill; PREFACE_BYTES]].concat();
            prop_assert_ne!(parse(&long, accepts), Ok(Parsed::More));
        }
    }

    #[test]
    fn families_are_not_mixed() {
        let (from, to): (SocketAddr, SocketAddr) = ("192.0.2.1:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
        let line = encode(Version::V1, Origin::Client { from, to });
        assert_eq!(line, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n");
        assert!(matches!(parse(&line, Accepts::Any), Ok(Parsed::Whole { .. })));
    }

    #[test]
    fn a_connection_of_ones_own_says_so() {
        let (from, to) = ("10.0.0.1:5".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        assert_eq!(encode_own(Version::V1, Some((from, to))), b"PROXY TCP4 10.0.0.1 10.0.0.2 5 80\r\n");
        assert_eq!(encode_own(Version::V1, None), b"PROXY UNKNOWN\r\n");
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        assert_eq!(encode_own(Version::V2, Some((from, to))), local);
        assert_eq!(encode_own(Version::V2, None), local);
    }

    #[test]
    fn other_protocols_are_seen_at_once() {
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01\x02\x00", b"\x00", b"proxy TCP4", b"\n"] {
            for end in 1..=other.len() {
                assert_eq!(parse(&other[..end], Accepts::Any), Err(Malformed::NoPreface), "{other:?}");
            }
        }
        assert_eq!(parse(b"P", Accepts::Any), Ok(Parsed::More));
        assert_eq!(parse(b"PRI * HTTP/2.0\r\n", Accepts::Any), Err(Malformed::NoPreface));
        assert_eq!(parse(b"\r\n\r\nGET", Accepts::Any), Err(Malformed::NoPreface));
    }
}
