//! The routing table: everything that a request needs to be routed, immutable, swapped whole.

use super::filters::Filters;
use super::index::Index;
use super::matcher::RequestMatch;
use super::recovery::Recovery;
use super::rule::index::{INDEXED_FROM, RuleIndex};
use super::rule::{Outcome, Rule};
use super::scheme::Scheme;
use super::split::{Assignment, Bucket};
use super::sticky::{KeyFound, Place, Sticky};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// One route as the table's builder takes it; variants are in the file's order, the baseline first.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    pub matches: RequestMatch,
    pub variants: Vec<Variant>,
    pub assignment: Assignment,
    pub rules: Vec<Rule>,
    pub sticky: Option<Sticky>,
    /// Hashed with a client's key: routes of one salt agree on its bucket.
    pub salt: String,
    /// To the response head.
    pub timeout: Duration,
    /// For all of a request; None: as long as it takes.
    pub request_timeout: Option<Duration>,
    /// Open tunnels of clients that have moved to another variant are closed within this time; None: they are kept.
    pub close_moved_within: Option<Duration>,
    /// What only some routes do to a request and its answer.
    pub filters: Option<Arc<Filters>>,
    /// What becomes of requests that a target fails.
    pub recovery: Option<Arc<Recovery>>,
}

#[derive(Clone, Debug)]
pub struct Variant {
    pub name: String,
    /// Index into the table's pools; None where the route answers by itself.
    pub pool: Option<usize>,
    /// Which variant answers its requests at present: this one has no target for them.
    pub instead: Option<usize>,
}

/// The routes in the file's order, and the index that finds one.
#[derive(Debug, Default)]
pub struct RoutingTable {
    routes: Vec<Route>,
    index: Index,
    /// By route; only those with at least [`INDEXED_FROM`] rules have one.
    rule_indices: Vec<Option<Box<RuleIndex>>>,
}

/// What the decision looks at. `path` is without the query.
pub struct RequestView<'r> {
    /// That the client used.
    pub scheme: Scheme,
    /// As sent: with port, any case. None when the request names no host.
    pub host: Option<&'r str>,
    pub path: &'r str,
    pub query: Option<&'r str>,
    pub method: &'r http::Method,
    pub headers: &'r http::HeaderMap,
    pub client_ip: IpAddr,
}

/// Which variant answers, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Index into [`RoutingTable::routes`].
    pub route: usize,
    /// Index into the route's variants.
    pub variant: usize,
    /// The variant that the rule or the weights chose, where that has no target and `variant` answers instead.
    pub instead_of: Option<usize>,
    /// Index of the rule that matched.
    pub rule: Option<usize>,
    /// The rule named a variant: left out of analysis.
    pub forced: bool,
    /// None when the variant was forced.
    pub bucket: Option<Bucket>,
    /// What the bucket is of; None when the variant was forced.
    pub key: Option<KeyFound>,
    /// The client has no anonymous id yet: this one is to be set as a cookie.
    pub new_client_id: Option<ClientId>,
}

/// An anonymous client's id: 128 random bits, 32 lower-case hexadecimal digits in the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId(pub u128);

impl ClientId {
    pub fn new(rng: &mut (impl rand::Rng + ?Sized)) -> ClientId {
        ClientId(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()))
    }

    /// The cookie's value, ASCII.
    pub fn to_hex(self) -> [u8; 32] {
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            pair[0] = HEX_DIGITS[usize::from(byte >> 4)];
            pair[1] = HEX_DIGITS[usize::from(byte & 15)];
        }
        digits
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

