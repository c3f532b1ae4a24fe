//! Routes that can get no request, since another one takes everything that they could.
//!
//! This is for the warnings of a check, so what is said must hold for every request; what is not said may be true
//! as well. Only two routes at a time are held against each other, and part by part, from what is certain of tests
//! and patterns: two routes that together take all of a third's requests are not seen.

use super::matcher::{HostMatch, PathMatch, Precedence, RequestMatch};
use super::pattern::Pattern;
use super::rule::Test;
use super::scheme::Scheme;
use std::collections::HashMap;

/// A route that gets no request; routes are indices in the file's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable {
    pub route: usize,
    /// The one that takes them all.
    pub by: usize,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Both match the same, and `by` comes first.
    Same,
    /// `by` is as specific and comes first.
    First,
    /// `by` is more specific.
    Precedence,
}

/// The most routes that one is held against, so that many routes take no long time. Only those count that may take
/// more than an equal match does; equal ones are found without.
const OTHERS: usize = 64;

/// At most one for each route, in the file's order.
pub fn unreachable(matches: &[&RequestMatch]) -> Vec<Unreachable> {
    let search = Search::new(matches);
    let mut first = HashMap::new();
    let mut found = Vec::new();
    for (route, matches) in matches.iter().enumerate() {
        let earlier = *first.entry(*matches).or_insert(route);
        if earlier != route {
            found.push(Unreachable { route, by: earlier, why: Why::Same });
        } else if let Some(by) = search.taker_of(route) {
            let same = search.routes[by].precedence == search.routes[route].precedence;
            found.push(Unreachable { route, by, why: if same { Why::First } else { Why::Precedence } });
        }
    }
    found
}

struct Search<'m> {
    routes: Vec<Route<'m>>,
    known: HashMap<&'m Pattern, Known>,
    groups: HashMap<(Option<Scheme>, &'m HostMatch), Group<'m>>,
    /// Regular expressions that take every host name.
    whole_hosts: Vec<&'m HostMatch>,
}

struct Route<'m> {
    matches: &'m RequestMatch,
    precedence: Precedence,
}

/// What is certain of a pattern.
struct Known {
    open: Option<Pattern>,
    tail: String,
}

/// The routes of one scheme and host. Of another scheme, or of both, none takes all of a route's requests and is asked
/// before it.
#[derive(Default)]
struct Group<'m> {
    by_path: HashMap<&'m PathMatch, Vec<usize>>,
    /// Those of `by_path` that may take more than an equal match on the same host and path.
    wide: HashMap<&'m PathMatch, Vec<usize>>,
    /// Those with a regular expression for the path.
    regexes: Vec<usize>,
}

