//! The configuration in force as a document: every default filled in, names resolved, live weights beside the file's.
//!
//! It has the file's own keys, so that whoever knows the file can read it. Structs are taken apart without `..`: a key
//! that is added to the model does not compile before it is shown here. Secrets are not shown: tokens' hashes, and
//! values that a variable or a file filled in, which stand as they are written.

mod filters;
mod rollout;

use super::documents::weights;
use crate::config::provenance::Provenance;
use crate::config::{
    Admin, AdminAddr, Bind, CertFiles, ClientCerts, Config, Dns, Listener, ListenerTls, Log, OnEmpty, PoolConfig,
    PoolTls, Role, RouteConfig, Server, TargetAddr, Token, shown_duration,
};
use crate::control::command::RouteView;
use crate::control::ground::Ground;
use crate::limits::Limits;
use crate::net::proxy_protocol::{Accepts, Version};
use crate::routing::balance::{Balance, HashKey};
use crate::routing::matcher::{HostMatch, PathMatch, RequestMatch};
use crate::routing::mirror::Mirror;
use crate::routing::networks;
use crate::routing::outlier::Outlier;
use crate::routing::recovery::{Rescue, Retry};
use crate::routing::redact::Redact;
use crate::routing::rule::{Condition, Outcome, Rule, Subject, Test};
use crate::routing::sticky::{Fallback, Sticky};
use serde_json::{Map, Value, json};
use std::path::Path;

mod health;

const MASKED: &str = "***";

/// The whole configuration.
pub fn effective(ground: &Ground) -> Value {
    let Config {
        path,
        server: at,
        limits: bounds,
        admin: api,
        log: logging,
        dns: lookups,
        listeners,
        pools,
        routes,
        provenance,
        lists: _,
    } = &*ground.config;
    let included = provenance.files.iter().skip(1).map(|file| shown_path(&file.path));
    let views: Vec<RouteView> = ground.views().collect();
    let routes = routes.iter().zip(&views).map(|(one, view)| route(one, view, pools, provenance));
    json!({
        "file": shown_path(path),
        "included": included.collect::<Vec<_>>(),
        "server": server(at),
        "limits": limits(bounds),
        "admin": admin(api),
        "log": log(logging),
        "dns": dns(lookups),
        "listener": listeners.iter().map(listener).collect::<Vec<_>>(),
        "pool": pools.iter().map(|one| (one.name.clone(), pool(one, provenance))).collect::<Map<_, _>>(),
        "route": routes.collect::<Vec<_>>(),
    })
}

fn server(server: &Server) -> Value {
    let Server { workers, drain_timeout, trusted_proxies, state_dir } = server;
    json!({
        "workers": workers.map_or(json!("auto"), |workers| json!(workers)),
        "drain_timeout": shown_duration(*drain_timeout),
        "trusted_proxies": trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "state_dir": state_dir.as_deref().map(shown_path),
    })
}

fn limits(limits: &Limits) -> Value {
    let Limits {
        max_connections,
        max_header_bytes,
        max_headers,
        max_body,
        header_timeout,
        handshake_timeout,
        max_handshakes,
        idle_timeout,
        body_idle_timeout,
        tunnel_idle_timeout,
        max_streams,
    } = limits;
    json!({
        "max_connections": max_connections,
        "max_header_bytes": max_header_bytes,
        "max_headers": max_headers,
        "max_body": max_body.map_or(json!("unlimited"), |bytes| json!(bytes)),
        "header_timeout": shown_duration(*header_timeout),
        "handshake_timeout": shown_duration(*handshake_timeout),
        "max_handshakes": max_handshakes,
        "idle_timeout": shown_duration(*idle_timeout),
        "body_idle_timeout": shown_duration(*body_idle_timeout),
        "tunnel_idle_timeout": shown_duration(*tunnel_idle_timeout),
        "max_streams": max_streams,
    })
}

