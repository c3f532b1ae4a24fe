//! The TLS that is in force: certificates, keys and authorities as they were last read, and what rustls makes of them
//! for each listener and pool.
//!
//! It is ground state like resolved addresses: loaded at start and with each reload, looked at every second by
//! [`watch`], and published with the table, so that all workers have a new certificate from one moment on. What did not
//! change is the same `Arc` as before; a worker keeps its connections to a pool by that.

mod files;
pub mod watch;

use crate::boundary::table::ListenerTls;
use crate::config::{self, CertFiles, Config, PoolTls};
use crate::tls::authorities::Authorities;
use crate::tls::certificate::{Certificate, Staple};
use crate::tls::{client, server};
use files::Kept;
use http::HeaderName;
use rustls::ClientConfig;
use rustls::server::ProducesTickets;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Cheap to clone: what did not change is shared.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    certificates: BTreeMap<CertFiles, Kept<Certificate>>,
    /// By file; None is the system's.
    authorities: BTreeMap<Option<PathBuf>, Kept<Authorities>>,
    servers: BTreeMap<String, Arc<Server>>,
    clients: BTreeMap<String, Arc<Client>>,
}

/// A listener's TLS with what it was made of.
#[derive(Debug)]
struct Server {
    config: config::ListenerTls,
    certificates: Vec<Arc<Certificate>>,
    authorities: Option<Arc<Authorities>>,
    ticketer: Arc<dyn ProducesTickets>,
    listener: Arc<ListenerTls>,
}

/// A pool's.
#[derive(Debug)]
struct Client {
    config: PoolTls,
    authorities: Option<Arc<Authorities>>,
    own: Option<Arc<Certificate>>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// What the configuration asks for, `before` where it is the same. A file that can't be used any more is an error
    /// only if it was not in use before. `now` is in seconds since 1970.
    pub fn load(config: &Config, before: &Tls, now: i64) -> Result<Tls, String> {
        before.made_for(&listeners(config, before), &pools(config), now)
    }

    /// The same TLS as its files stand now.
    fn looked_at(&self, now: i64) -> Result<Tls, String> {
        let listeners = self.servers.iter().map(|(name, server)| (name.clone(), server.config.clone())).collect();
        let pools = self.clients.iter().map(|(name, client)| (name.clone(), client.config.clone())).collect();
        self.made_for(&listeners, &pools, now)
    }

    fn made_for(&self, listeners: &Listeners, pools: &Pools, now: i64) -> Result<Tls, String> {
        let mut next = Tls::default();
        for files in certificates(listeners, pools) {
            let kept = look_at_certificate(self.certificates.get(&files), &files, now)?;
            next.certificates.insert(files, kept);
        }
        for file in authorities(listeners, pools) {
            let kept = look_at_authorities(self.authorities.get(&file), file.as_deref(), now)?;
            next.authorities.insert(file, kept);
        }
        for (name, config) in listeners {
            let server = next.server(config, self.servers.get(name));
            next.servers.insert(name.clone(), server.map_err(|why| format!("listener {name}: {why}"))?);
        }
        for (name, config) in pools {
            let client = next.client_of(config, self.clients.get(name));
            next.clients.insert(name.clone(), client.map_err(|why| format!("pool.{name}.tls: {why}"))?);
        }
        Ok(next)
    }

    fn server(&self, config: &config::ListenerTls, before: Option<&Arc<Server>>) -> Result<Arc<Server>, String> {
        let certificates: Vec<_> =
            config.certs.iter().filter_map(|files| self.certificates.get(files)).map(|kept| &kept.value).collect();
        let authorities = config.clients.as_ref().and_then(|clients| self.roots(Some(&clients.ca)));
        let same_clients =
            |server: &&Arc<Server>| server.config.clients == config.clients && same(&server.authorities, &authorities);
        let same_certificates = |server: &&Arc<Server>| {
            server.certificates.iter().map(Arc::as_ptr).eq(certificates.iter().map(|c| Arc::as_ptr(c)))
        };
        let known = before.filter(same_clients);
        if let Some(server) = known.filter(|server| server.config == *config).filter(same_certificates) {
            return Ok(Arc::clone(server));
        }
        // A session is resumed without a look at the client's certificate: it must not outlive how those are judged.
        let ticketer = known.map_or_else(server::ticketer, |server| Ok(Arc::clone(&server.ticketer)))?;
        let certificates: Vec<_> = certificates.into_iter().cloned().collect();
        let clients = config.clients.as_ref();
        let parts = server::Parts {
            certificates: &certificates,
            tls12: config.tls12,
            h2: config.h2,
            http1: config.http1,
            clients: clients.and_then(|clients| Some((Arc::clone(authorities.as_ref()?), clients.required))),
            ticketer: Arc::clone(&ticketer),
        };
        let listener = Arc::new(ListenerTls {
            config: server::config(parts)?,
            subject_header: clients.and_then(|clients| clients.subject_header.clone()),
            cert_header: clients.and_then(|clients| clients.cert_header.clone()),
        });
        Ok(Arc::new(Server { config: config.clone(), certificates, authorities, ticketer, listener }))
    }

    fn client_of(&self, config: &PoolTls, before: Option<&Arc<Client>>) -> Result<Arc<Client>, String> {
        let authorities = if config.verify { self.roots(config.ca.as_ref()) } else { None };
        let own = config.client.as_ref().and_then(|files| self.certificates.get(files));
        let own = own.map(|kept| Arc::clone(&kept.value));
        let unchanged = |client: &&Arc<Client>| {
            client.config == *config && same(&client.authorities, &authorities) && same(&client.own, &own)
        };
        if let Some(client) = before.filter(unchanged) {
            return Ok(Arc::clone(client));
        }
        let client = client::config(authorities.as_deref(), own.as_deref(), &["http/1.1"])?;
        Ok(Arc::new(Client { config: config.clone(), authorities, own, client }))
    }

