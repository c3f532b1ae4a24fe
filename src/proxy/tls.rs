//! Server-side TLS of a listener: certificates by name, versions and protocols as configured.

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a listener's TLS is made of. Paths are PEM files; the first certificate answers names that no other has.
#[derive(Clone, Debug)]
pub struct TlsPlan {
    pub certs: Vec<(PathBuf, PathBuf)>,
    pub tls12: bool,
    pub h2: bool,
    pub http1: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("can't read a certificate from {path}: {error}")]
    Certificate { path: PathBuf, error: rustls::pki_types::pem::Error },
    #[error("{path} holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("can't read a private key from {path}: {error}")]
    Key { path: PathBuf, error: rustls::pki_types::pem::Error },
    #[error("{cert} and {key} don't make a certificate to serve: {error}")]
    Pair { cert: PathBuf, key: PathBuf, error: rustls::Error },
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] rustls::Error),
    #[error("no certificate is configured")]
    Empty,
}

/// The listener's configuration for rustls.
pub fn server_config(plan: &TlsPlan) -> Result<Arc<ServerConfig>, TlsError> {
    let versions: &[&rustls::SupportedProtocolVersion] =
        if plan.tls12 { &[&rustls::version::TLS13, &rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Certificates::load(&plan.certs)?));
    if plan.h2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    if plan.http1 {
        config.alpn_protocols.push(b"http/1.1".to_vec());
    }
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Chooses by server name: exact, then `*.` for one label, then the first.
#[derive(Debug)]
struct Certificates {
    named: Vec<(String, Arc<CertifiedKey>)>,
    default: Arc<CertifiedKey>,
}

impl Certificates {
    fn load(pairs: &[(PathBuf, PathBuf)]) -> Result<Certificates, TlsError> {
        let mut named = Vec::new();
        let mut default = None;
        for (cert, key) in pairs {
            let certified = Arc::new(load_pair(cert, key)?);
            for name in names_of(&certified) {
                named.push((name, Arc::clone(&certified)));
            }
            default.get_or_insert(certified);
        }
        Ok(Certificates { named, default: default.ok_or(TlsError::Empty)? })
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.named.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, certified)| certified)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let by_name = hello.server_name().and_then(|name| {
            let wildcard = || name.split_once('.').and_then(|(_, parent)| self.find(&format!("*.{parent}")));
            self.find(name).or_else(wildcard)
        });
        Some(Arc::clone(by_name.unwrap_or(&self.default)))
    }
}

fn load_pair(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let unreadable = |error| TlsError::Certificate { path: cert.to_owned(), error };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(cert).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: cert.to_owned() });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::Key { path: key.to_owned(), error })?;
    CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()).map_err(|error| TlsError::Pair {
        cert: cert.to_owned(),
        key: key.to_owned(),
        error,
    })
}

/// The DNS names that a certificate is for; none when it can't be read, which leaves it as a default.
fn names_of(certified: &CertifiedKey) -> Vec<String> {
    let Some(leaf) = certified.cert.first() else { return Vec::new() };
    match webpki::EndEntityCert::try_from(leaf) {
        Ok(cert) => cert.valid_dns_names().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    }
}