fn admin(admin: &Admin) -> Value {
    let Admin { listen, metrics, tokens } = admin;
    let addr = |addr: &AdminAddr| match addr {
        AdminAddr::Tcp(addr) => addr.to_string(),
        AdminAddr::Unix(path) => format!("unix:{}", path.display()),
    };
    json!({
        "listen": listen.iter().map(addr).collect::<Vec<_>>(),
        "metrics": metrics,
        "token": tokens.iter().map(token).collect::<Vec<_>>(),
    })
}

fn token(token: &Token) -> Value {
    let Token { name, role, sha256: _ } = token;
    let role = match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    };
    json!({"name": name, "role": role, "hash": MASKED})
}

fn log(log: &Log) -> Value {
    let Log { level, json } = log;
    json!({"level": level, "format": if *json { "json" } else { "text" }, "access": {"output": "off"}})
}

fn listener(listener: &Listener) -> Value {
    let Listener { name, bind, proxy_protocol, max_connections, max_connections_per_client, tls } = listener;
    let mode = if let Bind::Unix { mode, .. } = bind { Some(format!("{mode:04o}")) } else { None };
    json!({
        "name": name,
        "bind": bind.to_string(),
        "mode": mode,
        "max_connections": max_connections,
        "max_connections_per_client": max_connections_per_client,
        "proxy_protocol": proxy_protocol.map_or("off", Accepts::word),
        "tls": tls.as_ref().map(listener_tls),
    })
}

fn listener_tls(tls: &ListenerTls) -> Value {
    let ListenerTls { certs, tls12, h2, http1, clients } = tls;
    let alpn = [(h2, "h2"), (http1, "http/1.1")].into_iter().filter(|(spoken, _)| **spoken).map(|(_, name)| name);
    json!({
        "certs": certs.iter().map(cert_files).collect::<Vec<_>>(),
        "min_version": if *tls12 { "1.2" } else { "1.3" },
        "alpn": alpn.collect::<Vec<_>>(),
        "client": clients.as_ref().map(client_certs),
    })
}

fn cert_files(files: &CertFiles) -> Value {
    let CertFiles { cert, key, ocsp } = files;
    json!({"cert": shown_path(cert), "key": shown_path(key), "ocsp": ocsp.as_deref().map(shown_path)})
}

fn client_certs(certs: &ClientCerts) -> Value {
    let ClientCerts { ca, required, subject_header, cert_header } = certs;
    json!({
        "ca": shown_path(ca),
        "auth": if *required { "require" } else { "request" },
        "subject_header": subject_header.as_ref().map(|name| name.as_str()),
        "cert_header": cert_header.as_ref().map(|name| name.as_str()),
    })
}

fn pool(pool: &PoolConfig, provenance: &Provenance) -> Value {
    let PoolConfig {
        name: _,
        targets,
        weights,
        balance,
        slow_start,
        version,
        connect_timeout,
        http2,
        max_connections,
        max_requests,
        max_pending,
        queue_timeout,
        tls,
        send_proxy,
        health,
        outlier: ejects,
    } = pool;
    let target = |(target, weight): (&TargetAddr, &u32)| match weight {
        1 => json!(target.to_string()),
        _ => json!({"addr": target.to_string(), "weight": weight}),
    };
    let hash_key = match balance {
        Balance::Hash(HashKey(keys)) => {
            let keys = keys.iter().map(|key| provenance.shown(&key.to_string()).to_owned());
            json!(keys.collect::<Vec<_>>())
        }
        Balance::P2c | Balance::RoundRobin | Balance::LeastConn => Value::Null,
    };
    json!({
        "targets": targets.iter().zip(weights).map(target).collect::<Vec<_>>(),
        "version": version,
        "balance": balance.word(),
        "hash_key": hash_key,
        "protocol": if *http2 { "h2" } else { "http/1.1" },
        "tls": tls.as_ref().map(pool_tls),
        "connect_timeout": shown_duration(*connect_timeout),
        "max_connections": max_connections,
        "max_requests": max_requests,
        "max_pending": max_pending,
        "queue_timeout": shown_duration(*queue_timeout),
        "slow_start": shown_duration(*slow_start),
        "send_proxy": send_proxy.map_or("off", Version::word),
        "health": health.as_ref().map(health::check),
        "outlier": ejects.as_ref().map(outlier),
    })
}

