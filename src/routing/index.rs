//! Finds the most specific route of a request without asking every route.
//!
//! Where routes are for one scheme only, those are looked up first, and then the others in the same way.
//!
//! A look-up is a hash of the host, one of the path, and one for each of the path's segment borders at which
//! some route's prefix ends, so it does not grow with the number of routes. Borders at lengths that no route
//! has are not hashed: a path of sixty thousand slashes costs what an ordinary one does.
//!
//! What can't be hashed is asked in the order of precedence, by the plain definition: the routes of a host with
//! a regular expression for the path, those of one host and path that differ by method, headers or query, and
//! those with a regular expression for the host whose path fits.

mod asked;

use super::matcher::{HostMatch, HostScratch, PathMatch, RequestMatch, host_name};
use super::table::RequestView;
use asked::Asked;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use xxhash_rust::xxh3::xxh3_64;

/// Routes by host, then by path; a route is its index in the file's order.
#[derive(Debug, Default)]
pub struct Index {
    /// Those for one scheme, which come before all others; most tables have none.
    of_one_scheme: Option<Box<[Hosts; 2]>>,
    of_both: Hosts,
}

/// The routes of one scheme, or of both.
#[derive(Debug, Default)]
struct Hosts {
    exact: Map<Paths>,
    wildcards: Map<Paths>,
    wildcard_lengths: Lengths,
    /// Of all hosts that are regular expressions, since only the path decides between two that match.
    regexes: Paths,
    any: Paths,
}

impl Index {
    /// Of two routes with the same match the first stays.
    pub fn new<'m>(matches: impl Iterator<Item = &'m RequestMatch>) -> Index {
        let mut index = Index::default();
        let matches: Vec<&RequestMatch> = matches.collect();
        let mut order: Vec<usize> = (0..matches.len()).collect();
        order.sort_by_cached_key(|&route| Reverse(matches[route].precedence()));
        for route in order {
            let hosts = match matches[route].scheme {
                Some(scheme) => &mut index.of_one_scheme.get_or_insert_default()[scheme as usize],
                None => &mut index.of_both,
            };
            hosts.paths_of(&matches[route].host).insert(matches[route], route);
        }
        let all = index.of_one_scheme.iter_mut().flat_map(|hosts| hosts.iter_mut()).chain([&mut index.of_both]);
        for leaf in all.flat_map(Hosts::leaves) {
            if let Leaf::Asked(asked) = leaf {
                asked.hash(|route| matches[route]);
            }
        }
        index
    }

    /// `match_of` gives the match of a route that the index was made of.
    pub fn find<'m>(&self, request: &RequestView<'_>, match_of: impl Fn(usize) -> &'m RequestMatch) -> Option<usize> {
        let mut scratch = HostScratch::default();
        let name = request.host.and_then(|host| host_name(host, &mut scratch));
        let takes = |route| match_of(route).misses_named(name, request).is_none();
        if let Some(hosts) = &self.of_one_scheme
            && let Some(route) = hosts[request.scheme as usize].find(name, request, &takes)
        {
            return Some(route);
        }
        self.of_both.find(name, request, &takes)
    }
}

impl Hosts {
    fn leaves(&mut self) -> impl Iterator<Item = &mut Leaf> {
        let hosts = self.exact.values_mut().chain(self.wildcards.values_mut());
        hosts.chain([&mut self.regexes, &mut self.any]).flat_map(Paths::leaves)
    }

    fn paths_of(&mut self, host: &HostMatch) -> &mut Paths {
        match host {
            HostMatch::Any => &mut self.any,
            HostMatch::Regex(_) => &mut self.regexes,
            HostMatch::Exact(name) => self.exact.entry(name.as_bytes().into()).or_default(),
            HostMatch::Wildcard(suffix) => {
                self.wildcard_lengths.insert(suffix.len());
                self.wildcards.entry(suffix.as_bytes().into()).or_default()
            }
        }
    }

