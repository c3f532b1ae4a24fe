//! TLS without sockets and clocks: from the bytes of PEM and OCSP files to what rustls serves and connects with.
//!
//! Reading a certificate is three things here, and used by three rooms: `config` says what is wrong with a file,
//! `control` loads and replaces what runs, and what comes out is handed through the boundary to the workers. `der` and
//! `x509` read the few fields that rustls keeps to itself: who a certificate is for, and until when.

pub mod authorities;
pub mod certificate;
pub mod client;
mod der;
mod ocsp;
pub mod server;
pub mod time;
pub mod x509;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::{Arc, OnceLock};

/// The cryptography that everything here uses: aws-lc, with rustls' defaults. They are AEAD suites with forward
/// secrecy only, TLS 1.2 and 1.3, and X25519MLKEM768 where the client prefers it.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}
