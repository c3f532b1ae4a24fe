//! POST `/api/v1/explain` and `/api/v1/routes/{route}/explain`: where a request would go, and why. Changes nothing.
//!
//! The request that the caller describes is made into what the proxy would have read, brought into origin form by the
//! same function, and decided on the table that the workers have. What is refused there is refused here, by its field.

mod body;

use super::Api;
use super::body::read_json;
use super::handlers::{document, no_route};
use super::problem::Problem;
use crate::boundary::table::{Endpoint, Pool, Published};
use crate::control::history::percent;
use crate::routing::balance::{Balance, by_key, seed};
use crate::routing::explain::{Asked, Considered, Trace, explain};
use crate::routing::request::{Unfit, forwarded_for, to_origin_form};
use crate::routing::scheme::Scheme;
use crate::routing::split::Weight;
use crate::routing::sticky::Fallback;
use crate::routing::table::{Decision, RequestView, Route};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, request};
use axum::response::{IntoResponse, Response};
use body::Described;
use rand::SeedableRng;
use rand::rngs::{SmallRng, SysRng};
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr};

/// How a target is chosen where a pool has several.
fn balance(pool: &Pool) -> &'static str {
    match pool.balance {
        Balance::P2c => "least in flight of two random ones",
        Balance::RoundRobin => "one after the other",
        Balance::LeastConn => "least in flight",
        Balance::Hash(_) => "by key",
    }
}

pub async fn of_any(State(api): State<Api>, request: Request) -> Response {
    answer(api, None, request).await.unwrap_or_else(Problem::into_response)
}

pub async fn of_route(
    State(api): State<Api>,
    route: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let name = route.map(|Path(name)| name).unwrap_or_default();
    answer(api, Some(name), request).await.unwrap_or_else(Problem::into_response)
}

/// `asked` is the route that the caller asks about.
async fn answer(api: Api, asked: Option<String>, request: Request) -> Result<Response, Problem> {
    let table = api.control.table();
    let asked = match asked {
        None => None,
        Some(name) => {
            let index = table.routing.routes().iter().position(|route| route.name == name);
            Some(index.ok_or_else(|| no_route(&name))?)
        }
    };
    let (parts, sent) = request.into_parts();
    let bytes = read_json(&parts.headers, sent).await?;
    let described = body::described(&bytes, table.settings.limits.max_headers)?;
    let internal = |error: &dyn std::fmt::Display| Problem::new(500, "internal", error.to_string());
    let mut rng = SmallRng::try_from_rng(&mut SysRng).map_err(|error| internal(&error))?;
    // Off the thread that changes and other calls wait for: 10,000 routes are asked.
    let explained = tokio::task::spawn_blocking(move || explained(&table, described, asked, &mut rng)).await;
    Ok(document(StatusCode::OK, &explained.map_err(|error| internal(&error))??))
}

/// Whose request it is taken for.
struct Client {
    ip: IpAddr,
    /// `given`, `assumed` or `x-forwarded-for`.
    source: &'static str,
    scheme: Scheme,
    /// `given`, `assumed` or `x-forwarded-proto`.
    scheme_source: &'static str,
}

fn explained(
    table: &Published,
    described: Described,
    asked: Option<usize>,
    rng: &mut SmallRng,
) -> Result<Value, Problem> {
    let Described { mut parts, scheme, client_ip } = described;
    to_origin_form(&mut parts).map_err(unfit)?;
    let client = client(table, &parts, scheme, client_ip);
    let request = RequestView::of(&parts, client.scheme, client.ip);
    let trace = explain(&table.routing, &request, asked, &*table.redact, rng);
    let mut document = shown(table, &trace, asked, &client);
    if let Some(target) = target_by_key(table, &trace, &request) {
        document["target"] = json!(target);
    }
    Ok(document)
}

/// The target that has the request's key, where the pool goes by that. One that starts slowly counts with its whole weight.
fn target_by_key<'t>(table: &'t Published, trace: &Trace, request: &RequestView<'_>) -> Option<&'t str> {
    let decision = trace.decision.as_ref()?;
    let pool = &table.pools[table.routing.routes()[decision.route].variants[decision.variant].pool?];
    let (Balance::Hash(key), Some(best)) = (&pool.balance, pool.best()) else { return None };
    let in_service = |one: &Endpoint| one.standing == best && !one.outcomes.ejection.is_out();
    let mut weights = Vec::new();
    let mut places = Vec::new();
    for target in &pool.targets {
        for (addr, endpoint) in target.addrs.iter().zip(&target.endpoints) {
            weights.push(if in_service(endpoint) { u64::from(endpoint.weight) } else { 0 });
            places.push((target.name.as_str(), seed(&addr.to_string())));
        }
    }
    by_key(&weights, |at| places[at].1, key.of(request)).map(|at| places[at].0)
}