impl RoutingTable {
    pub fn new(routes: Vec<Route>) -> RoutingTable {
        let index = Index::new(routes.iter().map(|route| &route.matches));
        let of_many = |rules: &Vec<Rule>| (rules.len() >= INDEXED_FROM).then(|| Box::new(RuleIndex::new(rules)));
        let rule_indices = routes.iter().map(|route| of_many(&route.rules)).collect();
        RoutingTable { routes, index, rule_indices }
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The most specific route, its first matching rule or its weights; None when no route matches.
    pub fn route(&self, request: &RequestView<'_>, rng: &mut (impl rand::Rng + ?Sized)) -> Option<Decision> {
        let route = self.index.find(request, |route| &self.routes[route].matches)?;
        let rule = self.first_matching_rule(route, request);
        Some(self.routes[route].decide(route, rule, request, rng))
    }

    fn first_matching_rule(&self, route: usize, request: &RequestView<'_>) -> Option<usize> {
        let rules = &self.routes[route].rules;
        if rules.len() >= INDEXED_FROM
            && let Some(index) = &self.rule_indices[route]
        {
            return index.first_match(rules, request);
        }
        rules.iter().position(|rule| rule.when.matches(request))
    }
}

impl Route {
    fn decide(
        &self,
        route: usize,
        rule: Option<usize>,
        request: &RequestView<'_>,
        rng: &mut (impl rand::Rng + ?Sized),
    ) -> Decision {
        let split = match rule.map(|rule| &self.rules[rule].then) {
            Some(&Outcome::Variant(variant)) => {
                let new_client_id = self.sticky.as_ref().and_then(|sticky| sticky.new_client_id(request, rng));
                let (variant, instead_of) = self.in_service(variant);
                let (bucket, key) = (None, None);
                return Decision { route, variant, instead_of, rule, forced: true, bucket, key, new_client_id };
            }
            Some(Outcome::Split(split)) => split,
            None => &self.assignment,
        };
        let Place { bucket, key, new_client_id } = match &self.sticky {
            Some(sticky) => sticky.place(&self.salt, request, rng),
            None => Place::random(rng),
        };
        let (variant, instead_of) = self.in_service(split.pick(bucket));
        let (bucket, key) = (Some(bucket), Some(key));
        Decision { route, variant, instead_of, rule, forced: false, bucket, key, new_client_id }
    }

    /// The variant that answers requests for this one, and which it then stands in for.
    fn in_service(&self, chosen: usize) -> (usize, Option<usize>) {
        match self.variants[chosen].instead {
            None => (chosen, None),
            Some(other) => (other, Some(chosen)),
        }
    }

    /// A client with this bucket, whom no rule concerns, may stay with the variant: its own, or one that stands in.
    pub fn may_stay(&self, bucket: Bucket, variant: usize) -> bool {
        let own = self.assignment.pick(bucket);
        own == variant || self.variants[own].instead == Some(variant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::matcher::HostMatch;
    use crate::routing::rule::{Condition, Subject, Test};
    use crate::routing::split::Weight;
    use crate::routing::sticky::{Fallback, KeySource};
    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn percents(percents: &[f64]) -> Vec<Weight> {
        percents.iter().map(|&percent| Weight::from_percent(percent).unwrap()).collect()
    }

    fn route(name: &str, host: &str, weights: &[f64]) -> Route {
        let variant = |(pool, name): (usize, &str)| Variant { name: name.to_owned(), pool: Some(pool), instead: None };
        let names = ["stable", "canary", "third"];
        Route {
            name: name.to_owned(),
            matches: RequestMatch { host: HostMatch::parse(host).unwrap(), ..RequestMatch::default() },
            variants: names.into_iter().take(weights.len()).enumerate().map(variant).collect(),
            assignment: Assignment::starting(&percents(weights)).unwrap(),
            rules: Vec::new(),
            sticky: None,
            salt: name.to_owned(),
            timeout: Duration::from_secs(15),
            request_timeout: None,
            close_moved_within: None,
            recovery: None,
            filters: None,
        }
    }

    fn by_user(fallback: Fallback) -> Option<Sticky> {
        let keys = vec![KeySource::Header(HeaderName::from_static("x-user-id"))];
        Some(Sticky { keys, fallback })
    }

    fn header_rule(name: &'static str, then: Outcome) -> Rule {
        let subject = Subject::Header(HeaderName::from_static(name));
        Rule { name: name.to_owned(), when: Condition::Is(subject, Test::Present(true)), then }
    }

    fn request<'r>(host: &'r str, headers: &'r HeaderMap) -> RequestView<'r> {
        let client_ip = IpAddr::from([192, 0, 2, 7]);
        RequestView {
            scheme: Scheme::Http,
            host: Some(host),
            path: "/",
            query: None,
            method: &Method::GET,
            headers,
            client_ip,
        }
    }

    fn user(id: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static("x-user-id"), HeaderValue::from_str(id).unwrap())])
    }

