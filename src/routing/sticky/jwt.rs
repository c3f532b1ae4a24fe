//! A claim of the token in `Authorization: Bearer …` (RFC 6750, RFC 7519), read without verifying anything.
//!
//! It says what the client says of itself, which is enough to give it the same variant again and for nothing else:
//! whoever makes up a token chooses a bucket, as with any other key. What is not a signed token in compact form, or
//! whose payload is not a JSON object with the claim as a string or integer, has no claim; nothing here is an error.

use crate::limits::TOKEN_BYTES;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use std::fmt;

/// The bytes of a string, or the decimal text of an integer.
pub fn claim(headers: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    let tokens = headers.get_all(AUTHORIZATION).iter().filter_map(|field| bearer(field.as_bytes()));
    let payload = tokens.filter(|token| token.len() <= TOKEN_BYTES).find_map(payload)?;
    let mut reader = serde_json::Deserializer::from_slice(&payload);
    let value = reader.deserialize_map(Claims { name }).ok()?;
    reader.end().ok()?;
    value
}

/// What follows the scheme, which may be in any case (RFC 9110 §11.1).
fn bearer(field: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = field.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// The middle one of three parts (RFC 7515 §3.1): a JWE's has five and is encrypted.
fn payload(token: &[u8]) -> Option<Vec<u8>> {
    let mut parts = token.split(|byte| *byte == b'.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    base64url(payload)
}

/// RFC 4648 §5 without padding, as RFC 7515 §2 has it. The last character's unused bits are not looked at.
fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() % 4 == 1 {
        return None;
    }
    let mut bytes = vec![0; text.len() * 3 / 4];
    let mut invalid = 0;
    for (group, bytes) in text.chunks(4).zip(bytes.chunks_mut(3)) {
        let mut bits = 0;
        for character in group {
            let sextet = SEXTETS[usize::from(*character)];
            invalid |= sextet;
            bits = bits << 6 | u32::from(sextet);
        }
        bits <<= 6 * (4 - group.len());
        bytes.copy_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    (invalid & NO_SEXTET == 0).then_some(bytes)
}

/// What is no character of the alphabet.
const NO_SEXTET: u8 = 0x80;

const SEXTETS: [u8; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut sextets = [NO_SEXTET; 256];
    let mut sextet = 0;
    while sextet < alphabet.len() {
        sextets[alphabet[sextet] as usize] = sextet as u8;
        sextet += 1;
    }
    sextets
};

/// Reads an object and keeps one member; of several of that name the last (RFC 7519 §4).
struct Claims<'n> {
    name: &'n str,
}

impl<'de> Visitor<'de> for Claims<'_> {
    type Value = Option<Vec<u8>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<Option<Vec<u8>>, M::Error> {
        let mut found = None;
        while let Some(is_claim) = members.next_key_seed(Name(self.name))? {
            if is_claim {
                found = members.next_value_seed(Value)?;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a member's name is this one, without copying it.
struct Name<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<bool, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

/// A claim's value: None for anything but a string and an integer of 64 bits.
struct Value;

impl<'de> DeserializeSeed<'de> for Value {
    type Value = Option<Vec<u8>>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Option<Vec<u8>>, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value {
    type Value = Option<Vec<u8>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<Vec<u8>>, E> {
        Ok(Some(text.as_bytes().to_vec()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Option<Vec<u8>>, E> {
        Ok(Some(number.to_string().into_bytes()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Option<Vec<u8>>, E> {
        Ok(Some(number.to_string().into_bytes()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Option<Vec<u8>>, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<Vec<u8>>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<Vec<u8>>, E> {
        Ok(None)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Option<Vec<u8>>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<Option<Vec<u8>>, M::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    /// RFC 4648 §5, by the alphabet and not by arithmetic.
    fn encoded(bytes: &[u8]) -> String {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
        let sextets = bits.chunks(6).map(|bits| (0..6).fold(0, |n, at| n << 1 | bits.get(at).copied().unwrap_or(0)));
        sextets.map(|sextet| char::from(alphabet[usize::from(sextet)])).collect()
    }

    fn with(field: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(field).unwrap())])
    }

    fn sub_of(payload: &str) -> Option<String> {
        let token = format!("Bearer eyJhbGciOiJIUzI1NiJ9.{}.c2lnbmF0dXJl", encoded(payload.as_bytes()));
        claim(&with(&token), "sub").map(|value| String::from_utf8(value).unwrap())
    }

    #[test]
    fn the_token_of_rfc_7519_is_read() {
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly\
                     9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        for scheme in ["Bearer ", "bearer ", "BEARER   "] {
            let headers = with(&format!("{scheme}{token}"));
            assert_eq!(claim(&headers, "iss").as_deref(), Some(&b"joe"[..]));
            assert_eq!(claim(&headers, "exp").as_deref(), Some(&b"1300819380"[..]));
            assert_eq!(claim(&headers, "http://example.com/is_root"), None);
            assert_eq!(claim(&headers, "sub"), None);
        }
        for field in ["", "Bearer", "Bearer ", &format!("Basic {token}"), &format!("Bearer{token}"), token] {
            assert_eq!(claim(&with(field), "iss"), None, "{field}");
        }
        assert_eq!(claim(&HeaderMap::new(), "iss"), None);
    }

    #[test]
    fn strings_and_integers_are_claims_and_nothing_else_is() {
        for (payload, value) in [
            (r#"{"sub":"u1"}"#, Some("u1")),
            (r#" { "x" : [1, {"sub": 2}] , "sub" : "\u00e4\n" } "#, Some("ä\n")),
            (r#"{"s\u0075b":"escaped name"}"#, Some("escaped name")),
            (r#"{"sub":42}"#, Some("42")),
            (r#"{"sub":-7}"#, Some("-7")),
            (r#"{"sub":18446744073709551615}"#, Some("18446744073709551615")),
            (r#"{"sub":18446744073709551616}"#, None),
            (r#"{"sub":1.0}"#, None),
            (r#"{"sub":1e3}"#, None),
            (r#"{"sub":null}"#, None),
            (r#"{"sub":true}"#, None),
            (r#"{"sub":["u1"]}"#, None),
            (r#"{"sub":{"sub":"u1"}}"#, None),
            (r#"{"sub":""}"#, Some("")),
            (r#"{"Sub":"u1"}"#, None),
            (r#"{"sub":"first","sub":"last"}"#, Some("last")),
            (r#"{"sub":"first","sub":null}"#, None),
            (r#"{"sub":"u1""#, None),
            (r#"{"sub":"u1"} x"#, None),
            (r#"["sub","u1"]"#, None),
            (r#""sub""#, None),
            ("", None),
        ] {
            assert_eq!(sub_of(payload).as_deref(), value, "{payload}");
        }
    }

    #[test]
    fn hostile_payloads_have_no_claim() {
        for deep in ["[".repeat(5_000), "{\"a\":".repeat(1_000), format!("{{\"a\":{}", "[".repeat(5_000))] {
            assert_eq!(sub_of(&deep), None);
            assert_eq!(sub_of(&format!("{{\"sub\":\"u1\",\"a\":{deep}")), None);
        }
        let closed = format!("{{\"a\":{}{},\"sub\":\"u1\"}}", "[".repeat(2_500), "]".repeat(2_500));
        assert_eq!(sub_of(&closed).as_deref(), Some("u1"), "what is passed over may be as deep as it likes");
        assert_eq!(sub_of("{\"sub\":\"\u{0}\u{7f}\"}"), None, "a control character must be escaped");
        let raw = [b"Bearer a.".to_vec(), encoded(b"{\"sub\":\"\xff\"}").into_bytes(), b".b".to_vec()].concat();
        assert_eq!(claim(&with(std::str::from_utf8(&raw).unwrap()), "sub"), None, "not UTF-8");
    }

    #[test]
    fn only_three_parts_within_the_limit_are_a_token() {
        let payload = encoded(br#"{"sub":"u1"}"#);
        let long = |length: usize| "s".repeat(length - payload.len() - 3);
        for (token, found) in [
            (format!("h.{payload}.s"), true),
            (format!(".{payload}."), true),
            (format!("h.{payload}"), false),
            (payload.clone(), false),
            (format!("h.{payload}.s.t"), false),
            (format!("h.{payload}.s.t.u"), false),
            (format!("h.{payload}=.s"), false),
            (format!("h.{payload}A.s"), false),
            (format!("h.{payload} .s"), false),
            (format!("h.{payload}.{}", long(TOKEN_BYTES)), true),
            (format!("h.{payload}.{}", long(TOKEN_BYTES + 1)), false),
        ] {
            let value = claim(&with(&format!("Bearer {token}")), "sub");
            assert_eq!(value.is_some(), found, "{token}");
        }
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(base64url(encoded(&bytes).as_bytes()), Some(bytes));
        }

        #[test]
        fn garbage_never_panics(field in prop::collection::vec(32u8..=255, 0..100), payload in "\\PC{0,60}") {
            if let Ok(value) = HeaderValue::from_bytes(&[&b"Bearer "[..], &field].concat()) {
                claim(&HeaderMap::from_iter([(AUTHORIZATION, value)]), "sub");
            }
            sub_of(&payload);
        }
    }
}
