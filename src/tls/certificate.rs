//! Certificates with their keys: read from PEM, and chosen for a client by the name it asks for and by what it can
//! verify.

use super::x509::{Leaf, NOT_VERSION_3};
use super::{ocsp, provider};
use rustls::SignatureAlgorithm;
use rustls::SignatureScheme;
use rustls::pki_types::pem::{Error as PemError, PemObject, SliceIter};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// A certificate with its chain, key and staple, ready to be served.
#[derive(Debug)]
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    pub leaf: Leaf,
    pub staple: Staple,
}

/// What became of the OCSP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Staple {
    /// None is configured.
    Off,
    /// Served until then, in seconds since 1970.
    Until(i64),
    /// Not served, and why: the certificate goes out without it.
    Refused(String),
}

/// Which of a certificate's files is to blame, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    Certificate(String),
    Key(String),
}

impl Trouble {
    /// With the file that it is about.
    pub fn in_files(&self, cert: &Path, key: &Path) -> String {
        match self {
            Trouble::Certificate(why) => format!("certificate file {}: {why}", cert.display()),
            Trouble::Key(why) => format!("private key file {}: {why}", key.display()),
        }
    }
}

impl Certificate {
    /// From the PEM of a chain, leaf first, and of its key, and an OCSP response in DER. `now` is in seconds since 1970.
    pub fn read(chain: &[u8], key: &[u8], response: Option<&[u8]>, now: i64) -> Result<Certificate, Trouble> {
        let chain = certificates(chain).map_err(Trouble::Certificate)?;
        let key = private_key(key).map_err(Trouble::Key)?;
        let leaf = Leaf::read(&chain[0]);
        let leaf = leaf.ok_or_else(|| Trouble::Certificate("the first certificate in it is malformed".to_owned()))?;
        if !leaf.version_3 {
            return Err(Trouble::Certificate(format!("the first certificate in it is {NOT_VERSION_3}")));
        }
        let mut key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Trouble::Key("it is not the key of the certificate".to_owned()),
            rustls::Error::InvalidCertificate(error) => Trouble::Certificate(format!("it can't be used: {error:?}")),
            error => Trouble::Key(format!("it can't be used: {error}")),
        })?;
        let staple = match response.map(|response| (response, ocsp::stapled_until(response, &leaf.serial, now))) {
            None => Staple::Off,
            Some((response, Ok(until))) => {
                key.ocsp = Some(response.to_vec());
                Staple::Until(until)
            }
            Some((_, Err(why))) => Staple::Refused(why),
        };
        Ok(Certificate { key: Arc::new(key), leaf, staple })
    }
}

/// All certificates of a PEM file, at least one; otherwise why not.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = SliceIter::new(pem).collect();
    let found: Vec<CertificateDer<'static>> = found.map_err(|error| not_pem(&error))?;
    if found.is_empty() { Err("holds no certificate in PEM form".to_owned()) } else { Ok(found) }
}

/// The first private key of a PEM file; otherwise why not.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        PemError::NoItemsFound if contains(pem, b"ENCRYPTED PRIVATE KEY") => {
            "the key is encrypted; `openssl pkey -in FILE -out FILE` takes the passphrase off".to_owned()
        }
        PemError::NoItemsFound => "holds no private key in PEM form".to_owned(),
        error => not_pem(&error),
    })
}