    fn with_header(name: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("1"))])
    }

    /// Above this a fair split of two is refused once in a thousand.
    const CHI_SQUARE_LIMIT: f64 = 10.83;

    fn chi_square(seen: &[u64], percents: &[f64]) -> f64 {
        let total = seen.iter().sum::<u64>() as f64;
        let expected = percents.iter().map(|percent| total * percent / 100.0);
        seen.iter().zip(expected).map(|(&seen, expected)| (seen as f64 - expected).powi(2) / expected).sum()
    }

    #[test]
    fn client_ids_are_32_lower_case_digits() {
        assert_eq!(&ClientId(0xab).to_hex(), b"000000000000000000000000000000ab");
        let id = ClientId::new(&mut StdRng::seed_from_u64(1));
        assert_eq!(id.to_hex()[..], *format!("{:032x}", id.0).as_bytes());
    }

    #[test]
    fn request_goes_to_the_route_of_its_host() {
        let table = RoutingTable::new(vec![route("a", "a.test", &[100.0]), route("b", "*.test", &[0.0, 100.0])]);
        let (rng, headers) = (&mut StdRng::seed_from_u64(1), HeaderMap::new());
        let decision = table.route(&request("c.test:81", &headers), rng).unwrap();
        assert_eq!((decision.route, decision.variant, decision.rule, decision.forced), (1, 1, None, false));
        assert_eq!((decision.key, decision.new_client_id), (Some(KeyFound::Random), None));
        assert_eq!(table.route(&request("other", &headers), rng), None);
        assert_eq!(RoutingTable::default().route(&request("a.test", &headers), rng), None);
    }

    #[test]
    fn first_matching_rule_forces_or_splits() {
        let mut route = route("shop", "*", &[100.0, 0.0]);
        let half = Assignment::starting(&percents(&[50.0, 50.0])).unwrap();
        route.sticky = by_user(Fallback::Cookie { name: "weir_shop".to_owned(), ttl: Duration::from_secs(60) });
        route.rules =
            vec![header_rule("x-canary", Outcome::Variant(1)), header_rule("x-user-id", Outcome::Split(half.clone()))];
        let table = RoutingTable::new(vec![route]);
        let rng = &mut StdRng::seed_from_u64(1);

        let forced = table.route(&request("h", &with_header("x-canary")), rng).unwrap();
        assert_eq!((forced.variant, forced.rule, forced.forced, forced.bucket), (1, Some(0), true, None));
        assert!(forced.key.is_none() && forced.new_client_id.is_some());

        let split = table.route(&request("h", &user("u1")), rng).unwrap();
        let bucket = crate::routing::sticky::bucket_of("shop", b"u1");
        assert_eq!((split.rule, split.forced, split.bucket), (Some(1), false, Some(bucket)));
        assert_eq!((split.variant, split.key), (half.pick(bucket), Some(KeyFound::Listed(0))));

        let unmatched = table.route(&request("h", &HeaderMap::new()), rng).unwrap();
        assert_eq!((unmatched.variant, unmatched.rule, unmatched.key), (0, None, Some(KeyFound::ClientId)));
    }

    #[test]
    fn a_variant_without_a_target_is_stood_in_for_and_nothing_else_changes() {
        let mut route = route("shop", "*", &[60.0, 30.0, 10.0]);
        route.sticky = by_user(Fallback::Random);
        route.rules = vec![header_rule("x-canary", Outcome::Variant(1))];
        let before = RoutingTable::new(vec![route.clone()]);
        route.variants[1].instead = Some(0);
        let table = RoutingTable::new(vec![route]);
        for id in 0..1_000 {
            let headers = user(&format!("user-{id}"));
            let rng = || StdRng::seed_from_u64(id);
            let (was, is) =
                (before.route(&request("h", &headers), &mut rng()), table.route(&request("h", &headers), &mut rng()));
            let (was, is) = (was.unwrap(), is.unwrap());
            let expected = match was.variant {
                1 => Decision { variant: 0, instead_of: Some(1), ..was },
                _ => was,
            };
            assert_eq!(is, expected);
            let bucket = is.bucket.unwrap();
            let stays = |variant| table.routes()[0].may_stay(bucket, variant);
            assert!(stays(is.variant) && stays(is.instead_of.unwrap_or(is.variant)));
            assert_eq!(
                [0, 1, 2].into_iter().filter(|variant| stays(*variant)).count(),
                1 + usize::from(is.instead_of.is_some())
            );
        }
        let forced = table.route(&request("h", &with_header("x-canary")), &mut StdRng::seed_from_u64(1)).unwrap();
        assert_eq!((forced.variant, forced.instead_of, forced.forced), (0, Some(1), true));
    }

    #[test]
    fn million_random_requests_keep_the_shares() {
        let table = RoutingTable::new(vec![route("shop", "*", &[95.0, 5.0, 0.0])]);
        let (rng, headers) = (&mut StdRng::seed_from_u64(7), HeaderMap::new());
        let mut seen = [0; 3];
        for _ in 0..1_000_000 {
            seen[table.route(&request("h", &headers), rng).unwrap().variant] += 1;
        }
        assert_eq!(seen[2], 0);
        let statistic = chi_square(&seen[..2], &[95.0, 5.0]);
        assert!(statistic < CHI_SQUARE_LIMIT, "{statistic} {seen:?}");
    }

    /// Whether each of 100,000 users gets the canary.
    fn canary_users(percent: f64) -> Vec<bool> {
        let mut route = route("shop", "*", &[100.0 - percent, percent]);
        route.sticky = by_user(Fallback::Random);
        let table = RoutingTable::new(vec![route]);
        let rng = &mut StdRng::seed_from_u64(9);
        let variant = |id: usize| table.route(&request("h", &user(&format!("user-{id}"))), rng).unwrap().variant;
        (0..100_000).map(variant).map(|variant| variant == 1).collect()
    }

    #[test]
    fn hundred_thousand_users_keep_the_shares() {
        let canary = canary_users(5.0).into_iter().filter(|&canary| canary).count() as u64;
        let statistic = chi_square(&[100_000 - canary, canary], &[95.0, 5.0]);
        assert!(statistic < CHI_SQUARE_LIMIT, "{statistic} {canary}");
    }

    #[test]
    fn raising_a_share_keeps_every_user_and_moves_the_difference() {
        let (mut before, mut share) = (canary_users(0.0), 0.0);
        assert!(!before.contains(&true));
        for percent in [0.1, 1.0, 5.0, 10.0, 50.0, 100.0] {
            let after = canary_users(percent);
            let left = before.iter().zip(&after).filter(|(before, after)| **before && !**after).count();
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            assert_eq!(left, 0, "{percent}");
            let expected = (percent - share) * 1_000.0;
            let four_sigma = 4.0 * f64::sqrt(expected * (1.0 - (percent - share) / 100.0));
            assert!((moved as f64 - expected).abs() <= four_sigma, "{percent}: {moved} instead of {expected}");
            (before, share) = (after, percent);
        }
        assert!(!before.contains(&false));
    }
}
