//! Certificates made for a test, and TLS on the raw wires: clients that say what they saw, targets that ask for more.

use super::{PATIENCE, Site, Wire};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, PKCS_ECDSA_P256_SHA256, SignatureAlgorithm,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme, StreamOwned, SupportedProtocolVersion,
};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

static CAS: AtomicUsize = AtomicUsize::new(1);

/// An authority.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub struct Leaf {
    pub cert: String,
    pub key: String,
    pub der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Ca {
    pub fn new() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        // Two of one name would be taken for one whose signatures are wrong.
        let number = CAS.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
        let key = KeyPair::generate().expect("there is randomness");
        Ca(CertifiedIssuer::self_signed(params, key).expect("the parameters are good"))
    }
    pub fn pem(&self) -> String {
        self.0.pem()
    }
    pub fn key(&self) -> String {
        self.0.key().serialize_pem()
    }
    /// ECDSA, for these names, valid for a long time.
    pub fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_with(names, &PKCS_ECDSA_P256_SHA256, |_| {})
    }
    pub fn leaf_with(
        &self,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("good names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).expect("there is randomness");
        let cert = params.signed_by(&key, &self.0).expect("the parameters are good");
        Leaf { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone(), key_der: key.serialize_der() }
    }
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("it is an authority");
        Arc::new(roots)
    }
}

impl Leaf {
    /// Its own authority, and says so, as `openssl req -x509` makes them.
    pub fn self_signed(names: &[&str]) -> Leaf {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("there is randomness");
        let cert = params.self_signed(&key).expect("the parameters are good");
        Leaf { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone(), key_der: key.serialize_der() }
    }
    /// Writes `NAME.crt` and `NAME.key` into the site's folder, the key first.
    pub fn write(&self, site: &Site, name: &str) {
        for (end, text) in [("key", &self.key), ("crt", &self.cert)] {
            let path = site.folder.path().join(format!("{name}.{end}"));
            std::fs::write(path, text).expect("the temporary folder is writable");
        }
    }
    fn private(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key_der.clone()).into()
    }
}

/// A site whose listener `http` is plain and whose `https` has these certificates and further keys; everything goes to
/// `target`. The certificates are in its folder by their names.
pub fn https_site(certs: &[(&str, &Leaf)], tls_lines: &str, target: SocketAddr) -> Site {
    let site = Site::new();
    certs.iter().for_each(|(name, leaf)| leaf.write(&site, name));
    let list: Vec<String> =
        certs.iter().map(|(name, _)| format!("{{ cert = \"{name}.crt\", key = \"{name}.key\" }}")).collect();
    let listener = "[[listener]]\nname = \"https\"\nbind = \"127.0.0.1:0\"\n[listener.tls]\n";
    site.toml(&format!("{listener}certs = [{}]\n{tls_lines}", list.join(", "))).to(target, "", "")
}

/// A client that verifies against an authority and remembers its sessions; clones share them.
#[derive(Clone)]
pub struct TlsClient {
    config: ClientConfig,
    name: String,
    seen: Arc<Seen>,
}

/// What a handshake showed.
pub struct Shown {
    pub cert: CertificateDer<'static>,
    pub alpn: Option<String>,
    pub resumed: bool,
    pub version: String,
    pub ocsp: Vec<u8>,
}