impl<'m> Search<'m> {
    fn new(matches: &[&'m RequestMatch]) -> Search<'m> {
        let routes = matches.iter().map(|matches| Route { matches, precedence: matches.precedence() }).collect();
        let mut search = Search { routes, known: HashMap::new(), groups: HashMap::new(), whole_hosts: Vec::new() };
        for (route, matches) in matches.iter().enumerate() {
            if let HostMatch::Regex(pattern) = &matches.host
                && search.know(pattern).takes_every_text()
                && !search.whole_hosts.contains(&&matches.host)
            {
                search.whole_hosts.push(&matches.host);
            }
            if let PathMatch::Regex(pattern) = &matches.path {
                search.know(pattern);
            }
            search.groups.entry((matches.scheme, &matches.host)).or_default().insert(route, matches);
        }
        search
    }

    fn know(&mut self, pattern: &'m Pattern) -> &Known {
        let known = || Known { open: pattern.open_ended(), tail: pattern.tail() };
        self.known.entry(pattern).or_insert_with(known)
    }

    /// A route that is asked before this one and takes all of its requests.
    fn taker_of(&self, route: usize) -> Option<usize> {
        let RequestMatch { scheme, host, path, .. } = self.routes[route].matches;
        let mut lists: Vec<&[usize]> = Vec::new();
        let hosts = self.hosts_over(host);
        for over in &hosts {
            let Some(group) = self.groups.get(&(*scheme, over)) else { continue };
            if over == host {
                lists.extend(group.wide.get(path).map(Vec::as_slice));
            } else {
                lists.extend(paths_over(path).iter().filter_map(|path| Some(group.by_path.get(path)?.as_slice())));
            }
            lists.push(&group.regexes);
        }
        let matches = |other: usize| self.routes[other].matches;
        let mut others = lists.into_iter().flatten().copied().take(OTHERS);
        others.find(|&other| self.comes_before(other, route) && self.covers(matches(other), matches(route)))
    }

    /// Hosts of which some take every name that `host` takes, and are asked no later.
    fn hosts_over(&self, host: &HostMatch) -> Vec<HostMatch> {
        let mut hosts = vec![host.clone()];
        if let HostMatch::Regex(pattern) = host {
            let tail = self.known.get(pattern).map_or("", |known| &known.tail);
            let labels = tail.match_indices('.').map(|(dot, _)| HostMatch::Wildcard(tail[dot + 1..].to_owned()));
            hosts.extend(labels);
            hosts.extend(self.whole_hosts.iter().filter(|whole| **whole != host).map(|&whole| whole.clone()));
        }
        hosts
    }

    fn comes_before(&self, one: usize, other: usize) -> bool {
        let (specific, position) = (self.routes[one].precedence.cmp(&self.routes[other].precedence), one.cmp(&other));
        specific.is_gt() || (specific.is_eq() && position.is_lt())
    }

    /// Whether `one` certainly takes every request that `other` takes.
    fn covers(&self, one: &RequestMatch, other: &RequestMatch) -> bool {
        let methods = one.methods.is_empty()
            || (!other.methods.is_empty() && other.methods.iter().all(|method| one.methods.contains(method)));
        let conditions = one.conditions.iter().all(|(subject, wanted)| {
            other.conditions.iter().any(|(there, given)| there == subject && implies(given, wanted))
        });
        let scheme = one.scheme.is_none() || one.scheme == other.scheme;
        scheme
            && methods
            && conditions
            && self.covers_host(&one.host, &other.host)
            && self.covers_path(&one.path, &other.path)
    }

    fn covers_host(&self, one: &HostMatch, other: &HostMatch) -> bool {
        match (one, other) {
            _ if one == other => true,
            (HostMatch::Wildcard(suffix), HostMatch::Regex(pattern)) => self.known.get(pattern).is_some_and(|known| {
                known.tail.strip_suffix(suffix.as_str()).is_some_and(|front| front.ends_with('.'))
            }),
            (HostMatch::Regex(pattern), HostMatch::Regex(_)) => {
                self.known.get(pattern).is_some_and(Known::takes_every_text)
            }
            // The others that take more are asked later.
            _ => false,
        }
    }

    fn covers_path(&self, one: &PathMatch, other: &PathMatch) -> bool {
        match (one, other) {
            _ if one == other => true,
            (PathMatch::Prefix(prefix), _) if prefix.is_empty() => true,
            (PathMatch::Prefix(_), PathMatch::Prefix(path)) => one.takes(path),
            (_, PathMatch::Exact(path)) => one.takes(path),
            (PathMatch::Regex(pattern), PathMatch::Prefix(prefix)) => {
                self.known.get(pattern).is_some_and(|known| known.takes_every_text_from(prefix))
            }
            (PathMatch::Regex(pattern), PathMatch::Regex(_)) => {
                self.known.get(pattern).is_some_and(Known::takes_every_text)
            }
            _ => false,
        }
    }
}

impl Known {
    fn takes_every_text(&self) -> bool {
        self.takes_every_text_from("")
    }

    fn takes_every_text_from(&self, start: &str) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_match(start.as_bytes()))
    }
}

impl<'m> Group<'m> {
    fn insert(&mut self, route: usize, matches: &'m RequestMatch) {
        let RequestMatch { path, methods, conditions, .. } = matches;
        self.by_path.entry(path).or_default().push(route);
        let narrow = |test: &Test| matches!(test, Test::Equals(_) | Test::Present(false));
        if methods.len() > 1 || !conditions.iter().all(|(_, test)| narrow(test)) {
            self.wide.entry(path).or_default().push(route);
        }
        if matches!(path, PathMatch::Regex(_)) {
            self.regexes.push(route);
        }
    }
}

/// The path itself, and the prefixes that take all of it.
fn paths_over(path: &PathMatch) -> Vec<PathMatch> {
    let mut over = vec![path.clone()];
    if let PathMatch::Prefix(text) | PathMatch::Exact(text) = path {
        let borders = text.match_indices('/').map(|(at, _)| PathMatch::Prefix(text[..at].to_owned()));
        over.extend(borders);
        over.push(PathMatch::Prefix(text.clone()));
    } else {
        over.push(PathMatch::default());
    }
    over
}