/// The address that connects, or whom it says it has the request from, where it is a trusted proxy.
fn client(table: &Published, parts: &request::Parts, scheme: Option<Scheme>, given: Option<IpAddr>) -> Client {
    let peer = given.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_canonical();
    let is_trusted = |ip: IpAddr| table.settings.trusted_proxies.iter().any(|net| net.contains(&ip));
    let said_by_caller = |said: bool| if said { "given" } else { "assumed" };
    let (forwarded, proto) = match is_trusted(peer) {
        true => (forwarded_for(&parts.headers, is_trusted), Scheme::forwarded(&parts.headers)),
        false => (None, None),
    };
    Client {
        ip: forwarded.unwrap_or(peer),
        source: forwarded.map_or(said_by_caller(given.is_some()), |_| "x-forwarded-for"),
        scheme: proto.or(scheme).unwrap_or(Scheme::Http),
        scheme_source: proto.map_or(said_by_caller(scheme.is_some()), |_| "x-forwarded-proto"),
    }
}

fn unfit(unfit: Unfit) -> Problem {
    let (field, detail) = match unfit {
        Unfit::Connect => ("method", "CONNECT is for forward proxies; Weir answers it with 405"),
        Unfit::Trace => ("method", "TRACE is not passed on; Weir answers it with 405"),
        Unfit::Target => ("path", "no target that a server answers; Weir answers it with 400"),
        Unfit::Host => (
            "host",
            "a request has exactly one valid host, the same that its target names; Weir answers others with 400",
        ),
    };
    body::invalid(field, detail)
}

/// The answer's document; members that nothing decided are null.
fn shown(table: &Published, trace: &Trace, asked: Option<usize>, client: &Client) -> Value {
    let routes = table.routing.routes();
    let decision = trace.decision.as_ref();
    let route = decision.map(|decision| &routes[decision.route]);
    let variant = route.zip(decision).map(|(route, decision)| &route.variants[decision.variant]);
    let pool = variant.and_then(|variant| Some(&table.pools[variant.pool?]));
    let targets: Vec<&str> = pool.iter().flat_map(|pool| pool.eligible()).map(|target| target.name.as_str()).collect();
    let no_target = pool.filter(|_| targets.is_empty());
    let no_target = no_target.map(|pool| format!(" Pool {} has no target for it: Weir answers 503.", pool.name));
    let weights = route.zip(trace.weights.as_deref());
    let share = decision.zip(trace.weights.as_ref()).map(|(decision, weights)| percent(weights[chosen(decision)]));
    let instead_of = route.zip(decision).and_then(|(route, decision)| Some(&route.variants[decision.instead_of?].name));
    let mut document = asked.map_or_else(Map::new, |asked| about(routes, trace, asked));
    let members = json!({
        "route": route.map(|route| &route.name),
        "generation": decision.map(|decision| table.generations[decision.route]),
        "rule": route.zip(decision).and_then(|(route, decision)| Some(&route.rules[decision.rule?].name)),
        "forced": decision.is_some_and(|decision| decision.forced),
        "key": trace.key.as_ref().map(|key| json!({"source": key.source, "value": key.value, "new": key.new})),
        "bucket": decision.and_then(|decision| decision.bucket).map(|bucket| bucket.index()),
        "variant": variant.map(|variant| &variant.name),
        "instead_of": instead_of,
        "pool": pool.map(|pool| &pool.name),
        "version": pool.and_then(|pool| pool.version.as_ref()),
        "targets": targets,
        "target": if let [only] = targets.as_slice() { Some(only) } else { None },
        "balance": pool.filter(|_| targets.len() > 1).map(|pool| balance(pool)),
        "weights": weights.map(|(route, weights)| split(route, weights)),
        "share": share,
        "sets_cookie": decision.and_then(|decision| new_cookie(&routes[decision.route], decision)).map(|name| table.redact.shown(name)),
        "client_ip": {"ip": client.ip, "source": client.source},
        "scheme": {"name": client.scheme.name(), "source": client.scheme_source},
        "considered": trace.considered.iter().map(|route| considered(routes, route)).collect::<Vec<_>>(),
        "other_routes": trace.others,
        "rules": trace.rules.iter().map(rule).collect::<Vec<_>>(),
        "rules_left_out": trace.rules_left_out,
        "rules_not_asked": trace.rules_not_asked,
        "why": format!("{}{}", trace.why, no_target.unwrap_or_default()),
    });
    if let Value::Object(members) = members {
        document.extend(members);
    }
    Value::Object(document)
}

