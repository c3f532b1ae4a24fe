//! Version 2: a binary header with addresses and TLVs.

use super::crc32c::checksum;
use super::{Malformed, Origin, Parsed, begins};
use crate::limits::PREFACE_BYTES;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const HEAD: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

const TYPE_CRC32C: u8 = 0x03;
const TYPE_UNIQUE_ID: u8 = 0x05;
const UNIQUE_ID_BYTES: usize = 128;

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if !begins(bytes, SIGNATURE) {
        return Err(Malformed::NoPreface);
    }
    let Some(command) = bytes.get(12) else { return Ok(Parsed::More) };
    if command >> 4 != 2 {
        return Err(Malformed::Version);
    }
    if !matches!(*command, LOCAL | PROXY) {
        return Err(Malformed::Command);
    }
    let Some(kind) = bytes.get(13) else { return Ok(Parsed::More) };
    // LOCAL's is ignored, whatever it is.
    let kind = match Kind::of(*kind) {
        Some(kind) => kind,
        None if *command == LOCAL => Kind::Unspecified,
        None => return Err(Malformed::Family),
    };
    let Some(length) = bytes.get(14..HEAD) else { return Ok(Parsed::More) };
    let length = HEAD + usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length > PREFACE_BYTES {
        return Err(Malformed::TooLong);
    }
    if *command == PROXY && length < HEAD + kind.address_bytes() {
        return Err(Malformed::TooShort);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Parsed::More) };
    // With an address that is to be ignored, TLVs are a guess: only a whole list is one.
    let means_address = *command == PROXY && kind != Kind::Unspecified;
    match crc_value(header, HEAD + kind.address_bytes()) {
        Ok(None) => {}
        Ok(Some(at)) => verify(header, at)?,
        Err(malformed) if means_address => return Err(malformed),
        Err(_) => {}
    }
    let origin = if *command == LOCAL { Origin::Own } else { kind.origin(&header[HEAD..]) };
    Ok(Parsed::Whole { origin, length })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unspecified,
    Tcp4,
    Tcp6,
    /// Addresses of so many bytes that are not an IP stream's.
    Other(usize),
}

impl Kind {
    /// The combinations that are defined; a family without a transport or the reverse is none.
    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            0x00 => Kind::Unspecified,
            0x11 => Kind::Tcp4,
            0x21 => Kind::Tcp6,
            0x12 => Kind::Other(12),
            0x22 => Kind::Other(36),
            0x31 | 0x32 => Kind::Other(216),
            _ => return None,
        })
    }

    fn address_bytes(self) -> usize {
        match self {
            Kind::Unspecified => 0,
            Kind::Tcp4 => 12,
            Kind::Tcp6 => 36,
            Kind::Other(bytes) => bytes,
        }
    }

    /// `block` is long enough.
    fn origin(self, block: &[u8]) -> Origin {
        let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
        let (from, to, ports) = match self {
            Kind::Unspecified | Kind::Other(_) => return Origin::Unknown,
            Kind::Tcp4 => (ipv4(&block[..4]), ipv4(&block[4..8]), 8),
            Kind::Tcp6 => (ipv6(&block[..16]), ipv6(&block[16..32]), 32),
        };
        Origin::Client { from: SocketAddr::new(from, port(ports)), to: SocketAddr::new(to, port(ports + 2)) }
    }
}

fn ipv4(bytes: &[u8]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).expect("four bytes were taken")))
}

fn ipv6(bytes: &[u8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("sixteen bytes were taken")))
}

/// Walks the TLVs from `at` to the header's end, and gives the place of the checksum's value.
fn crc_value(header: &[u8], mut at: usize) -> Result<Option<usize>, Malformed> {
    let mut crc = None;
    while at != header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + 3) else { return Err(Malformed::Tlv) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        at += 3;
        if length > header.len() - at {
            return Err(Malformed::Tlv);
        }
        match kind {
            TYPE_CRC32C if length != 4 || crc.is_some() => return Err(Malformed::Tlv),
            TYPE_CRC32C => crc = Some(at),
            TYPE_UNIQUE_ID if length > UNIQUE_ID_BYTES => return Err(Malformed::Tlv),
            _ => {}
        }
        at += length;
    }
    Ok(crc)
}

/// The checksum is over the header with zeros in its place (§2.2.3).
fn verify(header: &[u8], at: usize) -> Result<(), Malformed> {
    let sum = checksum(&[&header[..at], &[0; 4], &header[at + 4..]]);
    if header[at..at + 4] == sum.to_be_bytes() { Ok(()) } else { Err(Malformed::Checksum) }
}

