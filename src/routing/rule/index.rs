//! Finds the first matching rule among many without asking each.
//!
//! Most conditions need something of the request: a header of that name, a cookie of that name with that value. These
//! needs are turned round at compile time: from a name, or a name and a value, to the rules that need it. A request
//! then goes once over its headers, cookies and query and marks the rules that may match; only those are asked, in
//! their order. Rules of which no need can be told (negations, addresses, methods) are asked always.
//!
//! So what ten thousand rules cost depends on the request and not on their number, and a request with many cookies
//! has them taken apart once and not once a rule. Few rules are faster without: see [`INDEXED_FROM`].

use super::{Condition, Rule, Subject, Test, Values};
use crate::routing::index::Map;
use crate::routing::sticky::{cookie_pairs, query_pairs};
use crate::routing::table::RequestView;

/// A route with this many rules has an index. Going over a browser's headers costs about what asking so many does.
pub const INDEXED_FROM: usize = 16;

#[derive(Debug)]
pub struct RuleIndex {
    /// The rules that are asked whatever the request has.
    always: RuleSet,
    headers: Map<Needed>,
    /// Also the names that no rule needs and some condition looks at.
    cookies: Map<Needed>,
    queries: Map<Needed>,
}

/// The rules that need something of this name.
#[derive(Debug, Default)]
struct Needed {
    /// Its place in [`Pairs`].
    slot: usize,
    /// Whatever its value.
    present: Vec<usize>,
    by_value: Map<Vec<usize>>,
}

impl RuleIndex {
    pub fn new(rules: &[Rule]) -> RuleIndex {
        let always = RuleSet::new(rules.len());
        let mut index = RuleIndex { always, headers: Map::default(), cookies: Map::default(), queries: Map::default() };
        for (rule, Rule { when, .. }) in rules.iter().enumerate() {
            index.register(when);
            let Some(needs) = needs(when) else {
                index.always.insert(rule);
                continue;
            };
            for need in needs {
                index.insert(&need, rule);
            }
        }
        index
    }

    /// The first of the rules, the same that it was made of, that matches.
    pub fn first_match(&self, rules: &[Rule], request: &RequestView<'_>) -> Option<usize> {
        let mut candidates = self.always.clone();
        self.mark_headers(request, &mut candidates);
        let pairs = Pairs::new(self, request, &mut candidates);
        let values = Values { request, pairs: Some(&pairs) };
        candidates.iter().find(|&rule| rules[rule].when.holds(&values))
    }

    fn mark_headers(&self, request: &RequestView<'_>, candidates: &mut RuleSet) {
        if self.headers.is_empty() {
            return;
        }
        for name in request.headers.keys() {
            let Some(needed) = self.headers.get(name.as_str().as_bytes()) else { continue };
            candidates.extend(&needed.present);
            if !needed.by_value.is_empty() {
                request.headers.get_all(name).iter().for_each(|value| needed.mark_value(value.as_bytes(), candidates));
            }
        }
    }

    fn insert(&mut self, need: &Need<'_>, rule: usize) {
        let needed = self.needed(need.subject).expect("nothing needs a method");
        match &need.values {
            None => needed.present.push(rule),
            Some(values) => {
                values.iter().for_each(|value| needed.by_value.entry((*value).into()).or_default().push(rule));
            }
        }
    }

    /// Gives every cookie and parameter that a condition looks at its place in [`Pairs`].
    fn register(&mut self, condition: &Condition) {
        match condition {
            Condition::Is(subject, _) => drop(self.needed(subject)),
            Condition::Ip(_) => {}
            Condition::Not(condition) => self.register(condition),
            Condition::All(all) | Condition::Any(all) => all.iter().for_each(|condition| self.register(condition)),
        }
    }

    fn needed(&mut self, subject: &Subject) -> Option<&mut Needed> {
        let (names, name) = match subject {
            Subject::Header(name) => (&mut self.headers, name.as_str()),
            Subject::Cookie(name) => (&mut self.cookies, name.as_str()),
            Subject::Query(name) => (&mut self.queries, name.as_str()),
            Subject::Method => return None,
        };
        let slot = names.len();
        Some(names.entry(name.as_bytes().into()).or_insert_with(|| Needed { slot, ..Needed::default() }))
    }
}

