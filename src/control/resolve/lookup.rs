//! One look-up of a name: the hosts file first, then DNS, as the system would, but with the time that an answer holds.

use super::{Answer, Found};
use crate::config::{Dns, TargetAddr};
use crate::limits::{ADDRESSES_PER_NAME, RESOLVE_HOSTS};
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, Resolver as Client, TokioResolver, system_conf};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";
/// How often a question is asked again within a look-up's time.
const REPEATED: u32 = 2;

/// What names are looked up with, as it was configured at one moment.
pub struct Resolver {
    dns: Dns,
    client: Result<TokioResolver, String>,
    hosts: Hosts,
    stamps: [Stamp; 2],
}

/// By what a file is known to be the one that was read.
type Stamp = Option<(SystemTime, u64)>;

/// Addresses and how long they hold.
type Ips = (BTreeSet<IpAddr>, Duration);

impl Resolver {
    pub fn new(dns: &Dns) -> Resolver {
        let stamps = stamps();
        let (config, mut options) = servers(dns);
        options.timeout = dns.timeout / (REPEATED + 1);
        options.attempts = REPEATED as usize;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // What holds how long is followed by who asks.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let builder = Client::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        let client = builder.build().map_err(|error| error.to_string());
        Resolver { dns: dns.clone(), client, hosts: Hosts::from_system().unwrap_or_default(), stamps }
    }

    /// Neither the configuration nor the system's files are others by now.
    pub fn is_current(&self, dns: &Dns) -> bool {
        self.dns == *dns && self.stamps == stamps()
    }

    /// A target's addresses. `known` are those that it had: where only addresses of one kind are answered, and nothing is
    /// heard of the other kind, those stay.
    pub async fn look_up(&self, target: &TargetAddr, known: &[Found]) -> Result<Answer, String> {
        let asked = async {
            match target {
                TargetAddr::Name { host, port } => self.host(host, *port, known).await,
                TargetAddr::Srv(service) => self.service(service).await,
                TargetAddr::Ip(_) | TargetAddr::Unix(_) => Err("the target is no name".to_owned()),
            }
        };
        let answer = tokio::time::timeout(self.dns.timeout, asked).await;
        let mut answer = answer.map_err(|_| format!("no answer in {:?}", self.dns.timeout))??;
        if answer.found.len() > ADDRESSES_PER_NAME {
            let (count, most) = (answer.found.len(), ADDRESSES_PER_NAME);
            tracing::warn!(target = %target, count, "the name has more addresses than are used: the first {most} are");
            answer.found.truncate(ADDRESSES_PER_NAME);
        }
        if answer.found.is_empty() {
            return Err("the name has no address".to_owned());
        }
        Ok(answer)
    }

    async fn host(&self, host: &str, port: u16, known: &[Found]) -> Result<Answer, String> {
        let name = Name::from_ascii(host).map_err(|error| error.to_string())?;
        let known: BTreeSet<IpAddr> = known.iter().map(|found| found.addr.ip()).collect();
        let (ips, ttl) = self.ips(name, &known).await.map_err(in_words)?;
        let found = ips.into_iter().map(|ip| Found { addr: SocketAddr::new(ip, port), weight: 1 });
        Ok(Answer { found: found.collect(), ttl })
    }

