//! Pools and the addresses of their targets.

use super::Checker;
use crate::config::model::{PoolConfig, SRV, TargetAddr};
use crate::config::raw;
use crate::config::source::At;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_CONNECTIONS: usize = 1024;
const MAX_PENDING: usize = 1024;

impl Checker<'_> {
    pub fn pools(&mut self, raw: &[raw::Pool]) -> Option<Vec<PoolConfig>> {
        self.unique("pool", raw.iter().map(|pool| &pool.name));
        let pools: Vec<_> = raw.iter().map(|pool| self.pool(pool)).collect();
        pools.into_iter().collect()
    }

    fn pool(&mut self, raw: &raw::Pool) -> Option<PoolConfig> {
        self.name("pool", &raw.name);
        let targets = raw.targets.as_ref().and_then(|targets| self.targets(&raw.name.value, targets));
        let most = |value: &Option<At<u64>>| value.as_ref().and_then(|most| usize::try_from(most.value).ok());
        let send_proxy = self.sends(raw);
        let health = raw.health.as_ref().map(|health| self.health(health));
        let balance = self.balance(raw);
        let outlier = raw.outlier.as_ref().map(|outlier| self.outlier(&raw.name.value, outlier));
        let tls =
            raw.tls.as_ref().map(|tls| self.pool_tls(&raw.name.value, tls, targets.as_deref().unwrap_or_default()));
        let after = |value: &Option<At<Duration>>, default| value.as_ref().map_or(default, |timeout| timeout.value);
        Some(PoolConfig {
            name: raw.name.value.clone(),
            targets: targets?,
            weights: Self::target_weights(raw),
            balance: balance?,
            slow_start: after(&raw.slow_start, Duration::ZERO),
            version: raw.version.as_ref().map(|version| version.value.clone()),
            connect_timeout: after(&raw.connect_timeout, CONNECT_TIMEOUT),
            http2: raw.http2,
            max_connections: most(&raw.max_connections).unwrap_or(MAX_CONNECTIONS),
            max_requests: most(&raw.max_requests),
            max_pending: most(&raw.max_pending).unwrap_or(MAX_PENDING),
            queue_timeout: after(&raw.queue_timeout, QUEUE_TIMEOUT),
            tls: match tls {
                Some(tls) => Some(tls?),
                None => None,
            },
            send_proxy: send_proxy?,
            health: match health {
                Some(health) => Some(health?),
                None => None,
            },
            outlier: match outlier {
                Some(outlier) => Some(outlier?),
                None => None,
            },
        })
    }

    fn targets(&mut self, pool: &str, targets: &At<Vec<raw::Target>>) -> Option<Vec<TargetAddr>> {
        if targets.value.is_empty() {
            let help = "write targets = [\"127.0.0.1:9000\"]";
            self.findings.error("no-target", targets.place, format!("pool.{pool} has no target")).help(help);
        }
        let mut found = Vec::new();
        let mut first = HashMap::new();
        for raw::Target { addr: written, .. } in &targets.value {
            let parsed = match written.value.starts_with("unix:") {
                true => match self.socket_path(written) {
                    Some(path) => Ok(TargetAddr::Unix(path)),
                    None => continue,
                },
                false => target(&written.value),
            };
            let target = match parsed {
                Ok(target) => target,
                Err(help) => {
                    let help = if written.is_filled() { "write \"host:port\"".to_owned() } else { help };
                    let message = format!("{} is not a target", written.shown());
                    self.findings.error("bad-target", written.place, message).help(help);
                    continue;
                }
            };
            if let Some(place) = first.insert(target.clone(), written.place) {
                let message = format!("{} is listed twice in pool.{pool}", written.shown());
                self.findings.warning("duplicate-target", written.place, message).other(place);
            }
            found.push(target);
        }
        (found.len() == targets.value.len()).then_some(found)
    }
}

/// `127.0.0.1:80`, `[::1]:80`, `name:80` or `srv:_http._tcp.name`; otherwise the advice to give.
fn target(text: &str) -> Result<TargetAddr, String> {
    if let Some(service) = text.strip_prefix(SRV) {
        let whole = service.split('.').count() > 2 && host_name(service);
        let help = "write \"srv:_http._tcp.shop.internal\": its records name the ports".to_owned();
        return if whole { Ok(TargetAddr::Srv(service.to_ascii_lowercase())) } else { Err(help) };
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { Err("port 0 is no port".to_owned()) } else { Ok(TargetAddr::Ip(address)) };
    }
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split('/').next().unwrap_or_default();
        return Err(format!("leave out the scheme and the path: \"{}\"", host.escape_debug()));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("write \"[{text}]:80\""));
    }
    if text.parse::<IpAddr>().is_ok() || (!text.contains(':') && host_name(text)) {
        return Err(format!("the port is missing: \"{text}:80\""));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("write \"host:port\"".to_owned());
    };
    let port = match port.parse() {
        Ok(port) if port > 0 => port,
        _ => return Err("a port is a number from 1 to 65535".to_owned()),
    };
    if !host_name(host) {
        return Err("the host is neither an IP address nor a DNS name".to_owned());
    }
    Ok(TargetAddr::Name { host: host.to_ascii_lowercase(), port })
}

/// Letters, digits, `-` and `_` in labels of 1 to 63; the last one is not a number, as in a mistyped IP address.
fn host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let edge = label.starts_with('-') || label.ends_with('-');
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        (1..=63).contains(&label.len()) && plain && !edge
    };
    let last_is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(label) && !last_is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_as_written() {
        assert_eq!(target("127.0.0.1:80"), Ok(TargetAddr::Ip("127.0.0.1:80".parse().unwrap())));
        assert_eq!(target("[::1]:80"), Ok(TargetAddr::Ip("[::1]:80".parse().unwrap())));
        for text in ["shop.Internal:8080", "shop_v1:80", "a.b.:1"] {
            assert!(matches!(target(text), Ok(TargetAddr::Name { .. })), "{text}");
        }
        let service = "srv:_Http._tcp.shop.internal";
        assert_eq!(target(service), Ok(TargetAddr::Srv("_http._tcp.shop.internal".to_owned())));
        assert_eq!(target(service).unwrap().to_string(), "srv:_http._tcp.shop.internal");
        for (text, help) in [
            ("srv:shop:80", "write \"srv:_http._tcp.shop.internal\": its records name the ports"),
            ("srv:", "write \"srv:_http._tcp.shop.internal\": its records name the ports"),
            ("", "write \"host:port\""),
            ("shop", "the port is missing: \"shop:80\""),
            ("127.0.0.1", "the port is missing: \"127.0.0.1:80\""),
            ("::1", "write \"[::1]:80\""),
            ("http://shop:80/x", "leave out the scheme and the path: \"shop:80\""),
            ("127.0.0.1:0", "port 0 is no port"),
            ("shop:65536", "a port is a number from 1 to 65535"),
            ("shop:", "a port is a number from 1 to 65535"),
            ("127.0.0.300:80", "the host is neither an IP address nor a DNS name"),
            ("a b:80", "the host is neither an IP address nor a DNS name"),
            ("-a:80", "the host is neither an IP address nor a DNS name"),
            (":80", "the host is neither an IP address nor a DNS name"),
        ] {
            assert_eq!(target(text), Err(help.to_owned()), "{text}");
        }
    }
}
