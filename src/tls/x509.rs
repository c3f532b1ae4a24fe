//! The fields of a certificate that rustls does not hand out: its dates, and its subject as text (RFC 4514).
//!
//! The subject may become a header that a service decides by, so that no value may pass for another one's: what has a
//! meaning in the text is escaped, and what is not ASCII too.

use super::der::{CONTEXT_0, Der, INTEGER, OID, SEQUENCE, SET};
use super::time;
use rustls::pki_types::CertificateDer;
use std::fmt::Write;

/// rustls takes no others, and neither do browsers.
pub const NOT_VERSION_3: &str =
    "of an older X.509 version than 3: `openssl x509 -req` makes such without -extfile or -copy_extensions";

/// What Weir knows of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub version_3: bool,
    pub serial: Vec<u8>,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    /// `CN=api,O=Example`: most specific first; empty when the certificate names nobody.
    pub subject: String,
    /// In lower case: the DNS names that it is for; without any, its common name.
    pub names: Vec<String>,
}

impl Leaf {
    /// None when it is no X.509 certificate.
    pub fn read(der: &CertificateDer<'_>) -> Option<Leaf> {
        let mut fields = Der::new(der.as_ref()).take(SEQUENCE)?.take(SEQUENCE)?;
        let version = fields.take(CONTEXT_0).and_then(|mut version| version.take(INTEGER));
        let version_3 = version.is_some_and(|version| version.bytes() == [2]);
        let serial = fields.take(INTEGER)?.bytes().to_vec();
        // The signature's algorithm and the issuer.
        fields.take(SEQUENCE)?;
        fields.take(SEQUENCE)?;
        let mut validity = fields.take(SEQUENCE)?;
        let (not_before, not_after) = (time::read(&mut validity)?, time::read(&mut validity)?);
        let subject = fields.take(SEQUENCE)?;
        let mut names = dns_names(der);
        if names.is_empty() {
            names.extend(common_name(subject).map(|name| name.to_lowercase()));
        }
        Some(Leaf { version_3, serial, not_before, not_after, subject: text(subject)?, names })
    }

    /// What messages and metrics call it.
    pub fn name(&self) -> &str {
        self.names.first().unwrap_or(&self.subject)
    }
}

/// The certificate as the value of `Client-Cert` (RFC 9440 §2.2): base64 between colons.
pub fn client_cert(der: &CertificateDer<'_>) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(der.len() / 3 * 4 + 6);
    text.push(':');
    for three in der.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at > three.len() { '=' } else { char::from(digit) });
        }
    }
    text.push(':');
    text
}

fn dns_names(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok(cert) = webpki::EndEntityCert::try_from(der) else { return Vec::new() };
    let mut names: Vec<String> = Vec::new();
    for name in cert.valid_dns_names().map(str::to_ascii_lowercase) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

const COMMON_NAME: &[u8] = &[0x55, 4, 3];

/// Attribute types with a short name (RFC 4514 §3, and those that OpenSSL names too).
const TYPES: [(&[u8], &str); 12] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
];

