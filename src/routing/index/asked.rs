//! Routes of which only the request's method, headers, query or a regular expression tell who takes it: they are
//! asked one by one, in the order of precedence.
//!
//! Two kinds can be many, and of them only those are asked that a hash finds: routes that want different values in
//! one place, as of a header with a tenant's name, and regular expressions whose paths begin differently.

use super::{Lengths, Map};
use crate::routing::matcher::{PathMatch, RequestMatch};
use crate::routing::rule::{Subject, Test};
use crate::routing::table::RequestView;
use std::collections::HashMap;

/// As many routes must want a value of the same header or query parameter for the values to be hashed.
const WORTH_HASHING: usize = 4;

#[derive(Debug)]
pub struct Asked {
    /// In the order of precedence; a rank is an index into it.
    routes: Vec<usize>,
    /// Ranks of those that are asked whatever the values are, ascending.
    always: Vec<usize>,
    by_value: Option<Box<ByValue>>,
    by_head: Option<Box<ByHead>>,
}

#[derive(Debug)]
struct ByValue {
    subject: Subject,
    /// Ranks by the value that they want there, ascending.
    ranks: Map<Vec<usize>>,
}

/// Regular expressions for the path.
#[derive(Debug, Default)]
struct ByHead {
    /// Ranks by what the path begins with, up to and with a slash; ascending.
    ranks: Map<Vec<usize>>,
    lengths: Lengths,
}

impl Asked {
    pub fn new(first: usize) -> Asked {
        Asked { routes: vec![first], always: vec![0], by_value: None, by_head: None }
    }

    /// The next route in the order of precedence.
    pub fn push(&mut self, route: usize) {
        self.always.push(self.routes.len());
        self.routes.push(route);
    }

