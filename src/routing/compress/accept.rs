//! What a client takes: `Accept-Encoding`, RFC 9110 §12.5.3.

use super::{Coding, Codings};
use http::header::{ACCEPT_ENCODING, HeaderMap};

/// A member's weight in thousandths, the grain of a `qvalue`.
type Quality = u16;
const FULL: Quality = 1000;

/// What is said of each coding, of `identity` and of `*`. None: nothing.
#[derive(Default)]
struct Said {
    codings: [Option<Quality>; Coding::ALL.len()],
    identity: Option<Quality>,
    any: Option<Quality>,
}

/// The coding that a client likes best; among equals the one that the route names first. None: the answer goes as it
/// is, since the client prefers that, takes none of the route's codings, or does not say. (By the RFC a client that
/// does not say takes all; those that can decode say so.)
pub fn preferred(codings: &Codings, headers: &HeaderMap) -> Option<Coding> {
    let said = Said::read(headers);
    let quality = |coding: Coding| said.codings[coding as usize].or(said.any).unwrap_or(0);
    let mut best: Option<(Coding, Quality)> = None;
    for &coding in codings.as_slice() {
        let quality = quality(coding);
        if quality > best.map_or(0, |(_, quality)| quality) {
            best = Some((coding, quality));
        }
    }
    // Unsaid, `identity` is taken, though liked less than what is named.
    let identity = said.identity.or(said.any).unwrap_or(0);
    best.filter(|(_, quality)| *quality >= identity).map(|(coding, _)| coding)
}

impl Said {
    /// Members that are no `codings [weight]` are as if they were not there. Of one that stands there twice the lower
    /// weight holds.
    fn read(headers: &HeaderMap) -> Said {
        let mut said = Said::default();
        for line in headers.get_all(ACCEPT_ENCODING) {
            for member in line.as_bytes().split(|byte| *byte == b',') {
                let Some((name, quality)) = member_of(member) else { continue };
                if let Some(place) = said.place(name) {
                    *place = Some(place.map_or(quality, |before| before.min(quality)));
                }
            }
        }
        said
    }

    fn place(&mut self, name: &[u8]) -> Option<&mut Option<Quality>> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("*") {
            return Some(&mut self.any);
        }
        if is("identity") {
            return Some(&mut self.identity);
        }
        // RFC 9110 §8.4.1.3: the same by its old name.
        let coding = if is("x-gzip") { Some(Coding::Gzip) } else { Coding::ALL.into_iter().find(|one| is(one.name())) };
        coding.map(|coding| &mut self.codings[coding as usize])
    }
}

/// `gzip`, `br;q=0.5`. Parameters that are no weight are passed over.
fn member_of(member: &[u8]) -> Option<(&[u8], Quality)> {
    let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let weight = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
    Some((name, weight.map_or(Some(FULL), quality)?))
}

