//! Why a request goes where it goes: a trace around the one decision, for people.
//!
//! [`explain`] lets [`RoutingTable::route`] decide, as the proxy does. Route, rule, bucket and variant are read off that
//! [`Decision`] and never worked out a second time, so the trace cannot say anything else. What is looked for
//! afterwards is only why the others did not come to it: routes that do not take the request or are less specific,
//! rules that do not match.

mod key;
mod near;

use super::redact::Redact;
use super::rule::{Outcome, Rule};
use super::split::Weight;
use super::table::{Decision, RequestView, Route, RoutingTable};
use crate::limits::EXPLAIN_RULES;
pub use key::Key;
pub use near::Considered;

#[derive(Clone, Debug)]
pub struct Trace {
    /// None: no route takes the request.
    pub decision: Option<Decision>,
    /// The route that took the request, the one asked about, and at most [`EXPLAIN_ROUTES`] that came near.
    ///
    /// [`EXPLAIN_ROUTES`]: crate::limits::EXPLAIN_ROUTES
    pub considered: Vec<Considered>,
    /// How many routes are not among them; none of these takes the request.
    pub others: usize,
    /// The route's rules up to the one that matched, in the file's order; at most [`EXPLAIN_RULES`].
    pub rules: Vec<Asked>,
    /// Rules before the one that matched which are not among them; none of these matches.
    pub rules_left_out: usize,
    /// Rules after the one that matched.
    pub rules_not_asked: usize,
    /// What the bucket is of; None where no bucket decided.
    pub key: Option<Key>,
    /// The split that decided, a weight for each of the route's variants; None where none did.
    pub weights: Option<Vec<Weight>>,
    /// The whole story in one sentence.
    pub why: String,
}

/// A rule that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub name: String,
    pub matched: bool,
    pub why: String,
}

/// Decides as the proxy does and says why. `asked` is the index of a route that must be among those considered;
/// the table's values are told as `redact` has them.
pub fn explain(
    table: &RoutingTable,
    request: &RequestView<'_>,
    asked: Option<usize>,
    redact: &dyn Redact,
    rng: &mut (impl rand::Rng + ?Sized),
) -> Trace {
    let decision = table.route(request, rng);
    let near::Near { considered, others, takers } = near::routes(table, request, decision.as_ref(), asked, redact);
    let Some(decision) = decision else {
        let why = "No route takes the request: Weir answers 404.".to_owned();
        return Trace { considered, others, why, ..Trace::nothing() };
    };
    let route = &table.routes()[decision.route];
    let (rules, rules_left_out) = asked_rules(&route.rules, decision.rule, request, redact);
    let key = key::found(route.sticky.as_ref(), &decision, request, redact);
    let weights = weights(route, &decision);
    let why = sentence(route, &decision, takers, key.as_ref(), weights.as_deref());
    let rules_not_asked = decision.rule.map_or(0, |matched| route.rules.len() - matched - 1);
    Trace { decision: Some(decision), considered, others, rules, rules_left_out, rules_not_asked, key, weights, why }
}

impl Trace {
    fn nothing() -> Trace {
        Trace {
            decision: None,
            considered: Vec::new(),
            others: 0,
            rules: Vec::new(),
            rules_left_out: 0,
            rules_not_asked: 0,
            key: None,
            weights: None,
            why: String::new(),
        }
    }
}

/// The rules up to the one that matched, which is always among them, and how many before it are left out.
fn asked_rules(
    rules: &[Rule],
    matched: Option<usize>,
    request: &RequestView<'_>,
    redact: &dyn Redact,
) -> (Vec<Asked>, usize) {
    let before = matched.unwrap_or(rules.len());
    let shown = before.min(EXPLAIN_RULES - usize::from(matched.is_some()));
    let asked = (0..shown).chain(matched).map(|index| Asked {
        name: rules[index].name.clone(),
        matched: matched == Some(index),
        why: rules[index].when.why(request, redact),
    });
    (asked.collect(), before - shown)
}

/// The weights of the split that had the bucket; None when a variant was forced.
fn weights(route: &Route, decision: &Decision) -> Option<Vec<Weight>> {
    decision.bucket?;
    let own = decision.rule.and_then(|rule| match &route.rules[rule].then {
        Outcome::Split(split) => Some(split),
        Outcome::Variant(_) => None,
    });
    Some(own.unwrap_or(&route.assignment).weights())
}

