//! `dns`: whom targets' names are asked of, and how long an answer holds.

use super::Checker;
use crate::config::model::Dns;
use crate::config::raw::dns as raw;
use crate::config::source::At;
use crate::config::units::shown_duration;
use std::net::{IpAddr, SocketAddr};

const PORT: u16 = 53;

impl Checker<'_> {
    pub(super) fn dns(&mut self, raw: Option<&raw::Dns>) -> Dns {
        let mut dns = Dns::default();
        let Some(raw) = raw else { return dns };
        if let Some(servers) = &raw.servers {
            if servers.value.is_empty() {
                let help = "leave it out for those of /etc/resolv.conf";
                self.findings.error("bad-value", servers.place, "`dns.servers` is empty").help(help);
            }
            dns.servers = servers.value.iter().filter_map(|server| self.dns_server(server)).collect();
        }
        for (written, value) in
            [(&raw.min_ttl, &mut dns.min_ttl), (&raw.max_ttl, &mut dns.max_ttl), (&raw.timeout, &mut dns.timeout)]
        {
            *value = written.as_ref().map_or(*value, |written| written.value);
        }
        if dns.min_ttl > dns.max_ttl {
            let place = raw.min_ttl.as_ref().or(raw.max_ttl.as_ref()).map_or(raw.place, |written| written.place);
            let help =
                format!("`min_ttl` is {}, `max_ttl` {}", shown_duration(dns.min_ttl), shown_duration(dns.max_ttl));
            self.findings.error("contradiction", place, "`dns.min_ttl` is longer than `dns.max_ttl`").help(help);
        }
        dns
    }

    /// An IP address, with or without a port.
    fn dns_server(&mut self, written: &At<String>) -> Option<SocketAddr> {
        let whole = written.value.parse::<SocketAddr>().ok().filter(|addr| addr.port() > 0);
        let addr = whole.or_else(|| Some(SocketAddr::new(written.value.parse::<IpAddr>().ok()?, PORT)));
        if addr.is_none() {
            let message = format!("{} is not a DNS server", written.shown());
            let help = "write its IP address, with a port if that is not 53: \"10.0.0.2\", \"10.0.0.2:5353\"";
            self.findings.error("bad-address", written.place, message).help(help);
        }
        addr
    }
}
