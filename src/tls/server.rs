//! What a listener serves TLS with: one immutable configuration for rustls, made anew whenever a part of it changes.

use super::authorities::{Authorities, objection};
use super::certificate::{ByName, Certificate};
use super::provider;
use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::{Error, ServerConfig, SupportedProtocolVersion, version};
use std::sync::Arc;

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

/// What a listener's TLS is made of.
#[derive(Clone, Debug)]
pub struct Parts<'p> {
    /// At least one; the first answers names that no other has.
    pub certificates: &'p [Arc<Certificate>],
    pub tls12: bool,
    pub h2: bool,
    pub http1: bool,
    /// Authorities of client certificates, and whether a client must have one.
    pub clients: Option<(Arc<Authorities>, bool)>,
    /// Seals the sessions that clients resume. Kept from one configuration to the next, unless client certificates are
    /// verified in another way: a resumed session is not verified again.
    pub ticketer: Arc<dyn ProducesTickets>,
}

/// What was wrong with the client's certificate, if it was that which failed a handshake.
pub fn client_trouble(error: &std::io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref()? {
        Error::InvalidCertificate(why) => Some(format!("its certificate {}", objection(why))),
        Error::NoCertificatesPresented => Some("it showed no certificate".to_owned()),
        _ => None,
    }
}

/// Session tickets under a random key that lives in this process only; a new one every 6 hours, the last but one is
/// forgotten.
pub fn ticketer() -> Result<Arc<dyn ProducesTickets>, String> {
    aws_lc_rs::Ticketer::new().map_err(|error| format!("no session tickets: {error}"))
}

/// The listener's configuration for rustls.
pub fn config(parts: Parts<'_>) -> Result<Arc<ServerConfig>, String> {
    let versions = if parts.tls12 { BOTH } else { &BOTH[..1] };
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(versions).map_err(|error| error.to_string())?;
    let builder = match parts.clients {
        None => builder.with_no_client_auth(),
        Some((authorities, required)) => builder.with_client_cert_verifier(authorities.of_clients(required)?),
    };
    let by_name = ByName::new(parts.certificates).ok_or("no certificate is configured")?;
    let mut config = builder.with_cert_resolver(Arc::new(by_name));
    // Clients that were told to speak HTTP/1.0 offer only that.
    let alpn = [(parts.h2, "h2"), (parts.http1, "http/1.1"), (parts.http1, "http/1.0")];
    config.alpn_protocols = alpn.into_iter().filter(|(on, _)| *on).map(|(_, name)| name.as_bytes().to_vec()).collect();
    config.ticketer = parts.ticketer;
    // Tickets do it all; a table of sessions would be a lock that all workers share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}