impl Needed {
    fn mark_value(&self, value: &[u8], candidates: &mut RuleSet) {
        if let Some(rules) = self.by_value.get(value) {
            candidates.extend(rules);
        }
    }
}

/// The cookies and query parameters of a request that some rule looks at, taken apart once.
pub(super) struct Pairs<'r> {
    index: &'r RuleIndex,
    /// The first value of each name, by the name's slot.
    cookies: Vec<Option<&'r [u8]>>,
    queries: Vec<Option<&'r [u8]>>,
}

impl<'r> Pairs<'r> {
    fn new(index: &'r RuleIndex, request: &'r RequestView<'r>, candidates: &mut RuleSet) -> Pairs<'r> {
        let cookies = first_values(&index.cookies, || cookie_pairs(request.headers), candidates);
        let queries = first_values(&index.queries, || query_pairs(request.query), candidates);
        Pairs { index, cookies, queries }
    }

    pub(super) fn cookie(&self, name: &str) -> Option<&'r [u8]> {
        self.cookies[self.index.cookies.get(name.as_bytes())?.slot]
    }

    pub(super) fn query(&self, name: &str) -> Option<&'r [u8]> {
        self.queries[self.index.queries.get(name.as_bytes())?.slot]
    }
}

fn first_values<'r, I: Iterator<Item = (&'r [u8], &'r [u8])>>(
    names: &Map<Needed>,
    pairs: impl FnOnce() -> I,
    candidates: &mut RuleSet,
) -> Vec<Option<&'r [u8]>> {
    let mut values = vec![None; names.len()];
    if names.is_empty() {
        return values;
    }
    for (name, value) in pairs() {
        if let Some(needed) = names.get(name)
            && values[needed.slot].is_none()
        {
            values[needed.slot] = Some(value);
            candidates.extend(&needed.present);
            needed.mark_value(value, candidates);
        }
    }
    values
}

/// Something that a request must have, or a rule does not match.
struct Need<'c> {
    subject: &'c Subject,
    /// With one of these values; None: with any.
    values: Option<Vec<&'c [u8]>>,
}

/// What of a condition's needs a request must have at least one of; None: nothing can be told.
fn needs(condition: &Condition) -> Option<Vec<Need<'_>>> {
    match condition {
        Condition::Is(Subject::Method, _) | Condition::Is(_, Test::Present(false)) => None,
        Condition::Is(subject, test) => Some(vec![Need { subject, values: exact(test) }]),
        Condition::Ip(_) | Condition::Not(_) => None,
        // One part's needs will do: those that the fewest requests have.
        Condition::All(all) => all.iter().filter_map(needs).min_by_key(|needs| {
            let vague = needs.iter().any(|need| need.values.is_none());
            (vague, needs.len())
        }),
        Condition::Any(any) => {
            let each: Option<Vec<_>> = any.iter().map(needs).collect();
            each.map(|each| each.into_iter().flatten().collect())
        }
    }
}

/// The values that pass, where they are few and known.
fn exact(test: &Test) -> Option<Vec<&[u8]>> {
    match test {
        Test::Equals(value) => Some(vec![value.as_bytes()]),
        Test::In(values) => Some(values.iter().map(String::as_bytes).collect()),
        _ => None,
    }
}

/// A set of rules: one bit each.
#[derive(Clone, Debug)]
struct RuleSet(Box<[u64]>);

impl RuleSet {
    fn new(rules: usize) -> RuleSet {
        RuleSet(vec![0; rules.div_ceil(64)].into())
    }

    fn insert(&mut self, rule: usize) {
        self.0[rule / 64] |= 1 << (rule % 64);
    }

    fn extend(&mut self, rules: &[usize]) {
        rules.iter().for_each(|rule| self.insert(*rule));
    }

