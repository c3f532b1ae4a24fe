//! TLS of listeners and pools: files that are there and fit together, names that can be proved, and what a check warns
//! of because it can't stay so.

use super::Checker;
use crate::config::cursor::word;
use crate::config::model::{CertFiles, ClientCerts, ListenerTls, PoolTls, TargetAddr};
use crate::config::read_tls_file;
use crate::config::source::{At, Place};
use crate::config::{expiry, raw};
use crate::tls::authorities::Authorities;
use crate::tls::certificate::{self, Certificate, Staple, Trouble};
use crate::tls::{client, time};
use std::path::PathBuf;
use std::time::SystemTime;

/// Headers that a client's identity can't be put in: HTTP or Weir itself uses them.
const USED_HEADERS: [&str; 16] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-request-id",
];

impl Checker<'_> {
    pub fn listener_tls(&mut self, raw: &raw::ListenerTls) -> Option<ListenerTls> {
        let certs = raw.certs.as_ref().and_then(|certs| self.certs(certs));
        let versions = ["1.2", "1.3"];
        let minimum =
            raw.min_version.as_ref().map(|written| word(self.findings, written, "listener.tls.min_version", &versions));
        let protocols = ["h2", "http/1.1"];
        let alpn = match &raw.alpn {
            None => vec![0, 1],
            Some(list) => {
                if list.value.is_empty() {
                    let help = "leave `alpn` out for [\"h2\", \"http/1.1\"]";
                    self.findings.error("bad-value", list.place, "`listener.tls.alpn` is empty").help(help);
                }
                let words = list.value.iter();
                words.filter_map(|one| word(self.findings, one, "listener.tls.alpn", &protocols)).collect()
            }
        };
        let clients = self.client_certs(raw);
        Some(ListenerTls {
            certs: certs?,
            tls12: minimum.flatten() != Some(1),
            h2: alpn.contains(&0),
            http1: alpn.contains(&1),
            clients,
        })
    }

    fn certs(&mut self, certs: &At<Vec<raw::CertFiles>>) -> Option<Vec<CertFiles>> {
        if certs.value.is_empty() {
            self.findings.error("bad-value", certs.place, "`listener.tls.certs` is empty");
        }
        let pairs: Vec<_> =
            certs.value.iter().map(|raw| self.pair(raw.cert.as_ref(), raw.key.as_ref(), raw.ocsp.as_ref())).collect();
        pairs.into_iter().collect()
    }

    /// A chain and its key. Each is looked at by itself first, so that one check says what is wrong with both.
    fn pair(
        &mut self,
        cert: Option<&At<String>>,
        key: Option<&At<String>>,
        ocsp: Option<&At<String>>,
    ) -> Option<CertFiles> {
        let chain = cert.map(|cert| self.tls_file(cert, "certificate", |pem| certificate::certificates(pem).map(drop)));
        let private = key.map(|key| self.tls_file(key, "private key", |pem| certificate::private_key(pem).map(drop)));
        let response = ocsp.map(|ocsp| self.tls_file(ocsp, "OCSP response", |_| Ok(())));
        let (cert, key) = (cert?, key?);
        let ((cert_path, chain), (key_path, private)) = (chain??, private??);
        let response = match response {
            Some(response) => Some(response?),
            None => None,
        };
        let now = time::unix(SystemTime::now());
        match Certificate::read(&chain, &private, response.as_ref().map(|(_, bytes)| bytes.as_slice()), now) {
            Ok(certificate) => self.warn_of(&certificate, (cert, &cert_path), ocsp, now),
            Err(trouble) => {
                let place = match trouble {
                    Trouble::Certificate(_) => cert.place,
                    Trouble::Key(_) => key.place,
                };
                let message = trouble.in_files(&cert_path, &key_path);
                self.findings.error("tls-file", place, message);
                return None;
            }
        }
        Some(CertFiles { cert: cert_path, key: key_path, ocsp: response.map(|(path, _)| path) })
    }

    fn warn_of(
        &mut self,
        certificate: &Certificate,
        (cert, path): (&At<String>, &std::path::Path),
        ocsp: Option<&At<String>>,
        now: i64,
    ) {
        if let Some(what) = expiry(&certificate.leaf, now) {
            let message = format!("certificate file {} {what}", path.display());
            self.findings.warning("cert-expiry", cert.place, message);
        }
        if let (Staple::Refused(why), Some(ocsp)) = (&certificate.staple, ocsp) {
            let message = format!("the OCSP response in {} is not served: {why}", ocsp.shown());
            self.findings.warning("ocsp", ocsp.place, message);
        }
    }

    /// The absolute path and the bytes of a file that passes `check`.
    fn tls_file(
        &mut self,
        file: &At<String>,
        what: &str,
        check: impl FnOnce(&[u8]) -> Result<(), String>,
    ) -> Option<(PathBuf, Vec<u8>)> {
        let path = self.sources.resolve(file.place.file, &file.value);
        let checked = read_tls_file(&path).and_then(|bytes| check(&bytes).map(|()| bytes));
        match checked {
            Ok(bytes) => Some((path, bytes)),
            Err(why) => {
                let name = if file.is_filled() { file.written().to_owned() } else { path.display().to_string() };
                self.findings.error("tls-file", file.place, format!("{what} file {name}: {why}"));
                None
            }
        }
    }

    fn authorities(&mut self, file: &At<String>) -> Option<PathBuf> {
        self.tls_file(file, "CA", |pem| Authorities::read(pem).map(drop)).map(|(path, _)| path)
    }

    fn client_certs(&mut self, raw: &raw::ListenerTls) -> Option<ClientCerts> {
        let words = ["require", "request"];
        let auth = raw.client_auth.as_ref();
        let required = auth.and_then(|auth| word(self.findings, auth, "listener.tls.client_auth", &words)) != Some(1);
        let subject_header = raw.client_subject_header.as_ref().and_then(|name| self.identity_header(name));
        let cert_header = raw.client_cert_header.as_ref().and_then(|name| self.identity_header(name));
        if let (Some(one), Some(other)) = (&subject_header, &cert_header)
            && one == other
            && let Some(written) = &raw.client_cert_header
        {
            let message = "the subject and the certificate can't be in one header";
            self.findings.error("bad-value", written.place, message);
        }
        let Some(ca) = &raw.client_ca else {
            let keys = [&raw.client_auth, &raw.client_subject_header, &raw.client_cert_header];
            let names = ["client_auth", "client_subject_header", "client_cert_header"];
            for (written, name) in keys.iter().zip(names) {
                if let Some(written) = written {
                    let message = format!("`listener.tls.{name}` without `client_ca`: clients are not asked");
                    let help = "client_ca = \"tls/clients.pem\", the authorities of their certificates";
                    self.findings.error("missing-key", written.place, message).help(help);
                }
            }
            return None;
        };
        Some(ClientCerts { ca: self.authorities(ca)?, required, subject_header, cert_header })
    }

    fn identity_header(&mut self, written: &At<String>) -> Option<http::HeaderName> {
        let name = self.header_name(written)?;
        if USED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded-") {
            let message = format!("{} is used otherwise", written.shown());
            let help = "a header of its own, such as \"x-client-subject\"";
            self.findings.error("bad-value", written.place, message).help(help);
            return None;
        }
        Some(name)
    }

    pub fn pool_tls(&mut self, pool: &str, raw: &raw::PoolTls, targets: &[TargetAddr]) -> Option<PoolTls> {
        let verify = raw.verify.as_ref().is_none_or(|verify| verify.value);
        let ca = raw.ca.as_ref().map(|ca| self.authorities(ca));
        if let Some(written) = raw.verify.as_ref().filter(|_| !verify) {
            let message =
                format!("pool.{pool} takes any certificate: whoever is between Weir and a target can read all");
            let help = "leave `verify` out, and give `ca` the authority of the targets' certificates";
            self.findings.warning("tls-no-verify", written.place, message).help(help);
            if let Some(ca) = &raw.ca {
                let message = format!("pool.{pool} has a `ca` and `verify = false`, which takes no notice of it");
                self.findings.error("bad-value", ca.place, message).other(written.place);
            }
        } else if raw.ca.is_none() {
            self.needs_system_roots(pool, raw.place);
        }
        self.server_names(pool, raw, targets);
        let client = match (&raw.client_cert, &raw.client_key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(self.pair(Some(cert), Some(key), None)?),
            (Some(one), None) | (None, Some(one)) => {
                let message = format!("pool.{pool}.tls has one of `client_cert` and `client_key` without the other");
                self.findings.error("missing-key", one.place, message);
                None
            }
        };
        Some(PoolTls {
            ca: match ca {
                Some(ca) => Some(ca?),
                None => None,
            },
            server_name: raw.server_name.as_ref().map(|name| name.value.clone()),
            client,
            verify,
        })
    }

    fn needs_system_roots(&mut self, pool: &str, place: Place) {
        let found = self.system_roots.get_or_init(|| Authorities::system().map(drop));
        if let Err(why) = found {
            let message = format!("pool.{pool}.tls has no `ca`, and {why}");
            let help = "write ca = \"tls/ca.pem\", or install the package ca-certificates";
            self.findings.error("no-system-roots", place, message).help(help);
        }
    }

    /// Reports names that no certificate can be for.
    fn server_names(&mut self, pool: &str, raw: &raw::PoolTls, targets: &[TargetAddr]) {
        if let Some(written) = &raw.server_name {
            if client::server_name(&written.value).is_none() {
                let message = format!("{} is neither a DNS name nor an IP address", written.shown());
                self.findings.error("bad-value", written.place, message);
            }
            return;
        }
        for target in targets {
            let nameless = match target {
                TargetAddr::Name { host, .. } => client::server_name(host).is_none().then(|| format!("{host:?}")),
                TargetAddr::Unix(_) | TargetAddr::Srv(_) => Some(target.to_string()),
                TargetAddr::Ip(_) => None,
            };
            if let Some(target) = nameless {
                let message = format!("no certificate can be for {target}, a target of pool.{pool}");
                let help = "write server_name = \"api.internal\", the name that its certificate is for";
                self.findings.error("bad-value", raw.place, message).help(help);
            }
        }
    }
}