fn outlier(outlier: &Outlier) -> Value {
    let Outlier {
        consecutive_5xx,
        consecutive_failures,
        success_rate_gap,
        interval,
        min_requests,
        eject_for,
        max_eject_for,
        max_ejected,
    } = outlier;
    let in_a_row = |count: &Option<u32>| count.map_or(json!("off"), |count| json!(count));
    json!({
        "consecutive_5xx": in_a_row(consecutive_5xx),
        "consecutive_failures": in_a_row(consecutive_failures),
        "success_rate_gap": success_rate_gap.map_or("off".to_owned(), |gap| gap.to_string()),
        "interval": shown_duration(*interval),
        "min_requests": min_requests,
        "eject_for": shown_duration(*eject_for),
        "max_eject_for": shown_duration(*max_eject_for),
        "max_ejected": max_ejected.to_string(),
    })
}

fn dns(dns: &Dns) -> Value {
    let Dns { servers, min_ttl, max_ttl, timeout } = dns;
    let servers = servers.iter().map(ToString::to_string);
    json!({
        "servers": Some(servers.collect::<Vec<_>>()).filter(|servers| !servers.is_empty()),
        "min_ttl": shown_duration(*min_ttl),
        "max_ttl": shown_duration(*max_ttl),
        "timeout": shown_duration(*timeout),
    })
}

fn pool_tls(tls: &PoolTls) -> Value {
    let PoolTls { ca, server_name, client, verify } = tls;
    json!({
        "ca": ca.as_deref().map(shown_path),
        "server_name": server_name,
        "client": client.as_ref().map(cert_files),
        "verify": verify,
    })
}

fn route(config: &RouteConfig, view: &RouteView, pools: &[PoolConfig], provenance: &Provenance) -> Value {
    let RouteConfig {
        name,
        matches,
        variants,
        weights: file_weights,
        rules,
        sticky: keys,
        timeout,
        request_timeout,
        close_moved_within,
        on_empty,
        preview,
        filters: own_filters,
        request_headers,
        response_headers,
        salt,
        mirror,
        recovery,
        rollout: releases,
    } = config;
    let variants = variants.iter().map(|one| (one.name.clone(), json!(one.pool.map(|pool| &pools[pool].name))));
    let mut document = json!({
        "name": name,
        "file": place(view),
        "match": request_match(matches, provenance),
        "variants": variants.collect::<Map<_, _>>(),
        "weights": weights(config, file_weights),
        "live": {"generation": view.live.generation, "weights": weights(config, &view.live.weights)},
        "sticky": keys.as_ref().map(|keys| sticky(keys, (salt != name).then_some(salt), provenance)),
        "timeout": shown_duration(*timeout),
        "request_timeout": request_timeout.map(shown_duration),
        "retry": recovery.as_ref().and_then(|recovery| recovery.retry.as_ref()).map(retry),
        "rescue": recovery.as_ref().and_then(|recovery| recovery.rescue.as_ref()).map(rescue),
        "mirror": mirror.as_ref().map(|mirror| self::mirror(mirror, pools)),
        "request_headers": request_headers.as_deref().map(filters::header_edits),
        "response_headers": response_headers.as_deref().map(filters::header_edits),
        "preview": preview.as_ref().map(|when| condition(when, provenance)),
        "on_empty": match on_empty {
            OnEmpty::Fail => "fail",
            OnEmpty::Baseline => "stable",
        },
        "on_move": close_moved_within.map(|time| json!({"close_within": shown_duration(time)})),
        "rollout": releases.as_ref().map(|releases| rollout::rollout(releases, config, provenance)),
        "rule": rules.iter().map(|one| rule(one, config, provenance)).collect::<Vec<_>>(),
    });
    for (key, value) in own_filters.iter().flat_map(|own| filters::filters(own, provenance)) {
        document[key] = value;
    }
    document
}