    fn roots(&self, file: Option<&PathBuf>) -> Option<Arc<Authorities>> {
        self.authorities.get(&file.cloned()).map(|kept| Arc::clone(&kept.value))
    }

    /// By listeners' names; the others are plain.
    pub fn listeners(&self) -> BTreeMap<String, Arc<ListenerTls>> {
        self.servers.iter().map(|(name, server)| (name.clone(), Arc::clone(&server.listener))).collect()
    }

    /// What the pool's targets are connected to with; None: plain.
    pub fn client(&self, pool: &str) -> Option<Arc<ClientConfig>> {
        self.clients.get(pool).map(|client| Arc::clone(&client.client))
    }

    /// Headers that only Weir may set, whichever listener a request came by.
    pub fn identity_headers(&self) -> Vec<HeaderName> {
        let of = |server: &Arc<Server>| {
            [&server.listener.subject_header, &server.listener.cert_header].into_iter().flatten().cloned().collect()
        };
        let mut headers: Vec<HeaderName> = self.servers.values().flat_map::<Vec<_>, _>(of).collect();
        headers.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        headers.dedup();
        headers
    }

    /// When certificates expire, in seconds since 1970, by the names that they are for: for each name the first of them.
    pub fn expiries(&self) -> BTreeMap<String, i64> {
        let mut expiries = BTreeMap::new();
        for (files, kept) in &self.certificates {
            let leaf = &kept.value.leaf;
            let unnamed =
                || files.cert.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let names = if leaf.names.is_empty() { vec![unnamed()] } else { leaf.names.clone() };
            for name in names {
                let first = expiries.entry(name).or_insert(leaf.not_after);
                *first = leaf.not_after.min(*first);
            }
        }
        expiries
    }

    /// Every file is in use as it stands.
    pub fn is_current(&self) -> bool {
        !self.troubles().any(|(_, trouble)| trouble.lasting)
    }

    fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.clients.is_empty()
    }

    /// With the names of what goes on in their place.
    fn troubles(&self) -> impl Iterator<Item = (String, &files::Trouble)> {
        let certificates =
            self.certificates.iter().map(|(files, kept)| (files.cert.display().to_string(), &kept.trouble));
        let authorities = self.authorities.iter().map(|(file, kept)| (shown(file.as_deref()), &kept.trouble));
        certificates.chain(authorities).filter_map(|(name, trouble)| trouble.as_ref().map(|trouble| (name, trouble)))
    }
}

type Listeners = BTreeMap<String, config::ListenerTls>;
type Pools = BTreeMap<String, PoolTls>;

/// Those of the configuration, and those that it has no more but whose sockets are open until the next start: they must
/// not become plain.
fn listeners(config: &Config, before: &Tls) -> Listeners {
    let configured: BTreeSet<&str> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    let old = before.servers.iter().filter(|(name, _)| !configured.contains(name.as_str()));
    let old = old.map(|(name, server)| (name.clone(), server.config.clone()));
    let new = config.listeners.iter().filter_map(|listener| Some((listener.name.clone(), listener.tls.clone()?)));
    old.chain(new).collect()
}

fn pools(config: &Config) -> Pools {
    config.pools.iter().filter_map(|pool| Some((pool.name.clone(), pool.tls.clone()?))).collect()
}

fn certificates(listeners: &Listeners, pools: &Pools) -> BTreeSet<CertFiles> {
    let own = pools.values().filter_map(|pool| pool.client.clone());
    listeners.values().flat_map(|tls| tls.certs.iter().cloned()).chain(own).collect()
}

fn authorities(listeners: &Listeners, pools: &Pools) -> BTreeSet<Option<PathBuf>> {
    let of_clients = listeners.values().filter_map(|tls| tls.clients.as_ref()).map(|clients| Some(clients.ca.clone()));
    of_clients.chain(pools.values().filter(|pool| pool.verify).map(|pool| pool.ca.clone())).collect()
}

fn look_at_certificate(
    before: Option<&Kept<Certificate>>,
    files: &CertFiles,
    now: i64,
) -> Result<Kept<Certificate>, String> {
    let paths: Vec<&Path> = [&files.cert, &files.key].into_iter().chain(&files.ocsp).map(PathBuf::as_path).collect();
    let over = before.is_some_and(|kept| matches!(kept.value.staple, Staple::Until(until) if until <= now));
    Kept::look(before, &paths, over, now, |contents| {
        let response = contents.get(2).map(Vec::as_slice);
        let read = Certificate::read(&contents[0], &contents[1], response, now);
        read.map_err(|trouble| trouble.in_files(&files.cert, &files.key))
    })
}

/// The system's are read once, with the first pool that needs them, and at every reload that finds no such pool before.
fn look_at_authorities(
    before: Option<&Kept<Authorities>>,
    file: Option<&Path>,
    now: i64,
) -> Result<Kept<Authorities>, String> {
    match (file, before) {
        (Some(file), _) => Kept::look(before, &[file], false, now, |contents| {
            Authorities::read(&contents[0]).map_err(|why| format!("CA file {}: {why}", file.display()))
        }),
        (None, Some(system)) => Ok(system.clone()),
        (None, None) => Authorities::system().map(Kept::fixed),
    }
}

fn same<T>(a: &Option<Arc<T>>, b: &Option<Arc<T>>) -> bool {
    a.as_ref().map(Arc::as_ptr) == b.as_ref().map(Arc::as_ptr)
}

fn shown(file: Option<&Path>) -> String {
    file.map_or_else(|| "the system's authorities".to_owned(), |file| file.display().to_string())
}