    #[inline(always)]
    fn find(&self, name: Option<&[u8]>, request: &RequestView<'_>, takes: &impl Fn(usize) -> bool) -> Option<usize> {
        let exact = name.and_then(|name| self.exact.get(name)?.find(request, takes));
        exact.or_else(|| self.find_beyond_exact(name, request, takes))
    }

    #[inline(never)]
    fn find_beyond_exact(
        &self,
        name: Option<&[u8]>,
        request: &RequestView<'_>,
        takes: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let wildcard = name.filter(|_| !self.wildcards.is_empty()).and_then(|name| {
            let dots = name.iter().enumerate().filter(|&(_, &byte)| byte == b'.');
            let labels = dots.map(|(dot, _)| &name[dot + 1..]);
            let known = labels.filter(|suffix| self.wildcard_lengths.contains(suffix.len()));
            known.filter_map(|suffix| self.wildcards.get(suffix)).find_map(|paths| paths.find(request, takes))
        });
        let regex = || self.regexes.find(request, takes);
        wildcard.or_else(|| name.and_then(|_| regex())).or_else(|| self.any.find(request, takes))
    }
}

/// The routes of one host, inserted in the order of precedence. Small, so that many hosts fit into a cache.
#[derive(Debug, Default)]
struct Paths {
    /// Those of some paths only; most hosts have none.
    some: Option<Box<SomePaths>>,
    /// Those of the prefix `""`, which nearly every host has.
    all: Leaf,
}

#[derive(Debug, Default)]
struct SomePaths {
    exact: Map<Leaf>,
    /// Of all regular expressions.
    regexes: Leaf,
    prefixes: Map<Leaf>,
    prefix_lengths: Lengths,
}

impl Paths {
    fn insert(&mut self, matches: &RequestMatch, route: usize) {
        let leaf = match &matches.path {
            PathMatch::Prefix(prefix) if prefix.is_empty() => &mut self.all,
            path => self.some.get_or_insert_default().leaf(path),
        };
        let by_key = !matches!((&matches.host, &matches.path), (HostMatch::Regex(_), _) | (_, PathMatch::Regex(_)));
        leaf.insert(route, by_key && matches.methods.is_empty() && matches.conditions.is_empty());
    }

    fn leaves(&mut self) -> impl Iterator<Item = &mut Leaf> {
        let some = self
            .some
            .iter_mut()
            .flat_map(|some| some.exact.values_mut().chain(some.prefixes.values_mut()).chain([&mut some.regexes]));
        some.chain([&mut self.all])
    }

    #[inline(always)]
    fn find(&self, request: &RequestView<'_>, takes: &impl Fn(usize) -> bool) -> Option<usize> {
        let some = self.some.as_ref().and_then(|some| some.find(request, takes));
        some.or_else(|| self.all.find(request, takes))
    }
}

impl SomePaths {
    fn leaf(&mut self, path: &PathMatch) -> &mut Leaf {
        match path {
            PathMatch::Regex(_) => &mut self.regexes,
            PathMatch::Exact(path) => self.exact.entry(path.as_bytes().into()).or_default(),
            PathMatch::Prefix(prefix) => {
                self.prefix_lengths.insert(prefix.len());
                self.prefixes.entry(prefix.as_bytes().into()).or_default()
            }
        }
    }

    #[inline(always)]
    fn find(&self, request: &RequestView<'_>, takes: &impl Fn(usize) -> bool) -> Option<usize> {
        let path = request.path.as_bytes();
        if !self.exact.is_empty()
            && let Some(route) = self.exact.get(path).and_then(|leaf| leaf.find(request, takes))
        {
            return Some(route);
        }
        if let Some(route) = self.regexes.find(request, takes) {
            return Some(route);
        }
        let longest = self.prefix_lengths.longest.min(path.len());
        let border = |&end: &usize| end == path.len() || path[end] == b'/';
        for end in (1..longest + 1).rev().filter(border) {
            if self.prefix_lengths.contains(end)
                && let Some(route) = self.prefixes.get(&path[..end]).and_then(|leaf| leaf.find(request, takes))
            {
                return Some(route);
            }
        }
        None
    }
}