    /// To be called when all routes are there.
    pub fn hash<'m>(&mut self, match_of: impl Fn(usize) -> &'m RequestMatch) {
        self.hash_values(&match_of);
        self.hash_heads(&match_of);
    }

    fn hash_values<'m>(&mut self, match_of: &impl Fn(usize) -> &'m RequestMatch) {
        let mut counts: HashMap<&Subject, usize> = HashMap::new();
        for &route in &self.routes {
            for (subject, test) in &match_of(route).conditions {
                if matches!(test, Test::Equals(_)) {
                    *counts.entry(subject).or_default() += 1;
                }
            }
        }
        let Some((subject, _)) = counts.into_iter().filter(|one| one.1 >= WORTH_HASHING).max_by_key(|one| one.1) else {
            return;
        };
        let mut ranks: Map<Vec<usize>> = Map::default();
        self.always.retain(|&rank| {
            let wanted = match_of(self.routes[rank]).conditions.iter().find_map(|(on, test)| match test {
                Test::Equals(value) if on == subject => Some(value),
                _ => None,
            });
            let Some(value) = wanted else { return true };
            ranks.entry(value.as_bytes().into()).or_default().push(rank);
            false
        });
        self.by_value = Some(Box::new(ByValue { subject: subject.clone(), ranks }));
    }

    fn hash_heads<'m>(&mut self, match_of: &impl Fn(usize) -> &'m RequestMatch) {
        let mut by_head = ByHead::default();
        self.always.retain(|&rank| {
            let PathMatch::Regex(pattern) = &match_of(self.routes[rank]).path else { return true };
            let Some(slash) = pattern.head().rfind('/') else { return true };
            by_head.lengths.insert(slash + 1);
            by_head.ranks.entry(pattern.head().as_bytes()[..=slash].into()).or_default().push(rank);
            false
        });
        self.by_head = Some(by_head).filter(|by_head| !by_head.ranks.is_empty()).map(Box::new);
    }

    /// The first route that takes the request. Apart from the look-ups, since most requests do without.
    #[inline(never)]
    pub fn find(&self, request: &RequestView<'_>, takes: &impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = self.routes.len();
        let better = |ranks: &[usize], best: usize| {
            let mut ranks = ranks.iter().copied().take_while(|&rank| rank < best);
            ranks.find(|&rank| takes(self.routes[rank])).unwrap_or(best)
        };
        if let Some(ByValue { subject, ranks }) = self.by_value.as_deref() {
            subject.any(request, |value| {
                best = ranks.get(value).map_or(best, |ranks| better(ranks, best));
                false
            });
        }
        if let Some(ByHead { ranks, lengths }) = self.by_head.as_deref() {
            let path = request.path.as_bytes();
            let slashes = (1..lengths.longest.min(path.len()) + 1).filter(|&end| path[end - 1] == b'/');
            for end in slashes.filter(|&end| lengths.contains(end)) {
                best = ranks.get(&path[..end]).map_or(best, |ranks| better(ranks, best));
            }
        }
        best = better(&self.always, best);
        self.routes.get(best).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::pattern::Pattern;
    use crate::routing::samples::{self, Request, header, query};
    use proptest::prelude::*;
    use std::cell::Cell;

    fn is(value: &str) -> Test {
        Test::Equals(value.to_owned())
    }

    fn asked(matches: &[RequestMatch]) -> Asked {
        let mut asked = Asked::new(0);
        (1..matches.len()).for_each(|route| asked.push(route));
        asked.hash(|route| &matches[route]);
        asked
    }

    #[test]
    fn only_routes_that_want_the_value_are_asked() {
        let tenant = |n: usize| vec![header("x-tenant", is(&n.to_string())), query("v", Test::Present(true))];
        let mut matches: Vec<RequestMatch> =
            (0..1000).map(|n| RequestMatch { conditions: tenant(n % 500), ..RequestMatch::default() }).collect();
        matches.insert(700, RequestMatch { conditions: vec![header("x-all", is("1"))], ..RequestMatch::default() });
        let asked = asked(&matches);
        let mut request = Request::get(None, "/");
        let find = |request: &Request| {
            let count = Cell::new(0);
            let takes = |route: usize| {
                count.set(count.get() + 1);
                matches[route].takes(&request.view())
            };
            (asked.find(&request.view(), &takes), count.get())
        };
        for tenant in ["7", "300"] {
            request.headers.append("x-tenant", tenant.parse().unwrap());
        }
        assert_eq!(find(&request), (None, 5));
        request.headers.insert("x-all", "1".parse().unwrap());
        assert_eq!(find(&request), (Some(700), 5));
        request.query = Some("v".to_owned());
        assert_eq!(find(&request), (Some(7), 1));
        request.headers.remove("x-tenant");
        assert_eq!(find(&request), (Some(700), 1));
    }

    #[test]
    fn only_patterns_whose_paths_begin_so_are_asked() {
        let path = |text: &str| PathMatch::Regex(Pattern::new(text).unwrap());
        let texts = (0..100).map(|n| format!("^/s{n}/[0-9]+$")).chain(["^/s7/a/[a-z]+$".to_owned(), "x$".to_owned()]);
        let matches: Vec<RequestMatch> =
            texts.map(|text| RequestMatch { path: path(&text), ..RequestMatch::default() }).collect();
        let asked = asked(&matches);
        for (path, found) in
            [("/s7/1", (Some(7), 1)), ("/s7/a/b", (Some(100), 2)), ("/s7/x", (Some(101), 2)), ("/s1", (None, 1))]
        {
            let (request, count) = (Request::get(None, path), Cell::new(0));
            let takes = |route: usize| {
                count.set(count.get() + 1);
                matches[route].takes(&request.view())
            };
            assert_eq!((asked.find(&request.view(), &takes), count.get()), found, "{path}");
        }
    }

    proptest! {
        #[test]
        fn first_that_takes_is_found(
            drawn in prop::collection::vec((any::<bool>(), samples::tests(), samples::matches()), 1..40),
            requests in prop::collection::vec(samples::requests(), 1..30),
        ) {
            let matches: Vec<RequestMatch> = drawn.into_iter().map(|(add, test, mut one)| {
                one.conditions.extend(add.then(|| header("x", test)));
                one
            }).collect();
            let asked = asked(&matches);
            for request in &requests {
                let takes = |route: usize| matches[route].takes(&request.view());
                prop_assert_eq!(asked.find(&request.view(), &takes), (0..matches.len()).find(|&route| takes(route)));
            }
        }
    }
}