fn retry(retry: &Retry) -> Value {
    let Retry { attempts, on, methods, budget, timeout } = retry;
    json!({
        "attempts": attempts,
        "on": on.words(),
        "methods": methods.iter().map(|method| method.as_str()).collect::<Vec<_>>(),
        "budget": budget.to_string(),
        "timeout": timeout.map(shown_duration),
    })
}

fn rescue(rescue: &Rescue) -> Value {
    let Rescue { on, budget, forced, header } = rescue;
    let header = header.as_ref().map(|name| name.as_str());
    json!({"on": on.words(), "budget": budget.to_string(), "forced": forced, "header": header})
}

fn mirror(mirror: &Mirror, pools: &[PoolConfig]) -> Value {
    let Mirror { pool, percent, max_body, timeout } = mirror;
    json!({
        "pool": pools[*pool].name,
        "percent": crate::control::history::percent(*percent),
        "max_body": max_body,
        "timeout": shown_duration(*timeout),
    })
}

/// Where a route's weights, or the route without any, are written.
pub fn place(view: &RouteView) -> Value {
    let place = view.config.provenance.route(view.index);
    json!(place.map(|(path, line)| json!({"path": shown_path(path), "line": line})))
}

fn request_match(matches: &RequestMatch, provenance: &Provenance) -> Value {
    let RequestMatch { scheme, host, path, methods, conditions } = matches;
    let (host_key, host) = match host {
        host @ HostMatch::Regex(_) => ("host_regex", host.told(provenance)),
        host => ("host", host.told(provenance)),
    };
    let (key, path) = match path {
        PathMatch::Prefix(prefix) if prefix.is_empty() => ("path", "/"),
        PathMatch::Prefix(prefix) => ("path", provenance.shown(prefix)),
        PathMatch::Exact(path) => ("path_exact", provenance.shown(path)),
        PathMatch::Regex(pattern) => ("path_regex", provenance.shown(pattern.as_str())),
    };
    let of = |wanted: fn(&Subject) -> Option<&str>| -> Vec<Value> {
        let named = conditions.iter().filter_map(|(subject, test)| Some((wanted(subject)?, test)));
        named
            .map(|(name, test)| {
                let (test, value) = self::test(test, provenance);
                json!({"name": provenance.shown(name), test: value})
            })
            .collect()
    };
    let header = of(|subject| if let Subject::Header(name) = subject { Some(name.as_str()) } else { None });
    let query = of(|subject| if let Subject::Query(name) = subject { Some(name.as_str()) } else { None });
    let mut document = json!({host_key: host, key: path});
    if let Some(scheme) = scheme {
        document["scheme"] = json!(scheme.name());
    }
    if !methods.is_empty() {
        document["method"] = json!(methods.iter().map(|method| provenance.shown(method.as_str())).collect::<Vec<_>>());
    }
    for (key, conditions) in [("header", header), ("query", query)] {
        if !conditions.is_empty() {
            document[key] = json!(conditions);
        }
    }
    document
}

fn sticky(sticky: &Sticky, group: Option<&String>, provenance: &Provenance) -> Value {
    let Sticky { keys, fallback } = sticky;
    let keys = keys.iter().map(|key| provenance.shown(&key.to_string()).to_owned());
    let mut document = json!({"key": keys.collect::<Vec<_>>()});
    match fallback {
        Fallback::Cookie { name, ttl } => {
            document["fallback"] = json!("cookie");
            document["cookie"] = json!(provenance.shown(name));
            document["ttl"] = json!(shown_duration(*ttl));
        }
        Fallback::Ip => document["fallback"] = json!("ip"),
        Fallback::Random => document["fallback"] = json!("random"),
    }
    if let Some(group) = group {
        document["group"] = json!(provenance.shown(group));
    }
    document
}