fn not_pem(error: &PemError) -> String {
    format!("not valid PEM: {error}")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Answers handshakes: by server name exactly, then by `*.` for one label, then with the first certificate.
///
/// Of several for a name the client gets one that it can verify, ECDSA before RSA, which costs ten times as much.
#[derive(Debug)]
pub struct ByName {
    /// By name, `*.` included, in lower case.
    named: HashMap<String, Vec<Arc<CertifiedKey>>>,
    default: Vec<Arc<CertifiedKey>>,
}

impl ByName {
    /// In the order of the configuration; the first is for clients that name no server, or one that no certificate is
    /// for. None without any.
    pub fn new(certificates: &[Arc<Certificate>]) -> Option<ByName> {
        let first = certificates.first()?;
        let mut named: HashMap<String, Vec<Arc<CertifiedKey>>> = HashMap::new();
        for certificate in certificates {
            for name in &certificate.leaf.names {
                named.entry(name.clone()).or_default().push(Arc::clone(&certificate.key));
            }
        }
        let alike = |other: &&Arc<Certificate>| other.leaf.names.iter().any(|name| first.leaf.names.contains(name));
        let others = certificates[1..].iter().filter(alike);
        let mut default: Vec<_> = std::iter::once(first).chain(others).map(|one| Arc::clone(&one.key)).collect();
        // Stable: the file's order decides between equals.
        named.values_mut().chain([&mut default]).for_each(|keys| keys.sort_by_key(|key| cost(key)));
        Some(ByName { named, default })
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Arc<CertifiedKey> {
        let name = name.map(str::to_ascii_lowercase);
        let exact = name.as_ref().and_then(|name| self.named.get(name));
        let parent = name.as_ref().and_then(|name| name.split_once('.'));
        let wildcard = parent.and_then(|(_, parent)| self.named.get(&format!("*.{parent}")));
        let fitting: Vec<&Arc<CertifiedKey>> = exact.into_iter().chain(wildcard).flatten().collect();
        let candidates = if fitting.is_empty() { self.default.iter().collect() } else { fitting };
        let verifiable = candidates.iter().find(|key| key.key.choose_scheme(schemes).is_some());
        // With none, rustls refuses the handshake for what it is.
        Arc::clone(verifiable.unwrap_or(&candidates[0]))
    }
}

fn cost(key: &CertifiedKey) -> u8 {
    match key.key.algorithm() {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::RSA => 2,
        _ => 1,
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(hello.server_name(), hello.signature_schemes()))
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::ocsp::tests::response;
    use super::*;
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm,
    };

    /// The PEM of a self-signed certificate for these names, and of its key.
    pub fn pem(names: &[&str], algorithm: &'static SignatureAlgorithm) -> (String, String) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let cert = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    fn certificate(names: &[&str], algorithm: &'static SignatureAlgorithm) -> Arc<Certificate> {
        let (cert, key) = pem(names, algorithm);
        Arc::new(Certificate::read(cert.as_bytes(), key.as_bytes(), None, 0).unwrap())
    }

    const ANY: &[SignatureScheme] =
        &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519];
    const RSA_ONLY: &[SignatureScheme] = &[SignatureScheme::RSA_PKCS1_SHA256];

    #[test]
    fn by_name_then_wildcard_then_first() {
        let names = [&["first.example"][..], &["shop.example", "*.shop.example"], &["a.shop.example"], &["*.b.test"]];
        let certificates: Vec<_> = names.iter().map(|names| certificate(names, &PKCS_ECDSA_P256_SHA256)).collect();
        let by_name = ByName::new(&certificates).unwrap();
        let chosen = |name| {
            let key = by_name.choose(name, ANY);
            certificates.iter().position(|one| Arc::ptr_eq(&one.key, &key)).unwrap()
        };
        for (name, expected) in [
            (None, 0),
            (Some("first.example"), 0),
            (Some("Shop.Example"), 1),
            (Some("b.shop.example"), 1),
            (Some("a.shop.example"), 2),
            (Some("b.a.shop.example"), 0),
            (Some("x.b.test"), 3),
            (Some("b.test"), 0),
            (Some("elsewhere.example"), 0),
        ] {
            assert_eq!(chosen(name), expected, "{name:?}");
        }
        assert!(ByName::new(&[]).is_none());
    }

    #[test]
    fn the_client_gets_a_key_that_it_can_verify_the_cheaper_first() {
        let rsa = certificate(&["a.example"], &PKCS_RSA_SHA256);
        let ed25519 = certificate(&["a.example"], &PKCS_ED25519);
        let ecdsa = certificate(&["a.example"], &PKCS_ECDSA_P256_SHA256);
        let lone = certificate(&["ecdsa.test", "b.wild.test"], &PKCS_ECDSA_P256_SHA256);
        let wild = certificate(&["*.wild.test"], &PKCS_RSA_SHA256);
        let by_name = ByName::new(&[&rsa, &ed25519, &ecdsa, &lone, &wild].map(Arc::clone)).unwrap();
        let is = |name, schemes: &[_], expected: &Arc<Certificate>| {
            assert!(Arc::ptr_eq(&by_name.choose(name, schemes), &expected.key), "{name:?} {schemes:?}");
        };
        for name in [Some("a.example"), None, Some("other.test")] {
            is(name, ANY, &ecdsa);
            is(name, RSA_ONLY, &rsa);
            is(name, &[SignatureScheme::ED25519], &ed25519);
        }
        is(Some("b.wild.test"), RSA_ONLY, &wild);
        is(Some("c.wild.test"), &[SignatureScheme::ED25519], &wild);
    }

    #[test]
    fn troubles_are_named() {
        let (cert, key) = pem(&["a.example"], &PKCS_ECDSA_P256_SHA256);
        let (other_cert, other_key) = pem(&["a.example"], &PKCS_RSA_SHA256);
        let read = |cert: &str, key: &str| Certificate::read(cert.as_bytes(), key.as_bytes(), None, 0).unwrap_err();
        let why = |cert: &str, key: &str| match read(cert, key) {
            Trouble::Certificate(why) | Trouble::Key(why) => why,
        };
        let not_its_key = Trouble::Key("it is not the key of the certificate".to_owned());
        assert_eq!(read(&cert, &other_key), not_its_key);
        assert_eq!(read(&other_cert, &key), not_its_key);
        assert_eq!(why(&key, &key), "holds no certificate in PEM form");
        assert_eq!(why(&cert, &cert), "holds no private key in PEM form");
        assert!(why(&cert[..cert.len() / 2], &key).starts_with("not valid PEM: "));
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(why(&cert, encrypted).starts_with("the key is encrypted; "));
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(why(nonsense, &key), "the first certificate in it is malformed");
        // Chain and key may stand in one file.
        let both = format!("{key}{cert}");
        assert!(Certificate::read(both.as_bytes(), both.as_bytes(), None, 0).is_ok());
    }

    #[test]
    fn a_staple_is_served_while_it_holds() {
        let (cert, key) = pem(&["a.example"], &PKCS_ECDSA_P256_SHA256);
        let read = |response: Option<&[u8]>| {
            Certificate::read(cert.as_bytes(), key.as_bytes(), response, 0).expect("a good pair")
        };
        let serial = read(None).leaf.serial;
        let good = response(&serial, 0x80, Some("20200108000000Z"));
        let stapled = read(Some(&good));
        assert_eq!(stapled.staple, Staple::Until(1_578_441_600));
        assert_eq!(stapled.key.ocsp.as_deref(), Some(good.as_slice()));
        let refused = read(Some(b"x"));
        assert!(matches!(refused.staple, Staple::Refused(_)) && refused.key.ocsp.is_none());
    }
}
