//! What may stand in `Host`, and whether two hosts are one.
//!
//! Who reads a request next may take a bad host for another one than Weir routed by, so it is held to the grammar
//! (RFC 3986 §3.2.2, §3.2.3): a name, an IPv4 address, or an IPv6 address in brackets, with or without a port. Stricter
//! than that in two points: a comma would be a second host to whom joins repeated fields, and what is percent-encoded
//! may not be a delimiter.

use std::net::Ipv6Addr;

/// Characters of a name, without the `%` that two hexadecimal digits follow.
const NAME: [bool; 256] = {
    let mut allowed = [false; 256];
    let listed = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+;=";
    let mut at = 0;
    while at < listed.len() {
        allowed[listed[at] as usize] = true;
        at += 1;
    }
    allowed
};

/// A host with or without a port; an empty one is valid too, as long as it names no port (RFC 9112 §3.2).
pub fn is_valid(text: &[u8]) -> bool {
    text.is_empty() || parts(text).is_some()
}

/// Whether two valid hosts name the same server.
pub fn are_same(one: &[u8], other: &[u8], default_port: u16) -> bool {
    match (parts(one), parts(other)) {
        (Some((name, port)), Some((other_name, other_port))) => {
            name.eq_ignore_ascii_case(other_name) && port.unwrap_or(default_port) == other_port.unwrap_or(default_port)
        }
        _ => one == other,
    }
}

/// The name and the port of a valid host.
fn parts(text: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let end = if text.first() == Some(&b'[') {
        let end = text.iter().position(|byte| *byte == b']')?;
        std::str::from_utf8(&text[1..end]).ok()?.parse::<Ipv6Addr>().ok()?;
        end + 1
    } else {
        match name_length(text)? {
            0 => return None,
            end => end,
        }
    };
    match text[end..].split_first() {
        None => Some((&text[..end], None)),
        Some((b':', digits)) => Some((&text[..end], port(digits)?)),
        Some(_) => None,
    }
}

/// `*DIGIT`; nothing stands for the scheme's own port.
fn port(digits: &[u8]) -> Option<Option<u16>> {
    if digits.is_empty() {
        return Some(None);
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().map(Some)
}

/// Bytes up to the first that is none of a name's. None when a `%` does not begin a byte that could stand in a name or is
/// beyond ASCII.
fn name_length(text: &[u8]) -> Option<usize> {
    let mut end = 0;
    loop {
        end += text[end..].iter().position(|byte| !NAME[usize::from(*byte)]).unwrap_or(text.len() - end);
        if text.get(end) != Some(&b'%') {
            return Some(end);
        }
        let digits = text.get(end + 1..end + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if byte.is_ascii() && !NAME[usize::from(byte)] {
            return None;
        }
        end += 3;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_follow_the_grammar() {
        for host in [
            "",
            "a",
            "shop.example.com",
            "Shop.Example.com.",
            "a:",
            "a:80",
            "a:080",
            "a:65535",
            "127.0.0.1:81",
            "[::1]",
            "[2001:DB8::1]:443",
            "a_b",
            "xn--bcher-kva",
            "b%C3%BCcher",
            "%74.example",
            "a;b",
        ] {
            assert!(is_valid(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for host in [
            ":80",
            "a:x",
            "a:+80",
            "a:-1",
            "a:80:80",
            "a:65536",
            "a: 80",
            "a b",
            "a,b",
            "a/b",
            "a?b",
            "a#b",
            "a@b",
            "a\\b",
            "[::1",
            "::1",
            "[::1]x",
            "[evil]",
            "[]",
            "[v1.a]",
            "[::1%25eth0]",
            "[fe80::1%eth0]",
            "a%",
            "a%2",
            "a%zz",
            "a%+1",
            "a%00",
            "a%20",
            "a%2f",
            "a%40",
            "a%25",
            "a\t",
            "a\0",
            "<a>",
            "\"a\"",
            "{a}",
            "a|b",
            "a^b",
            "a`b",
            "http://a",
        ] {
            assert!(!is_valid(host.as_bytes()), "{host}");
        }
        assert!(!is_valid(b"b\xc3\xbccher"));
    }

    #[test]
    fn one_server_may_be_written_in_several_ways() {
        for (one, other, same) in [
            ("a", "A", true),
            ("a", "a:80", true),
            ("a:", "a:080", true),
            ("a:81", "a", false),
            ("a", "b", false),
            ("", "", true),
            ("", "a", false),
            ("[::1]", "[::1]:80", true),
        ] {
            assert_eq!(are_same(one.as_bytes(), other.as_bytes(), 80), same, "{one} {other}");
        }
    }
}