/// The routes that one look-up leads to.
#[derive(Debug, Default)]
enum Leaf {
    #[default]
    Empty,
    /// Takes whatever comes here.
    Taken(usize),
    Asked(Box<Asked>),
}

impl Leaf {
    /// `takes_all`: the look-up has compared everything that the route's match says.
    fn insert(&mut self, route: usize, takes_all: bool) {
        match self {
            Leaf::Empty if takes_all => *self = Leaf::Taken(route),
            Leaf::Empty => *self = Leaf::Asked(Box::new(Asked::new(route))),
            // Nothing gets past it.
            Leaf::Taken(_) => {}
            Leaf::Asked(asked) => asked.push(route),
        }
    }

    #[inline(always)]
    fn find(&self, request: &RequestView<'_>, takes: &impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Leaf::Empty => None,
            Leaf::Taken(route) => Some(*route),
            Leaf::Asked(asked) => asked.find(request, takes),
        }
    }
}

/// The keys' lengths: one bit each, up to the longest.
#[derive(Debug, Default)]
struct Lengths {
    words: Vec<u64>,
    longest: usize,
}

impl Lengths {
    fn insert(&mut self, length: usize) {
        if length / 64 >= self.words.len() {
            self.words.resize(length / 64 + 1, 0);
        }
        self.words[length / 64] |= 1 << (length % 64);
        self.longest = self.longest.max(length);
    }

    fn contains(&self, length: usize) -> bool {
        self.words.get(length / 64).is_some_and(|word| word >> (length % 64) & 1 == 1)
    }
}

/// By bytes.
pub(super) type Map<V> = HashMap<Box<[u8]>, V, BuildHasherDefault<Xxh3>>;

/// XXH3 of keys that are one slice, in one go; the keys in a map are the operator's, so a fixed seed is no danger.
#[derive(Default)]
pub(super) struct Xxh3(u64);

impl Hasher for Xxh3 {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    /// The slice's length comes before its bytes; XXH3 hashes the length itself.
    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::pattern::Pattern;
    use crate::routing::rule::Test;
    use crate::routing::samples::{self, Request, header};
    use http::Method;
    use proptest::prelude::*;

    fn matching(host: &str, path: PathMatch) -> RequestMatch {
        RequestMatch { host: HostMatch::parse(host).unwrap(), path, ..RequestMatch::default() }
    }

    fn prefix(host: &str, path: &str) -> RequestMatch {
        matching(host, PathMatch::prefix(path).unwrap())
    }

    fn exact(host: &str, path: &str) -> RequestMatch {
        matching(host, PathMatch::exact(path).unwrap())
    }

    fn regex(host: &str, path: &str) -> RequestMatch {
        matching(host, PathMatch::Regex(Pattern::new(path).unwrap()))
    }

    fn host_regex(host: &str, path: &str) -> RequestMatch {
        RequestMatch { host: HostMatch::Regex(Pattern::caseless(host).unwrap()), ..prefix("*", path) }
    }

    fn found(matches: &[RequestMatch], request: &Request) -> Option<usize> {
        Index::new(matches.iter()).find(&request.view(), |route| &matches[route])
    }

    #[test]
    fn most_specific_route_is_found() {
        let matches = [
            prefix("*", "/"),
            prefix("*.example.com", "/"),
            prefix("*.eu.example.com", "/"),
            prefix("shop.example.com", "/v1"),
            prefix("shop.example.com", "/v1/users"),
            exact("shop.example.com", "/v1"),
            exact("shop.example.com", "/v1"),
            regex("shop.example.com", "^/v1/users/[0-9]+$"),
            host_regex("^(shop|api)[.]", "/"),
            host_regex("[.]org$", "/a"),
        ];
        for (host, path, route) in [
            (None, "/", Some(0)),
            (Some("example.com"), "/", Some(0)),
            (Some("a.b.example.com"), "/", Some(1)),
            (Some("a.eu.example.com:81"), "/", Some(2)),
            (Some("SHOP.example.com."), "/v1", Some(5)),
            (Some("shop.example.com"), "/v1/", Some(3)),
            (Some("shop.example.com"), "/v1/users/x", Some(4)),
            (Some("shop.example.com"), "/v1/users/7", Some(7)),
            (Some("shop.example.com"), "/v1/usersx", Some(3)),
            (Some("shop.example.com"), "/v10", Some(1)),
            (Some("shop.example.com"), "*", Some(1)),
            (Some("shop.example.org"), "/", Some(8)),
            (Some("shop.example.org"), "/a/b", Some(9)),
            (Some("other.example.org"), "/", Some(0)),
        ] {
            assert_eq!(found(&matches, &Request::get(host, path)), route, "{host:?} {path}");
        }
    }