impl TlsClient {
    pub fn new(ca: &Ca) -> TlsClient {
        let seen = Arc::new(Seen::new(ca));
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&seen) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        TlsClient { config, name: "localhost".to_owned(), seen }
    }
    /// With only this version.
    pub fn only(mut self, version: &'static SupportedProtocolVersion) -> TlsClient {
        let seen = Arc::clone(&self.seen) as Arc<dyn ServerCertVerifier>;
        self.config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .expect("the provider has it")
            .dangerous()
            .with_custom_certificate_verifier(seen)
            .with_no_client_auth();
        self
    }
    /// Asks for this name.
    pub fn name(mut self, name: &str) -> TlsClient {
        self.name = name.to_owned();
        self
    }
    pub fn alpn(mut self, protocols: &[&str]) -> TlsClient {
        self.config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }
    /// Can verify RSA signatures only.
    pub fn rsa_only(self) -> TlsClient {
        *self.seen.rsa_only.lock().expect("no test thread panicked") = true;
        self
    }
    /// Has no sessions to resume.
    pub fn forgetful(mut self) -> TlsClient {
        self.config.resumption = Resumption::disabled();
        self
    }
    /// Shows a certificate when asked.
    pub fn with(mut self, leaf: &Leaf) -> TlsClient {
        let seen = Arc::clone(&self.seen) as Arc<dyn ServerCertVerifier>;
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has both versions")
            .dangerous()
            .with_custom_certificate_verifier(seen)
            .with_client_auth_cert(vec![leaf.der.clone()], leaf.private())
            .expect("the key fits");
        config.alpn_protocols = self.config.alpn_protocols;
        self.config = config;
        self
    }
    /// A connection after its handshake, or why there is none.
    pub fn try_connect(&self, addr: SocketAddr) -> Result<(Wire, Shown), String> {
        self.handshake(TcpStream::connect(addr).map_err(|error| error.to_string())?)
    }
    /// On a connection that has carried other bytes before.
    pub fn handshake(&self, mut tcp: TcpStream) -> Result<(Wire, Shown), String> {
        let name = ServerName::try_from(self.name.clone()).expect("a good name");
        let mut session =
            ClientConnection::new(Arc::new(self.config.clone()), name).map_err(|error| error.to_string())?;
        tcp.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        while session.is_handshaking() {
            session.complete_io(&mut tcp).map_err(|error| error.to_string())?;
        }
        let certs = session.peer_certificates().ok_or("no certificate")?;
        let shown = Shown {
            cert: certs[0].clone().into_owned(),
            alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            version: format!("{:?}", session.protocol_version().ok_or("no version")?),
            ocsp: self.seen.ocsp.lock().expect("no test thread panicked").clone(),
        };
        Ok((Wire::tls_client(StreamOwned::new(session, tcp)), shown))
    }
    #[track_caller]
    pub fn connect(&self, addr: SocketAddr) -> (Wire, Shown) {
        self.try_connect(addr).unwrap_or_else(|error| panic!("TLS to {addr}: {error}"))
    }
    /// The certificate that a new connection shows.
    #[track_caller]
    pub fn cert(&self, addr: SocketAddr) -> CertificateDer<'static> {
        self.clone().forgetful().connect(addr).1.cert
    }
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::new(self.config.clone())
    }
}

/// Verifies as any client does, and keeps what it was shown.
#[derive(Debug)]
struct Seen {
    verifier: Arc<WebPkiServerVerifier>,
    rsa_only: Mutex<bool>,
    ocsp: Mutex<Vec<u8>>,
}

impl Seen {
    fn new(ca: &Ca) -> Seen {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(ca.roots(), Arc::new(aws_lc_rs::default_provider())).build();
        Seen { verifier: verifier.expect("there is a root"), rsa_only: Mutex::default(), ocsp: Mutex::default() }
    }
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.ocsp.lock().expect("no test thread panicked") = ocsp.to_vec();
        self.verifier.verify_server_cert(cert, chain, name, ocsp, now)
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let rsa_only = *self.rsa_only.lock().expect("no test thread panicked");
        let is_rsa = |scheme: &SignatureScheme| format!("{scheme:?}").starts_with("RSA");
        self.verifier.supported_verify_schemes().into_iter().filter(|scheme| !rsa_only || is_rsa(scheme)).collect()
    }
}

/// A target's side: this certificate, these versions, and a client certificate of `clients` if there are any.
pub fn target_config(
    leaf: &Leaf,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<&Ca>,
) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions);
    let builder = builder.expect("the provider has them");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(ca.roots(), provider).build();
            builder.with_client_cert_verifier(verifier.expect("there is a root"))
        }
    };
    Arc::new(builder.with_single_cert(vec![leaf.der.clone()], leaf.private()).expect("the key fits"))
}

/// A target's connection after its handshake; None when it fails.
pub fn accepted(config: &Arc<ServerConfig>, mut tcp: TcpStream) -> Option<(Wire, bool)> {
    let mut session = ServerConnection::new(Arc::clone(config)).ok()?;
    while session.is_handshaking() {
        session.complete_io(&mut tcp).ok()?;
    }
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    Some((Wire::tls_server(StreamOwned::new(session, tcp)), resumed))
}