fn rule(rule: &Rule, route: &RouteConfig, provenance: &Provenance) -> Value {
    let Rule { name, when, then } = rule;
    let mut document = json!({"name": name, "when": condition(when, provenance)});
    match then {
        Outcome::Variant(variant) => document["variant"] = json!(route.variants[*variant].name),
        Outcome::Split(assignment) => document["weights"] = weights(route, &assignment.weights()),
    }
    document
}

fn condition(condition: &Condition, provenance: &Provenance) -> Value {
    let all = |conditions: &[Condition]| -> Vec<Value> {
        conditions.iter().map(|one| self::condition(one, provenance)).collect()
    };
    match condition {
        Condition::All(conditions) => json!({"all": all(conditions)}),
        Condition::Any(conditions) => json!({"any": all(conditions)}),
        Condition::Ip(networks) => {
            json!({"ip": networks.written().iter().map(|one| networks::told(one, provenance)).collect::<Vec<_>>()})
        }
        Condition::Not(inner) => json!({"not": self::condition(inner, provenance)}),
        Condition::Is(Subject::Method, Test::Equals(name)) => json!({"method": provenance.shown(name)}),
        Condition::Is(Subject::Method, Test::In(names)) => {
            json!({"method": names.iter().map(|name| provenance.shown(name)).collect::<Vec<_>>()})
        }
        Condition::Is(subject, test) => {
            let (key, name) = match subject {
                Subject::Header(name) => ("header", name.as_str()),
                Subject::Cookie(name) => ("cookie", name.as_str()),
                Subject::Query(name) => ("query", name.as_str()),
                Subject::Method => ("method", ""),
            };
            let (test, value) = self::test(test, provenance);
            json!({key: provenance.shown(name), test: value})
        }
    }
}

fn test(test: &Test, provenance: &Provenance) -> (&'static str, Value) {
    let text = |value: &str| json!(provenance.shown(value));
    match test {
        Test::Present(present) => ("present", json!(present)),
        Test::Equals(value) => ("equals", text(value)),
        Test::In(values) => ("in", values.iter().map(|value| text(value)).collect()),
        Test::InList(values) => ("in", values.iter().map(|value| text(&String::from_utf8_lossy(value))).collect()),
        Test::InFile(file) => ("in_file", json!(&*file.name)),
        Test::Prefix(value) => ("prefix", text(value)),
        Test::Suffix(value) => ("suffix", text(value)),
        Test::Regex(regex) => ("regex", text(regex.as_str())),
    }
}