/// A distinguished name, its parts in reverse order; None when it is malformed.
fn text(mut name: Der<'_>) -> Option<String> {
    let mut parts = Vec::new();
    while !name.is_empty() {
        let mut attributes = name.take(SET)?;
        let mut part = Vec::new();
        while !attributes.is_empty() {
            part.push(attribute(attributes.take(SEQUENCE)?)?);
        }
        if part.is_empty() {
            return None;
        }
        parts.push(part.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

fn attribute(mut attribute: Der<'_>) -> Option<String> {
    let kind = attribute.take(OID)?.bytes();
    let value = attribute;
    let (tag, content) = attribute.any()?;
    let short = TYPES.iter().find(|(oid, _)| *oid == kind).map(|(_, short)| *short);
    Some(match (short, string(tag, content.bytes())) {
        (Some(short), Some(text)) => format!("{short}={}", escaped(&text)),
        (short, _) => {
            // RFC 4514 §2.4: of an unknown type or form, the value's whole element in hexadecimal digits.
            let kind = short.map_or_else(|| dotted(kind), str::to_owned);
            value.bytes().iter().fold(format!("{kind}=#"), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        }
    })
}

fn common_name(mut name: Der<'_>) -> Option<String> {
    let mut found = None;
    while let Some(mut attributes) = name.take(SET) {
        while let Some(mut attribute) = attributes.take(SEQUENCE) {
            if attribute.take(OID)?.bytes() == COMMON_NAME {
                let (tag, content) = attribute.any()?;
                found = string(tag, content.bytes());
            }
        }
    }
    found.filter(|name| !name.is_empty())
}

/// The text of a string type; None for other types, and for what its type does not allow.
fn string(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        // UTF8String, NumericString, PrintableString, IA5String.
        0x0c | 0x12 | 0x13 | 0x16 => String::from_utf8(content.to_vec()).ok(),
        // TeletexString: taken for Latin-1, as it is used.
        0x14 => Some(content.iter().map(|byte| char::from(*byte)).collect()),
        // BMPString.
        0x1e => {
            let units = content.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            content.len().is_multiple_of(2).then(|| char::decode_utf16(units).collect::<Result<_, _>>().ok())?
        }
        _ => None,
    }
}

/// Printable ASCII whose marks are only the text's own (RFC 4514 §2.4).
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => text.extend(['\\', char::from(byte)]),
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
    text
}

fn dotted(oid: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut number: u64 = 0;
    for byte in oid {
        number = number.saturating_mul(128).saturating_add(u64::from(byte & 0x7f));
        if byte & 0x80 == 0 {
            numbers.push(number);
            number = 0;
        }
    }
    let first = numbers.first().copied().unwrap_or_default();
    let root = (first / 40).min(2);
    let rest = numbers.iter().skip(1).map(|number| format!(".{number}"));
    format!("{root}.{}{}", first - root * 40, rest.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, date_time_ymd};

    fn leaf(params: CertificateParams) -> Leaf {
        let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Leaf::read(cert.der()).unwrap()
    }

    fn params(names: &[&str]) -> CertificateParams {
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn dates_names_and_subject() {
        let mut params = params(&["Shop.Example", "*.shop.example", "127.0.0.1", "shop.example"]);
        params.not_before = date_time_ymd(2020, 2, 29);
        params.not_after = date_time_ymd(2051, 1, 1);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "AT");
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, "api");
        let leaf = leaf(params);
        assert_eq!(
            (time::date(leaf.not_before), time::date(leaf.not_after)),
            ("2020-02-29".into(), "2051-01-01".into())
        );
        assert_eq!(leaf.subject, "CN=api,O=Example,C=AT");
        assert_eq!(leaf.names, ["shop.example", "*.shop.example"]);
        assert_eq!(leaf.name(), "shop.example");
    }

    #[test]
    fn one_value_can_t_pass_for_another() {
        let mut params = params(&[]);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "#1 \"A\\B\"; <c>+d=é\u{0}\r\n ");
        params.distinguished_name.push(DnType::CommonName, " eve,O=Admin");
        let leaf = leaf(params);
        assert_eq!(leaf.subject, r#"CN=\ eve\,O\=Admin,O=\#1 \"A\\B\"\; \<c\>\+d\=\C3\A9\00\0D\0A\ "#,);
        assert_eq!(leaf.names, [" eve,o=admin"]);
    }

    #[test]
    fn other_string_types_and_unknown_attributes() {
        let mut params = params(&[]);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, DnValue::BmpString("Bé".try_into().unwrap()));
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 97]), DnValue::Utf8String("x".into()));
        assert_eq!(leaf(params).subject, r"2.5.4.97=#0c0178,CN=B\C3\A9");
    }

    #[test]
    fn no_subject_is_empty() {
        let mut params = params(&[]);
        params.distinguished_name = DistinguishedName::new();
        let leaf = leaf(params);
        assert_eq!((leaf.subject.as_str(), leaf.names.len(), leaf.name()), ("", 0, ""));
    }

    #[test]
    fn base64_between_colons() {
        let text = |bytes: &[u8]| client_cert(&CertificateDer::from(bytes.to_vec()));
        for (bytes, expected) in
            [("", "::"), ("f", ":Zg==:"), ("fo", ":Zm8=:"), ("foo", ":Zm9v:"), ("foobar", ":Zm9vYmFy:")]
        {
            assert_eq!(text(bytes.as_bytes()), expected);
        }
        assert_eq!(text(&[0xfb, 0xff, 0xbf]), ":+/+/:");
    }

    static SAMPLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        let cert = params(&["leaf.example"]).self_signed(&KeyPair::generate().unwrap()).unwrap();
        cert.der().to_vec()
    });

    proptest::proptest! {
        #[test]
        fn damaged_certificates_are_survived(at in 0..400_usize, byte in proptest::num::u8::ANY, cut in 0..400_usize) {
            let mut der = SAMPLE.clone();
            let at = at % der.len();
            der[at] = byte;
            Leaf::read(&CertificateDer::from(der[..der.len() - cut % der.len()].to_vec()));
            Leaf::read(&CertificateDer::from(der));
        }
        #[test]
        fn escaped_text_is_printable_ascii(value in proptest::prelude::any::<String>()) {
            let text = escaped(&value);
            proptest::prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let mut before = None;
            for byte in text.bytes() {
                let slash = before == Some(b'\\');
                proptest::prop_assert!(slash || !matches!(byte, b',' | b'+' | b'=' | b'"' | b';'), "{text}");
                before = if slash && byte == b'\\' { None } else { Some(byte) };
            }
        }
    }
}