/// `0`, `0.5`, `1.000` (RFC 9110 §12.4.2).
fn quality(text: &[u8]) -> Option<Quality> {
    let (whole, fraction) = match text {
        [whole] => (whole, &[][..]),
        [whole, b'.', fraction @ ..] => (whole, fraction),
        _ => return None,
    };
    if fraction.len() > 3 || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| fraction.get(at).map_or(0, |digit| Quality::from(digit - b'0'));
    let thousandths = digit(0) * 100 + digit(1) * 10 + digit(2);
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(FULL),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (ACCEPT_ENCODING, HeaderValue::from_str(line).unwrap())).collect()
    }

    fn chosen(order: &[Coding], lines: &[&str]) -> Option<&'static str> {
        preferred(&Codings::new(order).unwrap(), &headers(lines)).map(Coding::name)
    }

    #[test]
    fn the_client_s_weights_decide_and_then_the_route_s_order() {
        let all = [Coding::Zstd, Coding::Brotli, Coding::Gzip];
        for (line, coding) in [
            ("gzip, deflate, br, zstd", Some("zstd")),
            ("gzip, deflate, br", Some("br")),
            ("gzip", Some("gzip")),
            ("GZip", Some("gzip")),
            ("x-gzip", Some("gzip")),
            ("gzip;q=1.0, zstd;q=0.5, br;q=0.999", Some("gzip")),
            ("br;q=0.5, zstd;q=0.5", Some("zstd")),
            ("gzip ; q=0.2 , br; Q=0.3", Some("br")),
            ("gzip;level=9;q=0.2, br;q=0.1", Some("gzip")),
            ("*", Some("zstd")),
            ("*;q=0.1, gzip;q=0.2", Some("gzip")),
            ("zstd;q=0, *", Some("br")),
            ("gzip;q=0.001", Some("gzip")),
            ("gzip, gzip;q=0", None),
            ("", None),
            (" , ,", None),
            ("deflate, compress", None),
            ("gzip;q=0", None),
            ("*;q=0", None),
            ("identity", None),
        ] {
            assert_eq!(chosen(&all, &[line]), coding, "{line:?}");
        }
        assert_eq!(chosen(&all, &[]), None, "nothing said");
        assert_eq!(chosen(&all, &["gzip", "br"]), Some("br"), "two lines are one list");
    }

    #[test]
    fn identity_has_a_weight_like_any_other() {
        let gzip = [Coding::Gzip];
        for (line, coding) in [
            ("gzip;q=0.5, identity", None),
            ("gzip;q=0.5, identity;q=0.5", Some("gzip")),
            ("gzip;q=0.5, identity;q=0.4", Some("gzip")),
            ("gzip;q=0.1, identity;q=0", Some("gzip")),
            ("gzip;q=0.1, *;q=0", Some("gzip")),
            ("gzip;q=0.1, *;q=0.2", None),
            ("gzip;q=0.1, identity;q=0.05, *;q=0.2", Some("gzip")),
            ("identity;q=0", None),
            ("br, identity;q=0", None),
        ] {
            assert_eq!(chosen(&gzip, &[line]), coding, "{line:?}");
        }
    }

    #[test]
    fn weights_that_are_none_make_no_member() {
        for line in ["gzip;q=", "gzip;q=1.001", "gzip;q=2", "gzip;q=-1", "gzip;q=0.0001", "gzip;q=.5", "gzip;q=1.5"] {
            assert_eq!(chosen(&[Coding::Gzip], &[line]), None, "{line}");
        }
        assert_eq!(chosen(&[Coding::Gzip], &["br;q=x, gzip"]), Some("gzip"));
    }

    fn member() -> impl Strategy<Value = (String, Option<u16>)> {
        let name = prop::sample::select(vec!["gzip", "br", "zstd", "identity", "*", "deflate"]);
        (name.prop_map(str::to_owned), prop::option::of(0_u16..=1000))
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, value)]);
                let _ = preferred(&Codings::new(&Coding::ALL).unwrap(), &headers);
            }
        }

        /// What is chosen is one of the route's and not refused, nothing that is liked better was passed over, and of
        /// equals the first is taken.
        #[test]
        fn nothing_better_is_passed_over(
            order in Just(Coding::ALL.to_vec()).prop_shuffle(),
            count in 1_usize..=3,
            members in prop::collection::vec(member(), 0..8),
        ) {
            let order = &order[..count];
            let written = |(name, weight): &(String, Option<u16>)| match weight {
                None => name.clone(),
                Some(1000) => format!("{name};q=1"),
                Some(weight) => format!("{name};q=0.{weight:03}"),
            };
            let line = members.iter().map(written).collect::<Vec<_>>().join(",");
            let said = |wanted: &str| {
                members.iter().filter(|(name, _)| name == wanted).map(|(_, weight)| weight.unwrap_or(1000)).min()
            };
            let weight = |name: &str| said(name).or(said("*")).unwrap_or(0);
            let best = order.iter().map(|coding| weight(coding.name())).max().unwrap();
            let expected = order.iter().find(|coding| weight(coding.name()) == best);
            let expected = expected.filter(|_| best > 0 && best >= weight("identity"));
            prop_assert_eq!(chosen(order, &[&line]), expected.map(|coding| coding.name()), "{}", line);
        }
    }
}