pub(super) fn encode(origin: Origin) -> Vec<u8> {
    let (command, kind, block) = match origin {
        Origin::Own => (LOCAL, 0x00, Vec::new()),
        Origin::Unknown => (PROXY, 0x00, Vec::new()),
        Origin::Client { from, to } => {
            let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
            match (from.ip(), to.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    (PROXY, 0x11, [&from.octets()[..], &to.octets(), &ports].concat())
                }
                (from, to) => (PROXY, 0x21, [&octets(from)[..], &octets(to), &ports].concat()),
            }
        }
    };
    let length = u16::try_from(block.len()).expect("an address block has at most 36 bytes");
    [SIGNATURE, &[command, kind], &length.to_be_bytes(), &block].concat()
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0xdb, 0xf4, 0x01, 0xbb];

    fn header(command: u8, kind: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap();
        [SIGNATURE, &[command, kind], &length.to_be_bytes(), block].concat()
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
    }

    fn with_crc(mut header: Vec<u8>, change: u8) -> Vec<u8> {
        let at = header.len() - 4;
        let sum = checksum(&[&header]).to_be_bytes();
        header[at..].copy_from_slice(&sum);
        header[at] ^= change;
        header
    }

    fn origin(bytes: &[u8]) -> Result<Origin, Malformed> {
        match parse(bytes)? {
            Parsed::Whole { origin, length } => {
                assert_eq!(length, bytes.len());
                Ok(origin)
            }
            Parsed::More => panic!("{bytes:?} is whole"),
        }
    }

    fn client() -> Origin {
        Origin::Client { from: "192.0.2.7:56308".parse().unwrap(), to: "10.0.0.1:443".parse().unwrap() }
    }

    #[test]
    fn addresses_of_streams_are_taken() {
        assert_eq!(origin(&header(0x21, 0x11, &TCP4)), Ok(client()));
        let mut block = [0; 36];
        (block[0], block[1], block[15], block[31], block[33], block[35]) = (0x20, 1, 7, 1, 80, 90);
        let (from, to) = ("[2001::7]:80".parse().unwrap(), "[::1]:90".parse().unwrap());
        assert_eq!(origin(&header(0x21, 0x21, &block)), Ok(Origin::Client { from, to }));
    }

    #[test]
    fn other_kinds_say_that_the_client_is_unknown() {
        for (kind, bytes) in [(0x00, 0), (0x00, 5), (0x12, 12), (0x22, 36), (0x31, 216), (0x32, 216)] {
            assert_eq!(origin(&header(0x21, kind, &vec![7; bytes])), Ok(Origin::Unknown), "{kind:02x}");
        }
    }

    #[test]
    fn local_is_the_proxys_own_whatever_else_it_has() {
        for (kind, bytes) in [(0x00, 0), (0x00, 300), (0x11, 12), (0x11, 3), (0xff, 40)] {
            assert_eq!(origin(&header(0x20, kind, &vec![0xee; bytes])), Ok(Origin::Own), "{kind:02x}");
        }
    }

    #[test]
    fn what_is_undefined_is_refused() {
        for (command, why) in [(0x11, Malformed::Version), (0x31, Malformed::Version), (0x00, Malformed::Version)]
            .into_iter()
            .chain((0x22..=0x2f).map(|command| (command, Malformed::Command)))
        {
            let bytes = header(command, 0x11, &TCP4);
            assert_eq!(parse(&bytes), Err(why));
            assert_eq!(parse(&bytes[..13]), Err(why), "seen at once");
        }
        let defined = [0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32];
        for kind in (0..=255).filter(|kind| !defined.contains(kind)) {
            assert_eq!(parse(&header(0x21, kind, &[0; 216])), Err(Malformed::Family), "{kind:02x}");
        }
        for (kind, bytes) in [(0x11, 11), (0x12, 0), (0x21, 35), (0x22, 12), (0x31, 215), (0x32, 36)] {
            assert_eq!(parse(&header(0x21, kind, &vec![0; bytes])), Err(Malformed::TooShort), "{kind:02x}");
        }
        let long = header(0x21, 0x11, &[0; PREFACE_BYTES - HEAD + 1]);
        assert_eq!(parse(&long[..HEAD]), Err(Malformed::TooLong));
    }

    #[test]
    fn tlvs_are_passed_over_within_their_bounds() {
        let block = |tlvs: &[u8]| origin(&header(0x21, 0x11, &[&TCP4, tlvs].concat()));
        let several = [tlv(0x01, b"h2"), tlv(0x04, b""), tlv(0xea, &[1; 500]), tlv(0x05, &[1; 128])].concat();
        assert_eq!(block(&several), Ok(client()));
        for bad in [
            &several[..several.len() - 1],
            &[&several[..], &[0x01]].concat(),
            &[&several[..], &[0x01, 0]].concat(),
            &[0x01, 0, 1],
            &[0x01, 0xff, 0xff],
            &tlv(0x05, &[1; 129]),
            &tlv(0x03, &[0; 3]),
            &[tlv(0x03, &[0; 4]), tlv(0x03, &[0; 4])].concat(),
        ] {
            assert_eq!(block(bad), Err(Malformed::Tlv), "{bad:?}");
        }
        let most = header(0x21, 0x11, &[&TCP4[..], &tlv(0x04, &[0; PREFACE_BYTES - HEAD - 15])].concat());
        assert_eq!((origin(&most), most.len()), (Ok(client()), PREFACE_BYTES));
    }

    #[test]
    fn a_checksum_must_be_right() {
        let tlvs = [tlv(0x02, b"shop.example"), tlv(0x03, &[0; 4])].concat();
        for (command, kind, address, said) in [
            (0x21, 0x11, &TCP4[..], client()),
            (0x21, 0x00, b"", Origin::Unknown),
            (0x21, 0x12, &TCP4, Origin::Unknown),
            (0x20, 0x00, b"", Origin::Own),
            (0x20, 0x11, &TCP4, Origin::Own),
        ] {
            let header = header(command, kind, &[address, &tlvs].concat());
            assert_eq!(origin(&with_crc(header.clone(), 0)), Ok(said));
            for change in [1, 0x80, 0xff] {
                assert_eq!(parse(&with_crc(header.clone(), change)), Err(Malformed::Checksum));
            }
        }
        let mut flipped = with_crc(header(0x21, 0x11, &[&TCP4[..], &tlvs].concat()), 0);
        flipped[HEAD] ^= 1;
        assert_eq!(parse(&flipped), Err(Malformed::Checksum));
    }
}
