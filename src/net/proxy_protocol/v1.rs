//! Version 1: a line of text.

use super::{Malformed, Origin, Parsed, begins};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const START: &[u8] = b"PROXY ";
/// The longest line, its CRLF included.
const LINE_BYTES: usize = 107;

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if !begins(bytes, START) {
        return Err(Malformed::NoPreface);
    }
    let line = &bytes[..bytes.len().min(LINE_BYTES)];
    let Some(end) = line.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if line.len() == LINE_BYTES { Err(Malformed::TooLong) } else { Ok(Parsed::More) };
    };
    match line[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if line.len() == LINE_BYTES => return Err(Malformed::TooLong),
        [b'\r'] => return Ok(Parsed::More),
        _ => return Err(Malformed::LineEnd),
    }
    let origin = origin(line.get(START.len()..end).ok_or(Malformed::NoPreface)?)?;
    Ok(Parsed::Whole { origin, length: end + 2 })
}

/// What stands between `PROXY ` and the line's end. What follows `UNKNOWN` means nothing.
fn origin(text: &[u8]) -> Result<Origin, Malformed> {
    let (protocol, rest) = match text.iter().position(|byte| *byte == b' ') {
        Some(space) => (&text[..space], Some(&text[space + 1..])),
        None => (text, None),
    };
    let is_ipv4 = match protocol {
        b"UNKNOWN" => return Ok(Origin::Unknown),
        b"TCP4" => true,
        b"TCP6" => false,
        _ => return Err(Malformed::Protocol),
    };
    let rest = rest.and_then(|rest| std::str::from_utf8(rest).ok()).ok_or(Malformed::Fields)?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let &[from, to, from_port, to_port] = fields.as_slice() else { return Err(Malformed::Fields) };
    let from = SocketAddr::new(address(from, is_ipv4)?, port(from_port)?);
    let to = SocketAddr::new(address(to, is_ipv4)?, port(to_port)?);
    Ok(Origin::Client { from, to })
}

/// Both parsers take what the specification does: no leading zeros in IPv4, and of IPv6 also the form that ends in an
/// IPv4 address, which is how C libraries write `::ffff:192.0.2.7`.
fn address(text: &str, is_ipv4: bool) -> Result<IpAddr, Malformed> {
    let parsed =
        if is_ipv4 { text.parse::<Ipv4Addr>().map(IpAddr::V4) } else { text.parse::<Ipv6Addr>().map(IpAddr::V6) };
    parsed.map_err(|_| Malformed::Address)
}

fn port(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Malformed::Port)
}

pub(super) fn encode(origin: Origin) -> Vec<u8> {
    let Origin::Client { from, to } = origin else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let protocol = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {protocol} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(from: &str, to: &str, length: usize) -> Result<Parsed, Malformed> {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Ok(Parsed::Whole { origin: Origin::Client { from, to }, length })
    }

    #[test]
    fn lines_as_the_specification_has_them() {
        let line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n";
        assert_eq!(parse(line), client("192.168.0.1:56324", "192.168.0.11:443", 47));
        let longest = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
        assert_eq!(parse(longest), client("255.255.255.255:65535", "255.255.255.255:65535", 56));
        let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let line = format!("PROXY TCP6 {full} {} 65535 65535\r\n", full.to_uppercase());
        let addr = format!("[{full}]:65535");
        assert_eq!((parse(line.as_bytes()), line.len()), (client(&addr, &addr, 104), 104));
        let line = b"PROXY TCP6 ::1 2001:db8::7 0 1\r\n";
        assert_eq!(parse(line), client("[::1]:0", "[2001:db8::7]:1", line.len()));
        let line = b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:c000:207 1 2\r\n";
        assert_eq!(parse(line), client("[::ffff:192.0.2.7]:1", "[::ffff:192.0.2.7]:2", line.len()));
    }

    #[test]
    fn unknown_is_unknown_whatever_follows() {
        let longest = format!("PROXY UNKNOWN {full} {full} 65535 65535\r\n", full = ["ffff"; 8].join(":"));
        assert_eq!(longest.len(), LINE_BYTES);
        for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN \r\n", "PROXY UNKNOWN \x7f \0 x\r\n", &longest] {
            let whole = Parsed::Whole { origin: Origin::Unknown, length: line.len() };
            assert_eq!(parse(line.as_bytes()), Ok(whole), "{line:?}");
        }
    }

    #[test]
    fn what_is_not_exactly_so_is_refused() {
        use Malformed::*;
        for (line, why) in [
            ("PROXYTCP4 ", NoPreface),
            ("PROXY\r\n", NoPreface),
            ("PROXY\tTCP4 1.2.3.4 1.2.3.4 1 2\r\n", NoPreface),
            ("PROXY \r\n", Protocol),
            ("PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Protocol),
            ("PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", Protocol),
            ("PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", Protocol),
            ("PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n", Protocol),
            ("PROXY UNKNOWNX\r\n", Protocol),
            ("PROXY TCP4\r\n", Fields),
            ("PROXY TCP4 \r\n", Fields),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Fields),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", Fields),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", Fields),
            ("PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n", Fields),
            ("PROXY TCP4 1.2.3.4\t1.2.3.4 1 2\r\n", Fields),
            ("PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", Address),
            ("PROXY TCP4 1.2.3.4.5 1.2.3.4 1 2\r\n", Address),
            ("PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", Address),
            ("PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n", Address),
            ("PROXY TCP4 1.2.3.4 0x1.2.3.4 1 2\r\n", Address),
            ("PROXY TCP4 ::1 ::1 1 2\r\n", Address),
            ("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", Address),
            ("PROXY TCP6 ::1 1::2::3 1 2\r\n", Address),
            ("PROXY TCP6 ::1 1:2:3:4:5:6:7 1 2\r\n", Address),
            ("PROXY TCP6 ::1 1:2:3:4:5:6:7:8:9 1 2\r\n", Address),
            ("PROXY TCP6 ::1 fe80::1%eth0 1 2\r\n", Address),
            ("PROXY TCP6 [::1] ::1 1 2\r\n", Address),
            ("PROXY TCP6 ::12345 ::1 1 2\r\n", Address),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", Port),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 +2\r\n", Port),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 -2\r\n", Port),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", Port),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 00 2\r\n", Port),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 a\r\n", Port),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", LineEnd),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rX", LineEnd),
            ("PROXY UNKNOWN \n\r\n", LineEnd),
            ("PROXY UNKNOWN \r\r\n", LineEnd),
        ] {
            assert_eq!(parse(line.as_bytes()), Err(why), "{line:?}");
        }
        // A byte that is no text where an address should be.
        assert_eq!(parse(b"PROXY TCP4 \xff 1.2.3.4 1 2\r\n"), Err(Fields));
    }

    #[test]
    fn a_line_ends_within_107_bytes() {
        let endless = |length: usize| format!("PROXY UNKNOWN {}", "x".repeat(length - 14));
        assert_eq!(parse(endless(106).as_bytes()), Ok(Parsed::More));
        assert_eq!(parse(endless(107).as_bytes()), Err(Malformed::TooLong));
        assert_eq!(parse((endless(105) + "\r").as_bytes()), Ok(Parsed::More));
        assert_eq!(parse((endless(106) + "\r").as_bytes()), Err(Malformed::TooLong));
        assert_eq!(parse((endless(106) + "\r\n").as_bytes()), Err(Malformed::TooLong));
        assert!(parse((endless(105) + "\r\n").as_bytes()).is_ok_and(|parsed| parsed != Parsed::More));
    }
}