    #[test]
    fn nothing_matches_an_empty_table() {
        assert_eq!(found(&[], &Request::get(Some("shop"), "/")), None);
        assert_eq!(found(&[prefix("shop", "/v1")], &Request::get(Some("shop"), "/v2")), None);
    }

    #[test]
    fn what_a_condition_refuses_goes_on_to_the_next_route() {
        let canary = vec![header("x-canary", Test::Equals("true".to_owned()))];
        let matches = [
            prefix("*", "/"),
            RequestMatch { conditions: canary, ..prefix("shop.test", "/v1") },
            RequestMatch { methods: vec![Method::PUT], ..prefix("shop.test", "/v1") },
            RequestMatch { methods: vec![Method::POST], ..exact("shop.test", "/v1") },
            RequestMatch { methods: vec![Method::DELETE], ..prefix("shop.test", "/") },
        ];
        let mut request = Request::get(Some("shop.test"), "/v1");
        assert_eq!(found(&matches, &request), Some(0));
        request.headers.insert("x-canary", "true".parse().unwrap());
        assert_eq!(found(&matches, &request), Some(1));
        for (method, route) in [(Method::PUT, 2), (Method::POST, 3), (Method::DELETE, 1)] {
            request.method = method;
            assert_eq!(found(&matches, &request), Some(route), "{}", request.method);
        }
        request.headers.clear();
        assert_eq!(found(&matches, &request), Some(4));
        assert_eq!(found(&matches[1..3], &request), None);
    }

    #[test]
    fn every_path_of_ten_thousand_is_found() {
        let matches: Vec<RequestMatch> = (0..10_000).map(|n| prefix("shop.test", &format!("/s{n}/api"))).collect();
        let index = Index::new(matches.iter());
        for n in 0..10_000 {
            let request = Request::get(Some("shop.test"), &format!("/s{n}/api/users"));
            assert_eq!(index.find(&request.view(), |route| &matches[route]), Some(n));
        }
    }

    /// The definition: ask every route, take the most specific, the first on a tie.
    fn asked_one_by_one(matches: &[RequestMatch], request: &Request) -> Option<usize> {
        let taking = matches.iter().enumerate().filter(|(_, route)| route.takes(&request.view()));
        taking.min_by_key(|&(position, route)| (Reverse(route.precedence()), position)).map(|(position, _)| position)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn index_agrees_with_asking_every_route(
            matches in samples::tables(40),
            requests in prop::collection::vec(samples::requests(), 1..30),
        ) {
            let index = Index::new(matches.iter());
            for request in &requests {
                let found = index.find(&request.view(), |route| &matches[route]);
                prop_assert_eq!(found, asked_one_by_one(&matches, request), "{:?}", request);
            }
        }

        #[test]
        fn order_of_the_file_decides_only_between_equals(
            (matches, shuffled) in samples::tables(40).prop_flat_map(|mut matches| {
                let mut seen = Vec::new();
                matches.retain(|route| {
                    let new = !seen.contains(&route.precedence());
                    seen.push(route.precedence());
                    new
                });
                (Just(matches.clone()), Just(matches).prop_shuffle())
            }),
            requests in prop::collection::vec(samples::requests(), 1..30),
        ) {
            for request in &requests {
                let winner = |matches: &[RequestMatch]| found(matches, request).map(|route| matches[route].clone());
                prop_assert_eq!(winner(&matches), winner(&shuffled), "{:?}", request);
            }
        }
    }
}