fn shown_path(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config::load;
    use crate::control::fixtures::cause;
    use crate::control::ground::Addresses;
    use crate::control::ground::Past;

    /// Something of every table.
    const FILE: &str = r#"
[[listener]]
name = "http"
bind = "127.0.0.1:8080"
[admin]
listen = ["127.0.0.1:9901", "unix:admin.sock"]
[pool.v1]
targets = ["127.0.0.1:9101", "Shop.internal:80"]
version = "1.41.0"
[pool.v2]
targets = ["[::1]:9102", { addr = "srv:_http._tcp.shop.internal", weight = 3 }]
queue_timeout = "0s"
balance = "hash"
hash_key = ["header:x-id", "ip"]
slow_start = "30s"
[dns]
servers = ["10.0.0.2"]
max_ttl = "1m"
[[route]]
name = "shop"
match = { scheme = "https", host = "*.Shop.example", path = "/v1/", header = { x-id = { in_file = "key" } } }
rewrite = { prefix = "/api", host = "api.internal" }
request_headers = { set = { x-key = "${file:key} ${variant}" }, add = { via = ["a", "b"] }, remove = ["x-b"] }
response_headers = { remove = ["server"] }
variants = { stable = "v1", canary = "v2" }
weights = { stable = 99.999, canary = 0.001 }
sticky = { key = ["header:X-User-Id", "cookie:uid"], fallback = "cookie" }
rule = [
  { name = "a", when = { header = "x-canary", equals = "${file:key}" }, variant = "canary" },
  { name = "b", when = { all = [{ method = ["GET", "HEAD"] }, { not = { cookie = "c", present = true } }] }, weights = { stable = 50, canary = 50 } },
  { name = "c", when = { any = [{ query = "q", regex = "^a+$" }, { method = "PUT" }, { query = "q", in = ["1", "2"] }] }, variant = "stable" },
  { name = "d", when = { any = [{ header = "h", prefix = "p" }, { header = "h", suffix = "s" }] }, variant = "stable" },
]
[[route]]
name = "rest"
match = { path_exact = "/x" }
variants = { only = "v1" }
"#;

    pub fn ground(folder: &Path, text: &str) -> Ground {
        let path = folder.join("weir.toml");
        std::fs::write(folder.join("key"), "s3cret\n").unwrap();
        std::fs::write(&path, text).unwrap();
        let loaded = load(&path, &|_| None);
        let config = loaded.config.unwrap_or_else(|| panic!("{}\n{text}", loaded.report.render(false)));
        Ground::start(config, Past::default(), Addresses::new(), 1, &cause()).0
    }

    /// Inline TOML; what is null is left out, as in a file.
    fn toml(value: &Value) -> String {
        match value {
            Value::Object(table) => {
                let entries = table.iter().filter(|(_, value)| !value.is_null());
                let entries: Vec<String> =
                    entries.map(|(key, value)| format!("{} = {}", json!(key), toml(value))).collect();
                format!("{{ {} }}", entries.join(", "))
            }
            Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
            other => other.to_string(),
        }
    }

    #[test]
    fn the_document_is_a_configuration_with_every_default() {
        let folder = tempfile::tempdir().unwrap();
        let document = effective(&ground(folder.path(), FILE));
        let mut written = document.clone();
        let top = written.as_object_mut().unwrap();
        top.remove("file");
        top.remove("included");
        for route in top["route"].as_array_mut().unwrap() {
            let route = route.as_object_mut().unwrap();
            route.remove("file");
            route.remove("live");
        }
        let text: String = top.iter().map(|(key, value)| format!("{key} = {}\n", toml(value))).collect();
        let mut again = effective(&ground(folder.path(), &text));
        // Where the weights are written is another place now.
        for (route, was) in again["route"].as_array_mut().unwrap().iter_mut().zip(document["route"].as_array().unwrap())
        {
            route["file"] = was["file"].clone();
        }
        assert_eq!(again, document);
    }

    #[test]
    fn secrets_are_masked_and_live_weights_stand_beside_the_file_s() {
        let folder = tempfile::tempdir().unwrap();
        let hash = "ab".repeat(32);
        let token = format!("\n[[admin.token]]\nname = \"ci\"\nrole = \"operator\"\nhash = \"sha256:{hash}\"\n");
        let document = effective(&ground(folder.path(), &format!("{FILE}{token}")));
        let text = document.to_string();
        assert!(!text.contains("s3cret") && !text.contains(&hash), "{text}");
        let shop = &document["route"][0];
        assert_eq!(shop["rule"][0]["when"]["equals"], "${file:key}");
        assert_eq!(document["admin"]["token"], json!([{"name": "ci", "role": "operator", "hash": "***"}]));
        assert_eq!(shop["file"], json!({"path": folder.path().join("weir.toml"), "line": 26}));
        assert_eq!(shop["weights"], json!({"stable": 99.999, "canary": 0.001}));
        assert_eq!(shop["live"], json!({"generation": 1, "weights": {"stable": 99.999, "canary": 0.001}}));
        assert_eq!(
            shop["match"],
            json!({"scheme": "https", "host": "*.shop.example", "path": "/v1", "header": [{"name": "x-id", "in_file": "key"}]})
        );
        assert_eq!((&shop["timeout"], &shop["sticky"]["cookie"]), (&json!("1m"), &json!("weir_shop")));
        assert_eq!(
            (&document["server"]["workers"], &document["limits"]["max_body"]),
            (&json!("auto"), &json!("unlimited"))
        );
    }
}