/// `takers`: how many routes take the request.
fn sentence(
    route: &Route,
    decision: &Decision,
    takers: usize,
    key: Option<&Key>,
    weights: Option<&[Weight]>,
) -> String {
    let why_route = match takers {
        0 | 1 => format!("Route {} is the only one that takes the request", route.name),
        _ => format!("Route {} is the most specific of {takers} that take the request", route.name),
    };
    let chosen = decision.instead_of.unwrap_or(decision.variant);
    let variant = &route.variants[chosen].name;
    let instead = match decision.instead_of {
        Some(_) => format!("; {variant} has no target for it, so {} answers", route.variants[decision.variant].name),
        None => String::new(),
    };
    let rule = decision.rule.map_or("", |rule| route.rules[rule].name.as_str());
    let (Some(key), Some(weights), Some(bucket)) = (key, weights, decision.bucket) else {
        let id = if decision.new_client_id.is_some() { "; the client is new and gets an id all the same" } else { "" };
        return format!(
            "{why_route}; its rule {rule:?} matches and forces {variant}, whatever the weights are{id}{instead}."
        );
    };
    let why_rule = match (decision.rule, route.rules.len()) {
        (Some(_), _) => format!("its rule {rule:?} matches and splits by weights of its own"),
        (None, 0) => "it has no rules".to_owned(),
        (None, 1) => "its rule does not match".to_owned(),
        (None, rules) => format!("none of its {rules} rules matches"),
    };
    let (bucket, share) = (bucket.index(), weights[chosen]);
    let draw = || format!("{bucket} belongs to {variant}; this is one draw, the shares are {}", shares(route, weights));
    let why_variant = match key {
        _ if share == Weight::FULL => format!("{variant} has 100 %, so every bucket belongs to it"),
        Key { new: true, source, .. } => {
            format!("the client is new and gets an id ({source}), and the id's bucket {}", draw())
        }
        Key { value: Some(_), source, .. } => {
            format!("bucket {bucket} of {source} belongs to {variant}, which has {share} %")
        }
        Key { value: None, .. } => {
            let reason = if route.sticky.is_some() { "the request has no key" } else { "the route is not sticky" };
            format!("{reason}, so the bucket is random, and {}", draw())
        }
    };
    format!("{why_route}; {why_rule}; {why_variant}{instead}.")
}