    async fn ips(&self, name: Name, known: &BTreeSet<IpAddr>) -> Result<Ips, NetError> {
        let listed = [RecordType::A, RecordType::AAAA].into_iter().filter_map(|kind| {
            let lookup = self.hosts.lookup_static_host(&Query::query(name.clone(), kind))?;
            Some(lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
        });
        let listed: BTreeSet<IpAddr> = listed.flatten().collect();
        if !listed.is_empty() {
            return Ok((listed, RESOLVE_HOSTS));
        }
        let client = self.client.as_ref().map_err(|why| NetError::Msg(why.clone()))?;
        let lookup = client.lookup_ip(name).await?;
        let lookup = lookup.as_lookup();
        let mut ips: BTreeSet<IpAddr> = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
        // An answer of one kind is taken for the whole; the other kind may have got none.
        for (kind, is_kind) in
            [(RecordType::A, IpAddr::is_ipv4 as fn(&IpAddr) -> bool), (RecordType::AAAA, IpAddr::is_ipv6)]
        {
            if !ips.iter().any(is_kind) && known.iter().any(is_kind) {
                let mut name = lookup.query().name().clone();
                name.set_fqdn(true);
                match client.lookup(name, kind).await {
                    Ok(more) => ips.extend(more.answers().iter().filter_map(|record| record.data.ip_addr())),
                    Err(error) if is_none(&error) => {}
                    Err(_) => ips.extend(known.iter().filter(|ip| is_kind(ip))),
                }
            }
        }
        Ok((ips, ttl(lookup.answers())))
    }

    /// The hosts of a service, with the ports and weights of its records: those with the best priority that have an
    /// address (RFC 2782).
    async fn service(&self, service: &str) -> Result<Answer, String> {
        let name = Name::from_ascii(service).map_err(|error| error.to_string())?;
        let client = self.client.as_ref().map_err(String::clone)?;
        let lookup = client.lookup(name, RecordType::SRV).await.map_err(in_words)?;
        let mut priorities: BTreeMap<u16, Vec<&SRV>> = BTreeMap::new();
        for record in lookup.answers() {
            if let RData::SRV(srv) = &record.data {
                priorities.entry(srv.priority).or_default().push(srv);
            }
        }
        let mut ttl = ttl(lookup.answers());
        for group in priorities.values() {
            let mut found: BTreeMap<SocketAddr, u32> = BTreeMap::new();
            // One that has no address, or is `.`, takes no requests.
            for srv in group.iter().filter(|srv| !srv.target.is_root() && srv.port > 0) {
                let mut host = srv.target.clone();
                host.set_fqdn(true);
                let (ips, of_host) = match self.ips(host, &BTreeSet::new()).await {
                    Ok(found) => found,
                    Err(error) if is_none(&error) => continue,
                    Err(error) => return Err(in_words(error)),
                };
                ttl = ttl.min(of_host);
                for ip in ips {
                    *found.entry(SocketAddr::new(ip, srv.port)).or_default() += u32::from(srv.weight.max(1));
                }
            }
            if !found.is_empty() {
                let found = found.into_iter().map(|(addr, weight)| Found { addr, weight });
                return Ok(Answer { found: found.collect(), ttl });
            }
        }
        Err("the service has no host with an address".to_owned())
    }
}

/// The servers to ask, and how: the configuration's, for names as they are written, else the system's. Without either
/// there is one on this host, as libc has it.
fn servers(dns: &Dns) -> (ResolverConfig, ResolverOpts) {
    if dns.servers.is_empty() {
        return system_conf::read_system_conf().unwrap_or_else(|_| {
            let local = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
            (ResolverConfig::from_name_servers(vec![local]), ResolverOpts::default())
        });
    }
    let server = |addr: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = addr.port();
            connection
        });
        NameServerConfig::new(addr.ip(), true, connections.into())
    };
    (ResolverConfig::from_name_servers(dns.servers.iter().map(server).collect()), ResolverOpts::default())
}

fn ttl(records: &[Record]) -> Duration {
    Duration::from_secs(records.iter().map(|record| u64::from(record.ttl)).min().unwrap_or(0))
}

/// The answer is that there is none.
fn is_none(error: &NetError) -> bool {
    matches!(error, NetError::Dns(DnsError::NoRecordsFound(_)))
}

fn in_words(error: NetError) -> String {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
            "the name does not exist".to_owned()
        }
        NetError::Dns(DnsError::NoRecordsFound(_)) => "the name has no such record".to_owned(),
        NetError::Timeout | NetError::NoConnections => "no DNS server answers".to_owned(),
        error => error.to_string(),
    }
}

fn stamps() -> [Stamp; 2] {
    [RESOLV_CONF, HOSTS].map(|path| {
        let about = std::fs::metadata(Path::new(path)).ok()?;
        Some((about.modified().ok()?, about.len()))
    })
}
