//! Whose certificates are believed: those of the authorities in a file, or the system's.
//!
//! A file may also list a peer's own certificate. webpki takes that for what it is unless it says of itself that it is an
//! authority, as every certificate does that `openssl req -x509` makes with its defaults. It is the operator's word that
//! counts then: a certificate that is listed, byte for byte, is believed while it is valid.

use super::certificate::certificates;
use super::x509::{Leaf, NOT_VERSION_3};
use super::{provider, time};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use std::sync::Arc;

#[derive(Debug)]
pub struct Authorities {
    store: Arc<RootCertStore>,
    /// What stands in the file; empty for the system's.
    listed: Arc<[CertificateDer<'static>]>,
}

impl Authorities {
    /// Of a PEM file; otherwise why not.
    pub fn read(pem: &[u8]) -> Result<Authorities, String> {
        let listed = certificates(pem)?;
        let mut store = RootCertStore::empty();
        for (at, authority) in listed.iter().enumerate() {
            let added = store.add(authority.clone());
            added.map_err(|error| format!("certificate {} in it can't be an authority: {error}", at + 1))?;
        }
        Ok(Authorities { store: Arc::new(store), listed: listed.into() })
    }

    /// The system's; otherwise why there are none.
    pub fn system() -> Result<Authorities, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        // Some systems carry odd ones; each that can't be used is one that is not trusted.
        let (added, _) = store.add_parsable_certificates(found.certs);
        match (added, found.errors.first()) {
            (0, Some(error)) => Err(format!("this system has no certificates of authorities: {error}")),
            (0, None) => Err("this system has no certificates of authorities".to_owned()),
            _ => Ok(Authorities { store: Arc::new(store), listed: Arc::default() }),
        }
    }

    /// Judges targets.
    pub fn of_servers(&self) -> Result<Arc<dyn ServerCertVerifier>, String> {
        let by_chain = WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.store), provider()).build();
        let by_chain = by_chain.map_err(|error| error.to_string())?;
        Ok(Arc::new(Verifier { by_chain: by_chain as Arc<dyn ServerCertVerifier>, listed: Arc::clone(&self.listed) }))
    }

    /// Judges clients; unless `required`, one may have no certificate.
    pub fn of_clients(&self, required: bool) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.store), provider());
        let builder = if required { builder } else { builder.allow_unauthenticated() };
        let by_chain = builder.build().map_err(|error| error.to_string())?;
        Ok(Arc::new(Verifier { by_chain, listed: Arc::clone(&self.listed) }))
    }
}

/// What is wrong with a certificate, after "the certificate".
pub fn objection(error: &CertificateError) -> String {
    let day = |time: &UnixTime| time::date(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    match error {
        CertificateError::ExpiredContext { not_after, .. } => format!("expired on {}", day(not_after)),
        CertificateError::Expired => "has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => format!("is valid from {} on only", day(not_before)),
        CertificateError::NotValidYet => "is not valid yet".to_owned(),
        CertificateError::UnknownIssuer => "is from an authority that is not trusted".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let bare = |name: &String| name.replace("DnsName(\"", "").replace("IpAddress(", "").replace(['"', ')'], "");
            let presented: Vec<String> = presented.iter().map(bare).collect();
            let names = if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") };
            format!("is not for {} but for {names}", expected.to_str())
        }
        CertificateError::NotValidForName => "is for another name".to_owned(),
        CertificateError::Revoked => "is revoked".to_owned(),
        CertificateError::Other(OtherError(inner)) => match inner.downcast_ref() {
            Some(webpki::Error::CaUsedAsEndEntity) => "is an authority's, and is not listed itself".to_owned(),
            Some(webpki::Error::UnsupportedCertVersion) => format!("is {NOT_VERSION_3}"),
            _ => format!("can't be verified: {inner}"),
        },
        other => format!("can't be verified: {other}"),
    }
}

#[derive(Debug)]
struct Verifier<V: ?Sized> {
    by_chain: Arc<V>,
    listed: Arc<[CertificateDer<'static>]>,
}

impl<V: ?Sized> Verifier<V> {
    /// The one objection is that the certificate calls itself an authority, and it is listed and valid.
    fn is_listed(&self, cert: &CertificateDer<'_>, error: &Error, now: UnixTime) -> bool {
        let Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error else { return false };
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        inner.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
            && self.listed.iter().any(|listed| listed == cert)
            && Leaf::read(cert).is_some_and(|leaf| (leaf.not_before..=leaf.not_after).contains(&now))
    }
}

impl ServerCertVerifier for Verifier<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.by_chain.verify_server_cert(cert, chain, name, ocsp, now) {
            Err(error) if self.is_listed(cert, &error, now) => {
                verify_server_name(&ParsedCertificate::try_from(cert)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls12_signature(message, cert, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls13_signature(message, cert, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_chain.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Verifier<dyn ClientCertVerifier> {
    fn client_auth_mandatory(&self) -> bool {
        self.by_chain.client_auth_mandatory()
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_chain.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.by_chain.verify_client_cert(cert, chain, now) {
            Err(error) if self.is_listed(cert, &error, now) => Ok(ClientCertVerified::assertion()),
            verified => verified,
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls12_signature(message, cert, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_chain.verify_tls13_signature(message, cert, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, KeyPair, date_time_ymd};
    use std::time::Duration;

    /// As `openssl req -x509` makes them: an authority of itself, here from 2020 to 2030.
    fn self_signed() -> Certificate {
        let mut params = CertificateParams::new(vec!["api.internal".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    fn year(year: u64) -> UnixTime {
        let days = (year - 1970) * 1461 / 4;
        UnixTime::since_unix_epoch(Duration::from_secs(days * time::DAY_SECONDS.unsigned_abs() + 3600))
    }

    #[test]
    fn a_certificate_that_is_listed_is_believed_for_its_name_and_time() {
        let (own, other) = (self_signed(), self_signed());
        let verifier = Authorities::read(own.pem().as_bytes()).unwrap().of_servers().unwrap();
        let verify = |cert: &Certificate, name: &'static str, now| {
            let name = ServerName::try_from(name).unwrap();
            let verified = verifier.verify_server_cert(cert.der(), &[], &name, &[], now);
            verified.map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(verify(&own, "api.internal", year(2025)), Ok(()));
        assert!(verify(&own, "other.internal", year(2025)).unwrap_err().contains("not valid for name"));
        assert!(verify(&own, "api.internal", year(2031)).unwrap_err().contains("expired"));
        assert!(verify(&own, "api.internal", year(2019)).unwrap_err().contains("not valid yet"));
        assert!(verify(&other, "api.internal", year(2025)).unwrap_err().contains("CaUsedAsEndEntity"));
    }

    #[test]
    fn so_is_a_client_s() {
        let (own, other) = (self_signed(), self_signed());
        let verifier = Authorities::read(own.pem().as_bytes()).unwrap().of_clients(true).unwrap();
        let verify = |cert: &Certificate, now| verifier.verify_client_cert(cert.der(), &[], now).is_ok();
        assert!(verifier.client_auth_mandatory());
        assert_eq!(verifier.root_hint_subjects().len(), 1);
        assert!(verify(&own, year(2025)));
        assert!(!verify(&own, year(2031)) && !verify(&other, year(2025)));
    }
}