/// The route that the caller asked about, whether it is the one, and if not why not.
fn about(routes: &[Route], trace: &Trace, asked: usize) -> Map<String, Value> {
    let chosen = trace.decision.as_ref().is_some_and(|decision| decision.route == asked);
    let why = trace.considered.iter().find(|considered| considered.route == asked).map(|considered| &considered.why);
    let members =
        [("asked", json!(routes[asked].name)), ("chosen", json!(chosen)), ("why_not", json!(why.filter(|_| !chosen)))];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn considered(routes: &[Route], considered: &Considered) -> Value {
    json!({"route": routes[considered.route].name, "taken": considered.taken, "why": considered.why})
}

fn rule(rule: &Asked) -> Value {
    json!({"name": rule.name, "matched": rule.matched, "why": rule.why})
}

/// In percent, in the route's order.
fn split(route: &Route, weights: &[Weight]) -> Value {
    let shares = route.variants.iter().zip(weights);
    Value::Object(shares.map(|(variant, weight)| (variant.name.clone(), percent(*weight))).collect())
}

/// The variant that the rule or the weights chose.
fn chosen(decision: &Decision) -> usize {
    decision.instead_of.unwrap_or(decision.variant)
}

/// The cookie that a new client would get.
fn new_cookie<'t>(route: &'t Route, decision: &Decision) -> Option<&'t str> {
    decision.new_client_id?;
    match &route.sticky.as_ref()?.fallback {
        Fallback::Cookie { name, .. } => Some(name),
        Fallback::Ip | Fallback::Random => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Role, Token};
    use crate::control::fixtures::{Process, Reply, config, shop, with_tokens};
    use crate::routing::scheme::Scheme;
    use crate::routing::sticky::{Fallback, KeySource, Sticky};
    use serde_json::json;
    use sha2::{Digest, Sha256};

    const JSON: &str = "content-type: application/json";

    async fn ask(process: &Process, path: &str, body: &str) -> Reply {
        process.call("POST", path, &[JSON], body.as_bytes()).await
    }

    #[tokio::test]
    async fn the_document_says_where_and_why() {
        let mut config = shop();
        let keys = vec![KeySource::Header("x-user-id".parse().unwrap())];
        config.routes[0].sticky = Some(Sticky { keys, fallback: Fallback::Random });
        let process = Process::start(config).await;
        process.patch("shop", &[], r#"{"weights":{"canary":12.5}}"#).await;
        let body = r#"{"path":"/a?b=1","host":"shop.localhost:80","headers":{"X-User-Id":"user-1"}}"#;
        let reply = ask(&process, "/api/v1/explain", body).await;
        let expected = json!({
            "route": "shop", "generation": 2, "rule": null, "forced": false,
            "key": {"source": "header:x-user-id", "value": "user-1", "new": false}, "bucket": 41716,
            "variant": "stable", "instead_of": null, "pool": "pool", "version": "1.0",
            "targets": ["127.0.0.1:9"], "target": "127.0.0.1:9", "balance": null,
            "weights": {"stable": 87.5, "canary": 12.5}, "share": 87.5, "sets_cookie": null,
            "client_ip": {"ip": "127.0.0.1", "source": "assumed"},
            "scheme": {"name": "http", "source": "assumed"},
            "considered": [{"route": "shop", "taken": true, "why": "host shop.localhost, any path"}],
            "other_routes": 0, "rules": [], "rules_left_out": 0, "rules_not_asked": 0,
            "why": "Route shop is the only one that takes the request; it has no rules; \
                    bucket 41716 of header:x-user-id belongs to stable, which has 87.5 %.",
        });
        assert_eq!((reply.status, reply.json()), (200, expected));
        assert_eq!(process.live("shop"), (2, vec![87_500, 12_500]));
        assert_eq!(process.publisher.current().serial, 2, "only the shift was published");
    }

    #[tokio::test]
    async fn a_route_that_is_asked_about_says_whether_it_is_chosen() {
        let process = Process::start(config(&[("shop", &[("v", 100.0)]), ("api", &[("v", 100.0)])])).await;
        let body = r#"{"path":"/","host":"shop.localhost"}"#;
        let chosen = ask(&process, "/api/v1/routes/shop/explain", body).await.json();
        assert_eq!(
            (&chosen["asked"], &chosen["chosen"], &chosen["why_not"]),
            (&json!("shop"), &json!(true), &json!(null))
        );
        let other = ask(&process, "/api/v1/routes/api/explain", body).await.json();
        assert_eq!((&other["chosen"], &other["why_not"]), (&json!(false), &json!("the host is not api.localhost")));
        assert_eq!(other["route"], "shop");
        let nothing = ask(&process, "/api/v1/explain", r#"{"path":"/","host":"c"}"#).await.json();
        assert_eq!(
            (&nothing["route"], &nothing["variant"], &nothing["targets"]),
            (&json!(null), &json!(null), &json!([]))
        );
        assert_eq!(nothing["considered"].as_array().map(Vec::len), Some(2));
        let missing = ask(&process, "/api/v1/routes/shopp/explain", body).await;
        assert_eq!((missing.status, missing.problem().as_str()), (404, "no-such-route"));
    }

    #[tokio::test]
    async fn what_the_proxy_refuses_is_refused_by_its_field() {
        let process = Process::start(shop()).await;
        for (body, field) in [
            (r#"{"path":"/","host":"a b"}"#, "host"),
            (r#"{"path":"/","host":"a@b"}"#, "host"),
            (r#"{"path":"/","headers":{"host":["a","b"]}}"#, "host"),
            (r#"{"path":"*","host":"a"}"#, "path"),
            (r#"{"path":"http://u:p@a/","host":"a"}"#, "path"),
            (r#"{"path":"/","host":"a","method":"CONNECT"}"#, "method"),
        ] {
            let reply = ask(&process, "/api/v1/explain", body).await;
            assert_eq!((reply.status, reply.json()["field"].as_str()), (400, Some(field)), "{body}: {reply:?}");
        }
        let form = process.call("POST", "/api/v1/explain", &[], br#"{"path":"/","host":"a"}"#).await;
        assert_eq!((form.status, form.problem().as_str()), (415, "not-json"));
        assert_eq!(process.get("/api/v1/explain").await.status, 405);
    }

    #[tokio::test]
    async fn a_trusted_proxy_is_believed_about_the_client() {
        let mut config = shop();
        config.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        config.routes[0].sticky = Some(Sticky { keys: Vec::new(), fallback: Fallback::Ip });
        let process = Process::start(config).await;
        for (from, ip, source) in [
            (r#","client_ip":"10.0.0.1""#, "192.0.2.7", "x-forwarded-for"),
            (r#","client_ip":"::ffff:9.9.9.9""#, "9.9.9.9", "given"),
            ("", "127.0.0.1", "assumed"),
        ] {
            let headers = r#""headers":{"x-forwarded-for":"1.2.3.4, 192.0.2.7, 10.9.9.9"}"#;
            let body = format!(r#"{{"path":"/","host":"shop.localhost",{headers}{from}}}"#);
            let document = ask(&process, "/api/v1/explain", &body).await.json();
            assert_eq!(document["client_ip"], json!({"ip": ip, "source": source}));
            assert_eq!(document["key"], json!({"source": "ip", "value": ip, "new": false}));
        }
    }

    #[tokio::test]
    async fn the_scheme_is_given_or_a_trusted_proxy_s() {
        let mut config = shop();
        config.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        config.routes[0].matches.scheme = Some(Scheme::Https);
        let process = Process::start(config).await;
        for (members, name, source) in [
            (r#""path":"/""#, "http", "assumed"),
            (r#""path":"/","scheme":"https""#, "https", "given"),
            (r#""path":"https://shop.localhost/""#, "https", "given"),
            (
                r#""path":"/","client_ip":"10.0.0.1","headers":{"x-forwarded-proto":"https"}"#,
                "https",
                "x-forwarded-proto",
            ),
            (
                r#""path":"/","client_ip":"10.0.0.1","scheme":"https","headers":{"x-forwarded-proto":"wss"}"#,
                "https",
                "given",
            ),
            (r#""path":"/","client_ip":"9.9.9.9","headers":{"x-forwarded-proto":"https"}"#, "http", "assumed"),
        ] {
            let body = format!(r#"{{{members},"host":"shop.localhost"}}"#);
            let document = ask(&process, "/api/v1/explain", &body).await.json();
            assert_eq!(document["scheme"], json!({"name": name, "source": source}), "{body}");
            let why =
                if name == "https" { "scheme https, host shop.localhost, any path" } else { "the scheme is not https" };
            assert_eq!(document["considered"][0]["why"], why, "{body}");
            assert_eq!(document["route"].is_null(), name == "http");
        }
    }

    #[tokio::test]
    async fn a_viewer_may_ask() {
        let sha256 = Sha256::digest("secret").into();
        let eye = Token { name: "eye".to_owned(), role: Role::Viewer, sha256 };
        let process = Process::start(with_tokens(shop(), vec![eye])).await;
        let body = br#"{"path":"/","host":"a"}"#;
        for path in ["/api/v1/explain", "/api/v1/routes/shop/explain"] {
            let token = "authorization: Bearer secret";
            assert_eq!(process.call("POST", path, &[JSON, token], body).await.status, 200);
            assert_eq!(process.call("POST", path, &[JSON], body).await.status, 401);
        }
    }

    /// Every kind of value that a route has, each from a file.
    const SECRET_ROUTES: &str = r#"
[[route]]
name = "one"
match = { host = "${file:host}", path = "${file:path}", method = "${file:method}", header = { x-a = "${file:key}" }, query = { q = { regex = "${file:key}" } } }
variants = { stable = "p", canary = "p" }
weights = { stable = 50, canary = 50 }
[[route]]
name = "two"
match = { host_regex = "^${file:key}", path_exact = "${file:path}" }
variants = { stable = "p" }
[[route]]
name = "three"
match = { path_regex = "${file:key}", header = { name = "${file:header}", in = ["${file:key}", "b"] } }
variants = { stable = "p" }
[[route]]
name = "rules"
match = { path = "/rules" }
variants = { stable = "p", canary = "p" }
weights = { stable = 50, canary = 50 }
sticky = { key = ["header: ${file:header} "], fallback = "cookie", cookie = "${file:key}" }
preview = { header = "${file:header}", equals = "${file:key}" }
rule = [
  { name = "a", when = { header = "x-a", equals = "${file:key}" }, variant = "canary" },
  { name = "b", when = { header = "x-a", in = ["${file:key}", "y"] }, variant = "canary" },
  { name = "c", when = { any = [{ header = "x-a", prefix = "x${file:key}" }, { not = { header = "x-a", present = true } }, { header = "x-a", suffix = "${file:key}" }] }, variant = "canary" },
  { name = "d", when = { query = "${file:key}", regex = "${file:key}" }, variant = "canary" },
  { name = "e", when = { cookie = "${file:key}", in_file = "${file:key}.txt" }, variant = "canary" },
  { name = "f", when = { ip = "${file:ip}" }, variant = "canary" },
  { name = "g", when = { header = "x-a", in_file = "${file:key}.txt" }, variant = "canary" },
]
"#;

    async fn secret_process(folder: &std::path::Path) -> Process {
        for (file, content) in [
            ("host", "*.S3CRET.test"),
            ("path", "/s3cret/"),
            ("method", "S3CRET"),
            ("header", "X-S3cret"),
            ("key", "s3cret"),
            ("ip", "203.0.113.99/32"),
            ("s3cret.txt", "v"),
        ] {
            std::fs::write(folder.join(file), content).unwrap();
        }
        let top = "[admin]\nlisten = [\"127.0.0.1:0\"]\n[[listener]]\nname = \"http\"\nbind = \"127.0.0.1:8080\"\n[pool.p]\ntargets = [\"127.0.0.1:9\"]\n";
        let path = folder.join("weir.toml");
        std::fs::write(&path, format!("{top}{SECRET_ROUTES}")).unwrap();
        let loaded = crate::config::load(&path, &|_| None);
        Process::start(loaded.config.unwrap_or_else(|| panic!("{}", loaded.report.render(false)))).await
    }

    #[tokio::test]
    async fn what_variables_and_files_filled_in_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let process = secret_process(folder.path()).await;
        // What a request brings is the asker's own: where it has the secret, the answer may only say it as its value.
        for (asked, told) in [
            (r#"{"path":"/","host":"a"}"#, "the host is not ${file:host}"),
            (r#"{"path":"/","host":"a.s3cret.test"}"#, "the path is not under ${file:path}"),
            (r#"{"path":"/s3cret/x","host":"a.s3cret.test"}"#, "the method is not ${file:method}"),
            (
                r#"{"path":"/s3cret/x","host":"a.s3cret.test","method":"S3CRET"}"#,
                r#"header x-a does not pass equals = \"${file:key}\""#,
            ),
            (
                r#"{"path":"/s3cret/x","host":"a.s3cret.test","method":"S3CRET","headers":{"x-a":"s3cret"}}"#,
                r#"query parameter q does not pass regex = \"${file:key}\""#,
            ),
            (
                r#"{"path":"/s3cret/x?q=s3cret","host":"a.s3cret.test","method":"S3CRET","headers":{"x-a":"s3cret"}}"#,
                "host ${file:host}, path under ${file:path}, method ${file:method}, header x-a equals",
            ),
            (r#"{"path":"/s3cret/","host":"s3cret"}"#, "host matching ^${file:key}, path ${file:path}"),
            (r#"{"path":"/s3cret","host":"s3cret"}"#, "the path is not ${file:path}"),
            (r#"{"path":"/","host":"a"}"#, "the path does not match ${file:key}"),
            (
                r#"{"path":"/s3cretx","host":"a"}"#,
                r#"header ${file:header} does not pass in = [\"${file:key}\", \"b\"]"#,
            ),
            (
                r#"{"path":"/s3cretx","host":"a","headers":{"x-s3cret":"b"}}"#,
                r#"path matching ${file:key}, header ${file:header} in = [\"${file:key}\", \"b\"]"#,
            ),
            (r#"{"path":"/rules","host":"a","headers":{"x-a":"z"}}"#, r#"header x-a is \"z\", not \"${file:key}\""#),
            (
                r#"{"path":"/rules","host":"a","headers":{"x-a":"z"}}"#,
                r#"header x-a is \"z\", none of \"${file:key}\", \"y\""#,
            ),
            (
                r#"{"path":"/rules","host":"a","headers":{"x-a":"z"}}"#,
                r#"which does not start with \"x${file:key}\", and header x-a is present, and header x-a is \"z\", which does not end with \"${file:key}\""#,
            ),
            (r#"{"path":"/rules","host":"a","headers":{"x-a":"z"}}"#, "query parameter ${file:key} is absent"),
            (r#"{"path":"/rules","host":"a","headers":{"x-a":"z"}}"#, "cookie ${file:key} is absent"),
            (r#"{"path":"/rules","host":"a","headers":{"x-a":"z"}}"#, "is not in ${file:ip}"),
            (r#"{"path":"/rules","host":"a","headers":{"x-a":"z"}}"#, "which ${file:key}.txt does not list"),
            (r#"{"path":"/rules","host":"a","headers":{"x-a":"z"}}"#, r#""sets_cookie":"${file:key}""#),
            (r#"{"path":"/rules","host":"a","headers":{"x-a":"z"}}"#, r#""source":"cookie:${file:key}""#),
            (
                r#"{"path":"/rules","host":"a","headers":{"x-a":"z","x-s3cret":"id"}}"#,
                r#""source":"header: ${file:header} ","value":"id""#,
            ),
        ] {
            for path in ["/api/v1/explain", "/api/v1/routes/rules/explain"] {
                let reply = ask(&process, path, asked).await;
                let text = String::from_utf8(reply.body.clone()).unwrap();
                assert!(reply.status == 200 && text.contains(told), "{asked}: {told}: {text}");
                let said = text.to_lowercase().replace(r#"header x-a is \"s3cret\""#, "");
                assert!(!said.contains("s3cret") && !said.contains("203.0.113.99"), "{asked}: {text}");
            }
        }
        for call in ["/config/effective", "/config/diff", "/routes", "/routes/rules", "/routes/rules/history", "/stats"]
        {
            let reply = process.get(&format!("/api/v1{call}")).await;
            let text = String::from_utf8(reply.body.clone()).unwrap().to_lowercase();
            assert!(
                reply.status == 200 && !text.contains("s3cret") && !text.contains("203.0.113.99"),
                "{call}: {text}"
            );
        }
    }
}