/// Whether whatever passes `given` certainly passes `wanted`.
fn implies(given: &Test, wanted: &Test) -> bool {
    match (given, wanted) {
        _ if given == wanted => true,
        // What a file lists may change.
        (Test::Present(_), _) | (_, Test::Present(false) | Test::InFile(_)) => false,
        (_, Test::Present(true)) => true,
        (Test::Equals(value), _) => wanted.passes(value.as_bytes()),
        (Test::In(values), _) => values.iter().all(|value| wanted.passes(value.as_bytes())),
        (Test::Prefix(longer), Test::Prefix(prefix)) => longer.starts_with(prefix.as_str()),
        (Test::Suffix(longer), Test::Suffix(suffix)) => longer.ends_with(suffix.as_str()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::index::Index;
    use crate::routing::list::ValueList;
    use crate::routing::rule::FileList;
    use crate::routing::samples::{self, header, query};
    use http::Method;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn on(host: &str, path: &str) -> RequestMatch {
        let host = match host.strip_prefix('~') {
            Some(text) => HostMatch::Regex(Pattern::caseless(text).unwrap()),
            None => HostMatch::parse(host).unwrap(),
        };
        let path = match path.strip_prefix('~') {
            Some(text) => PathMatch::Regex(Pattern::new(text).unwrap()),
            None => match path.strip_prefix('=') {
                Some(path) => PathMatch::exact(path).unwrap(),
                None => PathMatch::prefix(path).unwrap(),
            },
        };
        RequestMatch { host, path, ..RequestMatch::default() }
    }

    fn is(value: &str) -> Test {
        Test::Equals(value.to_owned())
    }

    /// Whether of these two routes the second gets no request, and why.
    fn second(one: &RequestMatch, other: &RequestMatch) -> Option<Why> {
        match unreachable(&[one, other]).as_slice() {
            [] => None,
            [Unreachable { route: 1, by: 0, why }] => Some(*why),
            found => panic!("{found:?}"),
        }
    }

    #[test]
    fn a_more_specific_route_that_takes_all_is_found() {
        for (one, other, found) in [
            (("a.test", "/"), ("A.test.", "/"), Some(Why::Same)),
            (("*", "~x"), ("*", "~x"), Some(Why::Same)),
            (("*", "~.*"), ("*", "/"), Some(Why::Precedence)),
            (("*", "~^/.*$"), ("*", "/v1"), Some(Why::Precedence)),
            // OPTIONS * is left for it.
            (("*", "~^/.*$"), ("*", "/"), None),
            (("*", "~^/v1"), ("*", "/v1/users"), Some(Why::Precedence)),
            (("*", "~^/v1$"), ("*", "/v1"), None),
            (("*", "~.*"), ("*", "=/v1"), None),
            (("*", "~.*"), ("*", "~^/v1"), Some(Why::First)),
            (("*", "~^/v1"), ("*", "~.*"), None),
            (("a.test", "~.*"), ("b.test", "/"), None),
            (("*", "/"), ("*", "/v1"), None),
            (("*.test", "/"), ("a.test", "/"), None),
            (("*.test", "/"), ("~^(a|b)[.]test$", "/v1"), Some(Why::Precedence)),
            (("*.test", "/v1"), ("~^(a|b)[.]test$", "/v1/users"), Some(Why::Precedence)),
            (("*.test", "~^/v1"), ("~^(a|b)[.]test$", "=/v1"), Some(Why::Precedence)),
            (("*.test", "/v2"), ("~^(a|b)[.]test$", "/v1"), None),
            (("*.test", "/"), ("~^(a|b)test$", "/"), None),
            (("*.test", "/"), ("~[.]test", "/"), None),
            (("~.*", "/"), ("~^a", "/"), Some(Why::First)),
            (("~.*", "/v1"), ("~^a", "/"), None),
            // A request without a host is left for it.
            (("~.*", "/"), ("*", "/"), None),
        ] {
            assert_eq!(second(&on(one.0, one.1), &on(other.0, other.1)), found, "{one:?} {other:?}");
        }
    }

    #[test]
    fn conditions_are_held_against_each_other() {
        let with = |methods: &[Method], conditions: &[(_, Test)]| {
            RequestMatch { methods: methods.into(), conditions: conditions.into(), ..on("*", "/") }.normalised()
        };
        let (none, get, both) = (&[][..], &[Method::GET][..], &[Method::GET, Method::PUT][..]);
        let x = |test| header("x", test);
        let in_file = |list| {
            let values = Arc::new(ValueList::of([&b"1"[..]]));
            Test::InFile(FileList { name: "ids.txt".into(), list, values })
        };
        let one_of = |values: &[&str]| Test::In(values.iter().map(|&value| value.to_owned()).collect());
        for (one, other, found) in [
            (with(get, &[]), with(get, &[]), Some(Why::Same)),
            (with(both, &[]), with(get, &[]), Some(Why::First)),
            (with(get, &[]), with(both, &[]), None),
            (with(get, &[]), with(none, &[]), None),
            (
                with(none, &[x(is("1")), query("q", is("1"))]),
                with(none, &[query("q", is("1")), x(is("1"))]),
                Some(Why::Same),
            ),
            (with(none, &[x(Test::Present(true))]), with(none, &[x(is("1"))]), Some(Why::First)),
            (with(none, &[x(Test::Present(false))]), with(none, &[x(is("1"))]), None),
            (with(none, &[x(one_of(&["1", "2"]))]), with(none, &[x(is("1"))]), Some(Why::First)),
            (with(none, &[x(Test::Prefix("a".to_owned()))]), with(none, &[x(one_of(&["ab", "a"]))]), Some(Why::First)),
            (with(none, &[x(Test::Prefix("a".to_owned()))]), with(none, &[x(one_of(&["ab", "b"]))]), None),
            (with(none, &[x(in_file(0))]), with(none, &[x(is("1"))]), None),
            (with(none, &[x(in_file(0))]), with(none, &[x(in_file(1))]), None),
            (with(none, &[x(in_file(0))]), with(none, &[x(in_file(0))]), Some(Why::Same)),
            (with(none, &[x(Test::Present(true))]), with(none, &[x(in_file(0))]), Some(Why::First)),
            (with(none, &[x(Test::Present(true))]), with(none, &[header("y", is("1"))]), None),
            (
                with(none, &[x(Test::Present(true)), x(Test::Prefix("a".to_owned()))]),
                with(none, &[x(is("ab"))]),
                Some(Why::Precedence),
            ),
        ] {
            assert_eq!(second(&one, &other), found, "{one:?} {other:?}");
        }
    }

    #[test]
    fn first_of_the_same_is_named() {
        let routes = ["a.test", "b.test", "a.test", "*.test", "a.test"].map(|host| on(host, "/"));
        let found = unreachable(&routes.each_ref());
        assert_eq!(found, [2, 4].map(|route| Unreachable { route, by: 0, why: Why::Same }));
    }

    #[test]
    fn the_same_are_found_among_ten_thousand() {
        let path_regex = |n: usize| on("*", &format!("~^/s{}/", n % 100));
        let tenant = |n: usize| RequestMatch { conditions: vec![header("x", is(&n.to_string()))], ..on("*", "/") };
        let wide = |n: usize| {
            let test = Test::Prefix(format!("{n:05}"));
            RequestMatch { conditions: vec![header("x", test), query("q", is(&n.to_string()))], ..on("*", "/wide") }
        };
        let routes: Vec<RequestMatch> = (0..10_000)
            .map(|n| match n % 4 {
                0 => path_regex(n),
                1 => tenant(n),
                2 => wide(n),
                _ => on(&format!("h{n}.test"), "/"),
            })
            .collect();
        let found = unreachable(&routes.iter().collect::<Vec<_>>());
        assert_eq!(found.iter().filter(|one| one.why == Why::Same).count(), 2_500 - 25);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn unreachable_routes_get_no_request(
            matches in samples::tables(20),
            requests in prop::collection::vec(samples::requests(), 40),
        ) {
            let found = unreachable(&matches.iter().collect::<Vec<_>>());
            let index = Index::new(matches.iter());
            for request in &requests {
                let winner = index.find(&request.view(), |route| &matches[route]);
                for one in &found {
                    prop_assert!(winner != Some(one.route), "{:?} {:?} {:?}", one, matches[one.route], matches[one.by]);
                    let (lost, takes) = (&matches[one.route], &matches[one.by]);
                    prop_assert!(!lost.takes(&request.view()) || takes.takes(&request.view()), "{lost:?} {takes:?}");
                }
            }
        }

        #[test]
        fn implied_tests_pass(given in samples::tests(), wanted in samples::tests(), request in samples::requests()) {
            let (header, query) = (|test| header("x", test), |test| query("q", test));
            if implies(&given, &wanted) {
                for ((subject, given), (_, wanted)) in [(header(given.clone()), header(wanted.clone())), (query(given), query(wanted))] {
                    prop_assert!(!subject.passes(&request.view(), &given) || subject.passes(&request.view(), &wanted));
                }
            }
        }
    }
}
