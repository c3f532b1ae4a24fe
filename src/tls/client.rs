//! What targets are connected to with: whom to trust, what to prove, and why a handshake failed, in words.

use super::authorities::{Authorities, objection};
use super::certificate::Certificate;
use super::provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::sync::Arc;

/// Sessions that a worker remembers for resumption, a pool.
const SESSIONS: usize = 256;

/// The configuration for rustls. `authorities` None: whatever certificate the target shows is taken. `own` is shown to
/// targets that ask for one; `protocols` are offered by ALPN, the one liked best first.
pub fn config(
    authorities: Option<&Authorities>,
    own: Option<&Certificate>,
    protocols: &[&str],
) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let verifier = match authorities {
        Some(authorities) => authorities.of_servers()?,
        None => Arc::new(NoVerification::new()),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&own.key)))),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The configuration with a memory of its own for sessions: what one worker learns is not shared. With `http2` that is
/// the protocol to agree upon.
pub fn with_own_sessions(config: &ClientConfig, http2: bool) -> Arc<ClientConfig> {
    let mut config = config.clone();
    if http2 {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    config.resumption = Resumption::in_memory_sessions(SESSIONS).tls12_resumption(Tls12Resumption::SessionIdOrTickets);
    Arc::new(config)
}

/// The name that a target must prove to have: a DNS name, without a dot at its end, or an IP address.
pub fn server_name(name: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(name.strip_suffix('.').unwrap_or(name).to_owned()).ok()
}

/// Why a handshake with a target failed, for the log.
pub fn explain(error: &std::io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return format!("TLS: {error}");
    };
    match tls {
        Error::InvalidCertificate(why) => format!("TLS: the target's certificate {}", objection(why)),
        Error::AlertReceived(alert) => format!("TLS: the target refused the handshake: {alert:?}"),
        Error::InvalidMessage(_) => "TLS: the target does not speak TLS there".to_owned(),
        Error::PeerIncompatible(why) => format!("TLS: the target supports nothing that Weir does: {why:?}"),
        other => format!("TLS: {other}"),
    }
}

/// For `verify = false`: the handshake's signatures are checked, the certificate is not.
#[derive(Debug)]
struct NoVerification(WebPkiSupportedAlgorithms);

impl NoVerification {
    fn new() -> NoVerification {
        NoVerification(provider().signature_verification_algorithms)
    }
}

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::CertificateError;

    #[test]
    fn names_that_a_target_can_prove() {
        let shown = |name| server_name(name).map(|name| name.to_str().into_owned());
        assert_eq!(shown("api.internal").as_deref(), Some("api.internal"));
        assert_eq!(shown("api.internal.").as_deref(), Some("api.internal"));
        assert_eq!(shown("a_b.internal").as_deref(), Some("a_b.internal"));
        assert_eq!(shown("::1").as_deref(), Some("::1"));
        assert!(matches!(server_name("127.0.0.1"), Some(ServerName::IpAddress(_))));
        for name in ["", "a b", "api.internal:443", "-", "*.internal"] {
            assert_eq!(shown(name), None, "{name}");
        }
    }

    #[test]
    fn failures_in_words() {
        let said = |error: Error| explain(&std::io::Error::new(std::io::ErrorKind::InvalidData, error));
        let invalid = |error| said(Error::InvalidCertificate(error));
        assert_eq!(invalid(CertificateError::Expired), "TLS: the target's certificate has expired");
        assert!(invalid(CertificateError::UnknownIssuer).contains("not trusted"));
        let name = CertificateError::NotValidForNameContext {
            expected: server_name("a.internal").unwrap(),
            presented: vec!["DnsName(\"b.internal\")".to_owned()],
        };
        assert!(invalid(name).contains("is not for a.internal but for b.internal"));
        let alert = said(Error::AlertReceived(rustls::AlertDescription::CertificateRequired));
        assert_eq!(alert, "TLS: the target refused the handshake: CertificateRequired");
        assert_eq!(explain(&std::io::ErrorKind::UnexpectedEof.into()), "TLS: unexpected end of file");
    }
}
