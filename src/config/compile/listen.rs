//! Addresses to listen on: clients', the admin API's and the metrics'; their tokens.

use super::Checker;
use crate::config::cursor::word;
use crate::config::model::{Admin, AdminAddr, Listener, Role, Token};
use crate::config::raw;
use crate::config::source::{At, Place};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The admin API's address when the file names none.
const ADMIN_LISTEN: &str = "127.0.0.1:9901";

impl Checker<'_> {
    pub fn listeners(&mut self, raw: &[raw::Listener], trusts_somebody: bool) -> Option<Vec<Listener>> {
        self.unique("listener", raw.iter().filter_map(|listener| listener.name.as_ref()));
        let listeners: Vec<_> = raw.iter().map(|listener| self.listener(listener, trusts_somebody)).collect();
        listeners.into_iter().collect()
    }

    fn listener(&mut self, raw: &raw::Listener, trusts_somebody: bool) -> Option<Listener> {
        if let Some(name) = &raw.name {
            self.name("listener", name);
        }
        let bind = self.bind(raw);
        let proxy_protocol = self.accepts(raw, trusts_somebody);
        let tls = raw.tls.as_ref().map(|tls| self.listener_tls(tls));
        Some(Listener {
            name: raw.name.as_ref()?.value.clone(),
            bind: bind?,
            proxy_protocol: proxy_protocol?,
            max_connections: raw.max_connections.as_ref().and_then(|most| usize::try_from(most.value).ok()),
            max_connections_per_client: raw
                .max_connections_per_client
                .as_ref()
                .and_then(|most| u32::try_from(most.value).ok()),
            tls: match tls {
                Some(tls) => Some(tls?),
                None => None,
            },
        })
    }

    pub fn address(&mut self, written: &At<String>) -> Option<SocketAddr> {
        if let Ok(address) = written.value.parse() {
            return Some(address);
        }
        let message = format!("{} is not an IP address and a port", written.shown());
        let help = match written.value.as_str() {
            _ if written.is_filled() => "write an address such as \"127.0.0.1:8080\" or \"[::1]:8080\"".to_owned(),
            port if port.parse::<u16>().is_ok() => format!("write \"0.0.0.0:{port}\" for all IPv4 addresses"),
            port if port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()) => {
                format!("write \"0.0.0.0{port}\" for all IPv4 addresses, \"[::]{port}\" for IPv6")
            }
            name if name.starts_with("localhost:") => format!("write \"{}\"", name.replace("localhost", "127.0.0.1")),
            _ => "write \"127.0.0.1:8080\" or \"[::1]:8080\"".to_owned(),
        };
        self.findings.error("bad-address", written.place, message).help(help);
        None
    }

    pub fn admin(&mut self, raw: Option<&raw::Admin>) -> Option<Admin> {
        let mut admin = Admin { listen: Vec::new(), metrics: None, tokens: Vec::new() };
        let Some(raw) = raw else {
            admin.listen.push(AdminAddr::Tcp(ADMIN_LISTEN.parse().expect("a constant address")));
            return Some(admin);
        };
        self.unique("token", raw.tokens.iter().filter_map(|token| token.name.as_ref()));
        let tokens: Vec<_> = raw.tokens.iter().map(|token| self.token(token)).collect();
        match &raw.listen {
            None => admin.listen.push(AdminAddr::Tcp(ADMIN_LISTEN.parse().expect("a constant address"))),
            Some(list) => {
                for written in &list.value {
                    admin.listen.extend(self.admin_address(written, raw.tokens.is_empty()));
                }
            }
        }
        if let Some(written) = &raw.metrics {
            let address = self.address(written)?;
            if !address.ip().is_loopback() {
                let message = format!("metrics are readable by everyone who reaches {address}");
                self.findings.warning("open-metrics", written.place, message);
            }
            admin.metrics = Some(address);
        }
        admin.tokens = tokens.into_iter().collect::<Option<_>>()?;
        Some(admin)
    }

    fn admin_address(&mut self, written: &At<String>, open: bool) -> Option<AdminAddr> {
        if written.value.starts_with("unix:") {
            return self.socket_path(written).map(AdminAddr::Unix);
        }
        let address = self.address(written)?;
        if open && !address.ip().is_loopback() {
            let message = format!("everyone who reaches {address} could change the traffic: there is no token");
            let help = "add an [[admin.token]] (`weir token` makes one), or listen on 127.0.0.1";
            self.findings.error("open-admin", written.place, message).help(help);
        }
        Some(AdminAddr::Tcp(address))
    }

    fn token(&mut self, raw: &raw::Token) -> Option<Token> {
        if let Some(name) = &raw.name {
            self.name("token", name);
        }
        let roles = ["viewer", "operator", "admin"];
        let role = raw.role.as_ref().and_then(|role| word(self.findings, role, "admin.token.role", &roles));
        let hash = raw.hash.as_ref().and_then(|hash| {
            let digest = hash.value.strip_prefix("sha256:").and_then(digest);
            if digest.is_none() {
                // Without the value: who confuses token and hash must not find the token in a log.
                let message = "the token's hash is not \"sha256:\" and 64 hexadecimal digits";
                self.findings.error("bad-token", hash.place, message).help("`weir token` makes a token and its hash");
            }
            digest
        });
        let role = match role? {
            0 => Role::Viewer,
            1 => Role::Operator,
            _ => Role::Admin,
        };
        Some(Token { name: raw.name.as_ref()?.value.clone(), role, sha256: hash? })
    }

    /// Reports every address that would take what an earlier one has.
    pub fn ports(&mut self, listeners: &[raw::Listener], admin: Option<&raw::Admin>) {
        let mut taken: BTreeMap<u16, Vec<(SocketAddr, Place, &str)>> = BTreeMap::new();
        let mut sockets: BTreeMap<&str, Place> = BTreeMap::new();
        let binds = listeners.iter().filter_map(|listener| listener.bind.as_ref()).map(|bind| (bind, "a listener"));
        let listen = admin.and_then(|admin| admin.listen.as_ref()).into_iter().flat_map(|list| &list.value);
        let metrics = admin.and_then(|admin| admin.metrics.as_ref());
        let default = match admin {
            Some(raw::Admin { listen: Some(_), .. }) => None,
            _ => Some(At::new(ADMIN_LISTEN.to_owned(), admin.map_or(super::TOP, |admin| admin.place))),
        };
        let own = default.iter().map(|address| (address, "admin.listen (by default)"));
        let own = own.chain(listen.map(|address| (address, "admin.listen")));
        for (written, owner) in binds.chain(own).chain(metrics.map(|address| (address, "admin.metrics"))) {
            if written.value.starts_with("unix:") || written.value.starts_with("fd:") {
                if let Some(first) = sockets.insert(&written.value, written.place) {
                    let message = format!("{} is listed twice", written.shown());
                    self.findings.error("port-taken", written.place, message).other(first);
                }
                continue;
            }
            let Ok(address) = written.value.parse::<SocketAddr>() else { continue };
            let earlier = taken.entry(address.port()).or_default();
            if let Some((other, place, who)) = earlier.iter().find(|(other, ..)| overlap(*other, address)) {
                let message = format!("{address} is taken already: {who} has {other}");
                let finding = self.findings.error("port-taken", written.place, message);
                finding.other(*place);
                if owner == "admin.metrics" && *who != "a listener" {
                    finding.help("leave `metrics` out: admin.listen serves them as well");
                }
            }
            earlier.push((address, written.place, owner));
        }
    }
}