/// `stable 95 %, canary 5 %`: the variants that get anything.
fn shares(route: &Route, weights: &[Weight]) -> String {
    let some = route.variants.iter().zip(weights).filter(|(_, weight)| **weight != Weight::ZERO);
    some.map(|(variant, weight)| format!("{} {weight} %", variant.name)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::EXPLAIN_ROUTES;
    use crate::routing::matcher::{HostMatch, PathMatch, RequestMatch};
    use crate::routing::redact::Open;
    use crate::routing::rule::{Condition, Subject, Test};
    use crate::routing::scheme::Scheme;
    use crate::routing::split::Assignment;
    use crate::routing::sticky::{Fallback, KeySource, Sticky, bucket_of};
    use crate::routing::table::Variant;
    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use std::time::Duration;

    fn assignment(percents: &[f64]) -> Assignment {
        let weights: Vec<Weight> = percents.iter().map(|&percent| Weight::from_percent(percent).unwrap()).collect();
        Assignment::starting(&weights).unwrap()
    }

    fn route(name: &str, host: &str, path: &str, canary: f64) -> Route {
        let variant = |(pool, name): (usize, &str)| Variant { name: name.to_owned(), pool: Some(pool), instead: None };
        Route {
            name: name.to_owned(),
            matches: RequestMatch {
                host: HostMatch::parse(host).unwrap(),
                path: PathMatch::prefix(path).unwrap(),
                ..RequestMatch::default()
            },
            variants: ["stable", "canary"].into_iter().enumerate().map(variant).collect(),
            assignment: assignment(&[100.0 - canary, canary]),
            rules: Vec::new(),
            sticky: None,
            timeout: Duration::from_secs(15),
            filters: None,
            salt: name.to_owned(),
            request_timeout: None,
            close_moved_within: None,
            recovery: None,
        }
    }

    fn sticky(fallback: Fallback) -> Option<Sticky> {
        let keys = vec![KeySource::Header(HeaderName::from_static("x-user-id")), KeySource::Query("uid".to_owned())];
        Some(Sticky { keys, fallback })
    }

    fn by_cookie() -> Option<Sticky> {
        sticky(Fallback::Cookie { name: "weir_shop".to_owned(), ttl: Duration::from_secs(60) })
    }

    fn header_is(name: &'static str, value: &str) -> Condition {
        Condition::Is(Subject::Header(HeaderName::from_static(name)), Test::Equals(value.to_owned()))
    }

    fn rule(name: &str, when: Condition, then: Outcome) -> Rule {
        Rule { name: name.to_owned(), when, then }
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn traced(table: &RoutingTable, url: (&str, &str), headers: &HeaderMap, asked: Option<usize>) -> Trace {
        let (path, query) = url.1.split_once('?').map_or((url.1, None), |(path, query)| (path, Some(query)));
        let client_ip = [192, 0, 2, 7].into();
        let request = RequestView {
            scheme: Scheme::Http,
            host: Some(url.0),
            path,
            query,
            method: &Method::GET,
            headers,
            client_ip,
        };
        explain(table, &request, asked, &Open, &mut StdRng::seed_from_u64(7))
    }

    fn shop() -> RoutingTable {
        let mut shop = route("shop", "shop.test", "/", 5.0);
        shop.sticky = by_cookie();
        shop.rules = vec![
            rule("testers", header_is("x-canary", "always"), Outcome::Variant(1)),
            rule("beijing", header_is("x-region", "beijing"), Outcome::Split(assignment(&[50.0, 50.0]))),
        ];
        let api = route("api", "shop.test", "/api", 0.0);
        RoutingTable::new(vec![shop, api, route("rest", "*", "/", 5.0), route("rest2", "*", "/", 5.0)])
    }

    #[test]
    fn a_key_decides_by_the_route_s_weights() {
        let trace = traced(&shop(), ("shop.test", "/cart"), &headers(&[("x-user-id", "user-1")]), None);
        let key = Key { source: "header:x-user-id".to_owned(), value: Some("user-1".to_owned()), new: false };
        assert_eq!(trace.key, Some(key));
        assert_eq!(trace.weights, Some(assignment(&[95.0, 5.0]).weights()));
        let no = |name: &str, why: &str| Asked { name: name.to_owned(), matched: false, why: why.to_owned() };
        let absent = [no("testers", "header x-canary is absent"), no("beijing", "header x-region is absent")];
        assert_eq!((&trace.rules[..], trace.rules_left_out, trace.rules_not_asked), (&absent[..], 0, 0));
        let told: Vec<_> = trace.considered.iter().map(|told| (told.route, told.taken, told.why.as_str())).collect();
        let expected = [
            (0, true, "host shop.test, any path"),
            (2, false, "takes it too, but shop is more specific"),
            (3, false, "takes it too, but shop is more specific"),
            (1, false, "the path is not under /api"),
        ];
        assert_eq!((&told[..], trace.others), (&expected[..], 0));
        assert_eq!(
            trace.why,
            "Route shop is the most specific of 3 that take the request; none of its 2 rules matches; \
             bucket 41716 of header:x-user-id belongs to stable, which has 95 %."
        );
    }

    #[test]
    fn a_rule_forces_or_splits_and_later_ones_are_not_asked() {
        let fields = headers(&[("x-canary", "always"), ("x-region", "beijing")]);
        let forced = traced(&shop(), ("shop.test", "/"), &fields, None);
        assert_eq!((forced.rules.len(), forced.rules[0].matched, forced.rules_not_asked), (1, true, 1));
        assert_eq!((forced.key, forced.weights), (None, None));
        assert!(forced.why.contains("its rule \"testers\" matches and forces canary"), "{}", forced.why);
        assert!(forced.why.contains("the client is new"), "{}", forced.why);

        let split = traced(&shop(), ("shop.test", "/?uid=u7"), &headers(&[("x-region", "beijing")]), None);
        assert_eq!(split.weights, Some(assignment(&[50.0, 50.0]).weights()));
        assert_eq!(split.key.map(|key| key.source).as_deref(), Some("query:uid"));
        assert!(split.why.contains("splits by weights of its own"), "{}", split.why);
        assert!(split.why.ends_with("which has 50 %."), "{}", split.why);
    }

    #[test]
    fn who_stands_in_for_a_variant_without_a_target_is_said() {
        let mut empty = route("shop", "*", "/", 100.0);
        empty.variants[1].instead = Some(0);
        empty.rules = vec![rule("testers", header_is("x-canary", "always"), Outcome::Variant(1))];
        let table = RoutingTable::new(vec![empty]);
        for fields in [headers(&[]), headers(&[("x-canary", "always")])] {
            let trace = traced(&table, ("h", "/"), &fields, None);
            assert!(trace.why.ends_with("; canary has no target for it, so stable answers."), "{}", trace.why);
            assert_eq!(trace.decision.map(|decision| (decision.variant, decision.instead_of)), Some((0, Some(1))));
        }
        assert!(traced(&table, ("h", "/"), &headers(&[]), None).why.contains("canary has 100 %"));
    }

    #[test]
    fn what_is_drawn_is_said_to_be_a_draw() {
        let new = traced(&shop(), ("shop.test", "/"), &HeaderMap::new(), None);
        let key = Key { source: "cookie:weir_shop".to_owned(), value: None, new: true };
        assert_eq!(new.key, Some(key));
        assert!(new.why.contains("the client is new and gets an id (cookie:weir_shop)"), "{}", new.why);
        assert!(new.why.ends_with("this is one draw, the shares are stable 95 %, canary 5 %."), "{}", new.why);
        let known = traced(&shop(), ("shop.test", "/"), &headers(&[("cookie", "weir_shop=\"abc\"")]), None);
        assert_eq!(known.key.unwrap().value.as_deref(), Some("abc"));

        let rest = traced(&shop(), ("other", "/"), &HeaderMap::new(), None);
        assert_eq!(rest.key, Some(Key { source: "random".to_owned(), value: None, new: false }));
        assert!(rest.why.contains("not sticky, so the bucket is random"), "{}", rest.why);
        assert_eq!(rest.considered[1].why, "takes it too and is as specific as rest, which stands first");
        let all = traced(&shop(), ("shop.test", "/api"), &HeaderMap::new(), None);
        assert!(all.why.ends_with("stable has 100 %, so every bucket belongs to it."), "{}", all.why);
    }

    #[test]
    fn the_fallback_to_the_address_shows_it() {
        let mut shop = route("shop", "*", "/", 5.0);
        shop.sticky = sticky(Fallback::Ip);
        let trace = traced(&RoutingTable::new(vec![shop]), ("a", "/"), &HeaderMap::new(), None);
        assert_eq!(trace.key, Some(Key { source: "ip".to_owned(), value: Some("192.0.2.7".to_owned()), new: false }));
        assert_eq!(trace.decision.unwrap().bucket, Some(bucket_of("shop", b"192.0.2.7")));
    }

    #[test]
    fn without_a_route_the_nearest_are_told() {
        let table = RoutingTable::new(vec![
            route("far", "far.test", "/", 0.0),
            route("path", "path.test", "/v1", 0.0),
            route("host", "*.host.test", "/v2", 0.0),
        ]);
        let trace = traced(&table, ("a.host.test", "/v1"), &HeaderMap::new(), None);
        let told: Vec<_> = trace.considered.iter().map(|told| (told.route, told.why.as_str())).collect();
        let expected =
            [(2, "the path is not under /v2"), (1, "the host is not path.test"), (0, "the host is not far.test")];
        assert_eq!((&told[..], trace.others), (&expected[..], 0));
        assert_eq!(trace.why, "No route takes the request: Weir answers 404.");
    }

    #[test]
    fn ten_thousand_routes_and_rules_stay_a_short_story() {
        let mut routes: Vec<Route> =
            (0..10_000).map(|n| route(&format!("r{n}"), "*", &format!("/r{n}"), 0.0)).collect();
        let number = |n: usize| rule(&format!("rule {n}"), header_is("x-n", &n.to_string()), Outcome::Variant(1));
        routes[7].rules = (0..10_000).map(number).collect();
        let table = RoutingTable::new(routes);
        let trace = traced(&table, ("a", "/r7"), &headers(&[("x-n", "9000")]), Some(9_999));
        assert_eq!((trace.considered.len(), trace.others), (EXPLAIN_ROUTES + 2, 10_000 - EXPLAIN_ROUTES - 2));
        assert_eq!((trace.considered[0].route, trace.considered[1].route), (7, 9_999));
        assert_eq!((trace.rules.len(), trace.rules_left_out, trace.rules_not_asked), (EXPLAIN_RULES, 8_951, 999));
        let last = trace.rules.last().unwrap();
        assert_eq!((last.name.as_str(), last.matched), ("rule 9000", true));
        let none = traced(&table, ("a", "/r7"), &HeaderMap::new(), None);
        assert_eq!((none.rules.len(), none.rules_left_out), (EXPLAIN_RULES, 10_000 - EXPLAIN_RULES));
    }

    fn conditions() -> impl Strategy<Value = Condition> {
        let names = prop::sample::select(vec!["x-a", "x-b"]);
        let leaf = (names, "[ab]", any::<bool>()).prop_map(|(name, value, present)| match present {
            true => Condition::Is(Subject::Header(HeaderName::from_static(name)), Test::Present(value == "a")),
            false => header_is(name, &value),
        });
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|condition| Condition::Not(Box::new(condition))),
                prop::collection::vec(inner.clone(), 0..3).prop_map(Condition::All),
                prop::collection::vec(inner, 0..3).prop_map(Condition::Any),
            ]
        })
    }

    proptest! {
        /// A trace never contradicts the decision, and what it says of each route and rule is so.
        #[test]
        fn a_trace_tells_what_was_decided(
            rules in prop::collection::vec((conditions(), any::<bool>()), 0..5),
            fields in prop::collection::vec((prop::sample::select(vec!["x-a", "x-b", "x-user-id"]), "[abc]"), 0..4),
            (host, path) in (prop::sample::select(vec!["shop.test", "a.test", "b"]), prop::sample::select(vec!["/", "/a", "/b"])),
            canary in 0u32..=100,
            seed in any::<u64>(),
        ) {
            let mut routes = vec![route("one", "*", "/a", 50.0), route("two", "*.test", "/", f64::from(canary))];
            routes[1].sticky = sticky(if seed % 2 == 0 { Fallback::Random } else { Fallback::Ip });
            routes[1].rules = rules.into_iter().enumerate().map(|(n, (when, force))| {
                let then = if force { Outcome::Variant(1) } else { Outcome::Split(assignment(&[30.0, 70.0])) };
                rule(&n.to_string(), when, then)
            }).collect();
            let table = RoutingTable::new(routes);
            let fields: Vec<(&'static str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let headers = headers(&fields);
            let client_ip = [192, 0, 2, 7].into();
            let request = RequestView { scheme: Scheme::Http, host: Some(host), path, query: None, method: &Method::GET, headers: &headers, client_ip };
            let decided = table.route(&request, &mut StdRng::seed_from_u64(seed));
            let trace = explain(&table, &request, None, &Open, &mut StdRng::seed_from_u64(seed));
            prop_assert_eq!(&trace.decision, &decided);
            for told in &trace.considered {
                let is_chosen = decided.as_ref().is_some_and(|decision| decision.route == told.route);
                prop_assert_eq!(told.taken, is_chosen);
                let says_it_takes = told.taken || told.why.starts_with("takes it");
                prop_assert_eq!(says_it_takes, table.routes()[told.route].matches.takes(&request));
            }
            let Some(decision) = decided else { return Ok(()) };
            let route = &table.routes()[decision.route];
            for (asked, rule) in trace.rules.iter().zip(&route.rules) {
                prop_assert_eq!(asked.matched, rule.when.matches(&request));
            }
            prop_assert_eq!(trace.rules.iter().position(|rule| rule.matched), decision.rule);
            prop_assert!(trace.why.contains(&route.variants[decision.variant].name));
            if let Some(value) = trace.key.and_then(|key| key.value) {
                prop_assert_eq!(Some(bucket_of(&route.name, value.as_bytes())), decision.bucket);
            }
            let share = trace.weights.map(|weights| weights[decision.variant]);
            prop_assert_eq!(share.is_none(), decision.forced);
            prop_assert!(share != Some(Weight::ZERO), "a variant without a share was chosen");
        }
    }
}
