//! Routes of which only the request's method, headers, query or a regular expression tell who takes it: they are
//! asked one by one, in the order of precedence.
//!
//! Many routes on one path often differ by one value, a tenant's name in a header. Those are found by a hash of
//! the value, and only the ones that want this value are asked.

use super::Map;
use crate::routing::matcher::RequestMatch;
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
}

#[derive(Debug)]
struct ByValue {
    subject: Subject,
    /// Ranks by the value that they want there, ascending.
    ranks: Map<Vec<usize>>,
}

impl Asked {
    pub fn new(first: usize) -> Asked {
        Asked { routes: vec![first], always: vec![0], by_value: None }
    }

    /// The next route in the order of precedence.
    pub fn push(&mut self, route: usize) {
        self.always.push(self.routes.len());
        self.routes.push(route);
    }

    /// To be called when all routes are there.
    pub fn hash_values<'m>(&mut self, match_of: impl Fn(usize) -> &'m RequestMatch) {
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
        best = better(&self.always, best);
        self.routes.get(best).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::samples::{self, Request, header, query};
    use proptest::prelude::*;
    use std::cell::Cell;

    fn is(value: &str) -> Test {
        Test::Equals(value.to_owned())
    }

    fn asked(matches: &[RequestMatch]) -> Asked {
        let mut asked = Asked::new(0);
        (1..matches.len()).for_each(|route| asked.push(route));
        asked.hash_values(|route| &matches[route]);
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
