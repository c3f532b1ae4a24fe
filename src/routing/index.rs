//! Finds the most specific route of a host and a path without asking every route.
//!
//! A look-up is a hash of the host, one of the path, and one for each of the path's segment borders at which
//! some route's prefix ends, so it does not grow with the number of routes. Borders at lengths that no route
//! has are not hashed: a path of sixty thousand slashes costs what an ordinary one does.

use super::matcher::{HostMatch, HostScratch, PathMatch, RequestMatch, host_name};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use xxhash_rust::xxh3::xxh3_64;

/// Routes by host, then by path; a route is its index in the file's order.
#[derive(Debug, Default)]
pub struct Index {
    exact: Map<Paths>,
    wildcards: Map<Paths>,
    wildcard_lengths: Lengths,
    any: Paths,
}

impl Index {
    /// Of two routes with the same match the first stays.
    pub fn new<'m>(matches: impl Iterator<Item = &'m RequestMatch>) -> Index {
        let mut index = Index::default();
        for (route, RequestMatch { host, path }) in matches.enumerate() {
            let paths = match host {
                HostMatch::Any => &mut index.any,
                HostMatch::Exact(name) => index.exact.entry(name.as_bytes().into()).or_default(),
                HostMatch::Wildcard(suffix) => {
                    index.wildcard_lengths.insert(suffix.len());
                    index.wildcards.entry(suffix.as_bytes().into()).or_default()
                }
            };
            paths.insert(path, route);
        }
        index
    }

    /// `host` as sent, `path` without the query.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<usize> {
        let path = path.as_bytes();
        let mut scratch = HostScratch::default();
        let name = host.and_then(|host| host_name(host, &mut scratch));
        name.and_then(|name| self.find_named(name, path)).or_else(|| self.any.find(path))
    }

    fn find_named(&self, name: &[u8], path: &[u8]) -> Option<usize> {
        let exact = self.exact.get(name).and_then(|paths| paths.find(path));
        if exact.is_some() || self.wildcards.is_empty() {
            return exact;
        }
        let labels = name.iter().enumerate().filter(|&(_, &byte)| byte == b'.').map(|(dot, _)| &name[dot + 1..]);
        labels
            .filter(|suffix| self.wildcard_lengths.contains(suffix.len()))
            .find_map(|suffix| self.wildcards.get(suffix)?.find(path))
    }
}

/// The routes of one host.
#[derive(Debug, Default)]
struct Paths {
    exact: Map<usize>,
    prefixes: Map<usize>,
    prefix_lengths: Lengths,
    /// The prefix `""`, which nearly every host has: without a look-up.
    all: Option<usize>,
}

impl Paths {
    fn insert(&mut self, path: &PathMatch, route: usize) {
        match path {
            PathMatch::Exact(path) => {
                self.exact.entry(path.as_bytes().into()).or_insert(route);
            }
            PathMatch::Prefix(prefix) if prefix.is_empty() => {
                self.all.get_or_insert(route);
            }
            PathMatch::Prefix(prefix) => {
                self.prefix_lengths.insert(prefix.len());
                self.prefixes.entry(prefix.as_bytes().into()).or_insert(route);
            }
        }
    }

    fn find(&self, path: &[u8]) -> Option<usize> {
        if !self.exact.is_empty()
            && let Some(&route) = self.exact.get(path)
        {
            return Some(route);
        }
        let longest = self.prefix_lengths.longest.min(path.len());
        let border = |&end: &usize| end == path.len() || path[end] == b'/';
        let borders = (1..=longest).rev().filter(border).filter(|&end| self.prefix_lengths.contains(end));
        borders.map(|end| &path[..end]).find_map(|prefix| self.prefixes.get(prefix).copied()).or(self.all)
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
    use crate::routing::matcher::PathMatch;
    use proptest::prelude::*;
    use std::cmp::Reverse;

    fn matching(host: &str, path: PathMatch) -> RequestMatch {
        RequestMatch { host: HostMatch::parse(host).unwrap(), path }
    }

    fn prefix(host: &str, path: &str) -> RequestMatch {
        matching(host, PathMatch::prefix(path).unwrap())
    }

    fn exact(host: &str, path: &str) -> RequestMatch {
        matching(host, PathMatch::exact(path).unwrap())
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
        ];
        let index = Index::new(matches.iter());
        for (host, path, route) in [
            (None, "/", Some(0)),
            (Some("example.com"), "/", Some(0)),
            (Some("a.b.example.com"), "/", Some(1)),
            (Some("a.eu.example.com:81"), "/", Some(2)),
            (Some("SHOP.example.com."), "/v1", Some(5)),
            (Some("shop.example.com"), "/v1/", Some(3)),
            (Some("shop.example.com"), "/v1/users/7", Some(4)),
            (Some("shop.example.com"), "/v1/usersx", Some(3)),
            (Some("shop.example.com"), "/v10", Some(1)),
            (Some("shop.example.com"), "*", Some(1)),
        ] {
            assert_eq!(index.find(host, path), route, "{host:?} {path}");
        }
    }

    #[test]
    fn nothing_matches_an_empty_table() {
        assert_eq!(Index::default().find(Some("shop"), "/"), None);
        assert_eq!(Index::new([prefix("shop", "/v1")].iter()).find(Some("shop"), "/v2"), None);
    }

    #[test]
    fn every_path_of_ten_thousand_is_found() {
        let matches: Vec<RequestMatch> = (0..10_000).map(|n| prefix("shop.test", &format!("/s{n}/api"))).collect();
        let index = Index::new(matches.iter());
        for n in 0..10_000 {
            assert_eq!(index.find(Some("shop.test"), &format!("/s{n}/api/users")), Some(n));
        }
    }

    /// The definition: ask every route, take the most specific, the first on a tie.
    fn asked_one_by_one(matches: &[RequestMatch], host: Option<&str>, path: &str) -> Option<usize> {
        let taking = matches.iter().enumerate().filter(|(_, route)| route.takes(host, path));
        taking.min_by_key(|&(position, route)| (Reverse(route.precedence()), position)).map(|(position, _)| position)
    }

    fn hosts() -> impl Strategy<Value = String> {
        let name = "([abA]\\.){0,3}[ab]";
        prop_oneof![3 => name, 2 => name.prop_map(|name: String| format!("*.{name}")), 1 => Just("*".to_owned())]
    }

    fn paths() -> impl Strategy<Value = String> {
        "/([ab]{0,2}/){0,3}[ab]{0,2}"
    }

    fn matches() -> impl Strategy<Value = RequestMatch> {
        (hosts(), paths(), any::<bool>())
            .prop_map(|(host, path, whole)| if whole { exact(&host, &path) } else { prefix(&host, &path) })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn index_agrees_with_asking_every_route(
            matches in prop::collection::vec(matches(), 0..30),
            requests in prop::collection::vec((prop::option::of("\\.?([abAB]\\.){0,3}[ab]?(:80)?"), paths()), 1..30),
        ) {
            let index = Index::new(matches.iter());
            for (host, path) in &requests {
                let host = host.as_deref();
                prop_assert_eq!(index.find(host, path), asked_one_by_one(&matches, host, path), "{:?} {}", host, path);
            }
        }
    }
}