    /// In the rules' order.
    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(at, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.checked_sub(1)?;
                Some(at * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::list::ValueList;
    use crate::routing::networks::Networks;
    use crate::routing::rule::{FileList, Outcome};
    use crate::routing::scheme::Scheme;
    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::sync::Arc;

    fn subject() -> impl Strategy<Value = Subject> {
        let name = select(vec!["a", "b", "c"]);
        prop_oneof![
            name.clone().prop_map(|name| Subject::Header(HeaderName::from_static(name))),
            name.clone().prop_map(|name| Subject::Cookie(name.to_owned())),
            name.prop_map(|name| Subject::Query(name.to_owned())),
            Just(Subject::Method),
        ]
    }

    fn test() -> impl Strategy<Value = Test> {
        let value = || select(vec!["", "x", "y", "xy", "GET"]).prop_map(str::to_owned);
        let list = |values: &[String]| Arc::new(ValueList::of(values.iter().map(String::as_bytes)));
        prop_oneof![
            any::<bool>().prop_map(Test::Present),
            value().prop_map(Test::Equals),
            prop::collection::vec(value(), 0..3).prop_map(Test::In),
            value().prop_map(Test::Prefix),
            value().prop_map(Test::Suffix),
            value().prop_map(|value| Test::Regex(crate::routing::pattern::Pattern::new(&value).unwrap())),
            prop::collection::vec(value(), 0..3).prop_map(move |values| Test::InList(list(&values))),
            prop::collection::vec(value(), 0..3).prop_map(move |values| Test::InFile(FileList {
                name: "f".into(),
                list: 0,
                values: list(&values)
            })),
        ]
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let ip = select(vec!["10.0.0.0/8", "192.0.2.0/24"]);
        let leaf = prop_oneof![
            8 => (subject(), test()).prop_map(|(subject, test)| Condition::Is(subject, test)),
            1 => ip.prop_map(|ip| Condition::Ip(Networks::new(vec![ip.parse().unwrap()]))),
        ];
        leaf.prop_recursive(3, 8, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|condition| Condition::Not(Box::new(condition))),
                prop::collection::vec(inner.clone(), 0..3).prop_map(Condition::All),
                prop::collection::vec(inner, 0..3).prop_map(Condition::Any),
            ]
        })
    }

    fn rules(conditions: Vec<Condition>) -> Vec<Rule> {
        let rule = |(n, when)| Rule { name: format!("rule {n}"), when, then: Outcome::Variant(0) };
        conditions.into_iter().enumerate().map(rule).collect()
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_asking_each(
            conditions in prop::collection::vec(condition(), 0..80),
            fields in prop::collection::vec((select(vec!["a", "b", "cookie"]), select(vec![
                "", "x", "y", "xy", "a=x", "a=y; b=x", "b=\"xy\"; a=", "a; c=x;c=y", " ;; =x", "xa=x",
            ])), 0..6),
            query in prop::option::of(select(vec!["", "a=x", "a=y&a=x", "a&b=xy", "&&=&c", "xa=x&b"])),
        ) {
            let rules = rules(conditions);
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, HeaderValue::from_static(value));
            }
            let client_ip = [192, 0, 2, 7].into();
            let request = RequestView { scheme: Scheme::Http, host: None, path: "/", query, method: &Method::GET, headers: &headers, client_ip };
            let plain = rules.iter().position(|rule| rule.when.matches(&request));
            prop_assert_eq!(RuleIndex::new(&rules).first_match(&rules, &request), plain);
        }

        #[test]
        fn a_set_has_what_was_put_in(of in prop::collection::btree_set(0usize..200, 0..50)) {
            let mut set = RuleSet::new(200);
            set.extend(&of.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), of.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn only_rules_that_may_match_are_asked() {
        let is = |subject, value: &str| Condition::Is(subject, Test::Equals(value.to_owned()));
        let user = |value| is(Subject::Header(HeaderName::from_static("x-user")), value);
        let put = || is(Subject::Method, "PUT");
        for (condition, needed) in [
            (user("u1"), Some(1)),
            (Condition::All(vec![put(), user("u1")]), Some(1)),
            (Condition::Any(vec![user("u1"), user("u2")]), Some(2)),
            (Condition::Any(vec![]), Some(0)),
            (Condition::Any(vec![user("u1"), put()]), None),
            (Condition::All(vec![put()]), None),
            (Condition::Not(Box::new(user("u1"))), None),
            (Condition::Is(Subject::Cookie("c".to_owned()), Test::Present(false)), None),
        ] {
            assert_eq!(needs(&condition).map(|needs| needs.len()), needed, "{condition:?}");
        }
    }
}