/// Whether two addresses cannot be bound together. `[::]` takes IPv4 as well; port 0 is a new port each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let all = |address: SocketAddr| address.ip().is_unspecified();
    let covers = |a: SocketAddr, b: SocketAddr| all(a) && (a.is_ipv6() || b.is_ipv4());
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> = hex.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits: [u8; 64] = digits?.try_into().ok()?;
    Some(std::array::from_fn(|index| digits[2 * index] << 4 | digits[2 * index + 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_overlap() {
        let overlap = |a: &str, b: &str| {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(super::overlap(a, b), super::overlap(b, a));
            super::overlap(a, b)
        };
        assert!(overlap("127.0.0.1:80", "127.0.0.1:80"));
        assert!(overlap("0.0.0.0:80", "127.0.0.1:80"));
        assert!(overlap("[::]:80", "127.0.0.1:80"));
        assert!(overlap("[::]:80", "0.0.0.0:80"));
        assert!(overlap("[::]:80", "[::1]:80"));
        assert!(!overlap("0.0.0.0:80", "[::1]:80"));
        assert!(!overlap("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!overlap("127.0.0.1:80", "127.0.0.1:81"));
        assert!(!overlap("0.0.0.0:0", "0.0.0.0:0"));
    }

    #[test]
    fn digests_are_64_digits() {
        let text = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let bytes = digest(text).unwrap();
        assert_eq!((bytes[0], bytes[31]), (0x9f, 0x08));
        assert_eq!(digest(&text[1..]), None);
        assert_eq!(digest(&text.replace('f', "g")), None);
    }
}
