//! Rules: conditions under which a request is sent to a variant of its own, or split by weights of its own.
//!
//! Values are compared as bytes, as they were sent: nothing is decoded and case counts. So a rule means the
//! same for a value that is not UTF-8, and a test costs no allocation.

pub mod index;
mod why;

use super::list::ValueList;
use super::networks::Networks;
use super::pattern::Pattern;
use super::redact::Redact;
use super::split::Assignment;
use super::sticky::{cookie_value, query_value};
use super::table::RequestView;
use index::Pairs;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Where a condition looks. A header that was sent several times has several values, and a test is true if
/// any of them passes; of cookies and query parameters of one name only the first counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    Header(http::HeaderName),
    Cookie(String),
    Query(String),
    Method,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Test {
    /// Present(false): absent. An empty value is present.
    Present(bool),
    Equals(String),
    In(Vec<String>),
    /// As [`Test::In`], of many values.
    InList(Arc<ValueList>),
    InFile(FileList),
    Prefix(String),
    Suffix(String),
    Regex(Pattern),
}

/// A list that is a file's content. Equal when it is the same file's.
#[derive(Clone, Debug)]
pub struct FileList {
    /// The file as the configuration writes it, to be shown.
    pub name: Arc<str>,
    /// Which of the configuration's lists it is; several tests may have one.
    pub list: usize,
    pub values: Arc<ValueList>,
}

impl PartialEq for FileList {
    fn eq(&self, other: &FileList) -> bool {
        self.list == other.list
    }
}

impl Eq for FileList {}

impl Hash for FileList {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.list.hash(state);
    }
}

#[derive(Clone, Debug)]
pub enum Condition {
    Is(Subject, Test),
    /// The client's address is in one of these.
    Ip(Networks),
    Not(Box<Condition>),
    All(Vec<Condition>),
    Any(Vec<Condition>),
}

#[derive(Clone, Debug)]
pub enum Outcome {
    /// Index of the variant in the route's order.
    Variant(usize),
    Split(Assignment),
}

#[derive(Clone, Debug)]
pub struct Rule {
    pub name: String,
    pub when: Condition,
    pub then: Outcome,
}

impl Condition {
    /// All of nothing is true, any of nothing is false.
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        self.holds(&Values { request, pairs: None })
    }

    /// Puts a list's new content into every test that has the list.
    pub fn relist(&mut self, list: usize, values: &Arc<ValueList>) {
        match self {
            Condition::Is(_, test) => test.relist(list, values),
            Condition::Ip(_) => {}
            Condition::Not(condition) => condition.relist(list, values),
            Condition::All(all) | Condition::Any(all) => all.iter_mut().for_each(|one| one.relist(list, values)),
        }
    }

    fn holds(&self, values: &Values<'_>) -> bool {
        match self {
            Condition::Is(subject, Test::Present(present)) => values.any(subject, |_| true) == *present,
            Condition::Is(subject, test) => values.any(subject, |value| test.passes(value)),
            Condition::Ip(networks) => networks.contains(values.request.client_ip),
            Condition::Not(condition) => !condition.holds(values),
            Condition::All(conditions) => conditions.iter().all(|condition| condition.holds(values)),
            Condition::Any(conditions) => conditions.iter().any(|condition| condition.holds(values)),
        }
    }
}

impl Subject {
    /// Whether the test is true of what the request has there.
    pub fn passes(&self, request: &RequestView<'_>, test: &Test) -> bool {
        match test {
            Test::Present(present) => self.any(request, |_| true) == *present,
            test => self.any(request, |value| test.passes(value)),
        }
    }

    /// Whether the test is true of any value that the request has there.
    pub fn any(&self, request: &RequestView<'_>, mut test: impl FnMut(&[u8]) -> bool) -> bool {
        match self {
            Subject::Header(name) => request.headers.get_all(name).iter().any(|value| test(value.as_bytes())),
            Subject::Cookie(name) => cookie_value(request.headers, name).is_some_and(test),
            Subject::Query(name) => query_value(request.query, name).is_some_and(test),
            Subject::Method => test(request.method.as_str().as_bytes()),
        }
    }
}

/// Where subjects' values come from.
struct Values<'r> {
    request: &'r RequestView<'r>,
    /// Cookies and query parameters that were taken apart already; None: they are looked for each time.
    pairs: Option<&'r Pairs<'r>>,
}

impl<'r> Values<'r> {
    fn any(&self, subject: &Subject, test: impl Fn(&[u8]) -> bool) -> bool {
        match subject {
            Subject::Header(name) => self.request.headers.get_all(name).iter().any(|value| test(value.as_bytes())),
            Subject::Cookie(name) => self.cookie(name).is_some_and(test),
            Subject::Query(name) => self.query(name).is_some_and(test),
            Subject::Method => test(self.request.method.as_str().as_bytes()),
        }
    }

    fn cookie(&self, name: &str) -> Option<&'r [u8]> {
        match self.pairs {
            None => cookie_value(self.request.headers, name),
            Some(pairs) => pairs.cookie(name),
        }
    }

    fn query(&self, name: &str) -> Option<&'r [u8]> {
        match self.pairs {
            None => query_value(self.request.query, name),
            Some(pairs) => pairs.query(name),
        }
    }
}

impl Test {
    /// Puts a list's new content into the test, if it has the list.
    pub fn relist(&mut self, list: usize, values: &Arc<ValueList>) {
        if let Test::InFile(file) = self
            && file.list == list
        {
            file.values = Arc::clone(values);
        }
    }

    /// Whether a value that was sent passes.
    pub fn passes(&self, value: &[u8]) -> bool {
        match self {
            Test::Present(present) => *present,
            Test::Equals(text) => value == text.as_bytes(),
            Test::In(texts) => texts.iter().any(|text| value == text.as_bytes()),
            Test::InList(values) => values.contains(value),
            Test::InFile(file) => file.values.contains(value),
            Test::Prefix(text) => value.starts_with(text.as_bytes()),
            Test::Suffix(text) => value.ends_with(text.as_bytes()),
            Test::Regex(regex) => regex.is_match(value),
        }
    }
}

impl Subject {
    /// For people: `header x-canary`.
    pub fn told(&self, redact: &dyn Redact) -> String {
        match self {
            Subject::Header(name) => format!("header {}", redact.shown(name.as_str())),
            Subject::Cookie(name) => format!("cookie {}", redact.shown(name)),
            Subject::Query(name) => format!("query parameter {}", redact.shown(name)),
            Subject::Method => "method".to_owned(),
        }
    }
}

impl Test {
    /// As it is written in the configuration.
    pub fn told(&self, redact: &dyn Redact) -> String {
        match self {
            Test::Present(present) => format!("present = {present}"),
            Test::Equals(text) => format!("equals = {:?}", redact.shown(text)),
            Test::In(texts) => format!("in = {:?}", texts.iter().map(|text| redact.shown(text)).collect::<Vec<_>>()),
            Test::InList(list) => format!("in = {} values", list.len()),
            Test::InFile(file) => format!("in_file = {:?}", file.name),
            Test::Prefix(text) => format!("prefix = {:?}", redact.shown(text)),
            Test::Suffix(text) => format!("suffix = {:?}", redact.shown(text)),
            Test::Regex(pattern) => format!("regex = {:?}", redact.shown(pattern.as_str())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::scheme::Scheme;
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    fn request(headers: &HeaderMap) -> RequestView<'_> {
        let client_ip = [192, 0, 2, 7].into();
        let query = Some("beta=yes&name=a%20b");
        RequestView { scheme: Scheme::Http, host: None, path: "/", query, method: &Method::POST, headers, client_ip }
    }

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-region", &b"beijing"[..]),
            ("x-user-type", b"guest"),
            ("x-user-type", b"vip"),
            ("user-id", b"12340"),
            ("x-raw", b"\xff\xfe0"),
            ("x-empty", b""),
            ("cookie", b"canary=never; canary=always"),
        ] {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn header(name: &'static str, test: Test) -> Condition {
        Condition::Is(Subject::Header(HeaderName::from_static(name)), test)
    }

    fn equals(name: &'static str, value: &str) -> Condition {
        header(name, Test::Equals(value.to_owned()))
    }

    fn in_file(text: &str) -> Test {
        let values = Arc::new(ValueList::new(text.into()).unwrap());
        Test::InFile(FileList { name: "whitelist.txt".into(), list: 3, values })
    }

    fn regex(pattern: &str) -> Test {
        Test::Regex(Pattern::new(pattern).unwrap())
    }

    #[test]
    fn tests_compare_whole_values_as_sent() {
        let (headers, text) = (headers(), str::to_owned);
        for (condition, matches) in [
            (equals("x-region", "beijing"), true),
            (equals("x-region", "Beijing"), false),
            (equals("x-region", "beijin"), false),
            (header("x-region", Test::In(vec![text("shanghai"), text("beijing")])), true),
            (header("x-region", Test::In(vec![])), false),
            (header("x-region", Test::InList(Arc::new(ValueList::of([&b"beijing"[..]])))), true),
            (header("x-region", in_file("shanghai\nbeijing\n")), true),
            (header("x-region", in_file("shanghai\n")), false),
            (header("x-absent", in_file("shanghai\n")), false),
            (header("x-raw", in_file("\u{0}\n")), false),
            (header("x-region", Test::Prefix(text("bei"))), true),
            (header("x-region", Test::Prefix(text("jing"))), false),
            (header("x-region", Test::Suffix(text("jing"))), true),
            (header("x-region", Test::Suffix(text("bei"))), false),
            (header("user-id", regex("0$")), true),
            (header("user-id", regex("^0")), false),
            (header("x-raw", regex("0$")), true),
            (header("x-raw", regex(r"(?-u)^\xff")), true),
        ] {
            assert_eq!(condition.matches(&request(&headers)), matches, "{condition:?}");
        }
    }

    #[test]
    fn presence_is_about_the_name() {
        let headers = headers();
        for (name, present) in [("x-empty", true), ("x-region", true), ("x-absent", false)] {
            assert_eq!(header(name, Test::Present(true)).matches(&request(&headers)), present, "{name}");
            assert_eq!(header(name, Test::Present(false)).matches(&request(&headers)), !present, "{name}");
        }
        assert!(!equals("x-absent", "").matches(&request(&headers)));
        assert!(equals("x-empty", "").matches(&request(&headers)));
    }

    #[test]
    fn any_line_of_a_repeated_header_satisfies() {
        let headers = headers();
        assert!(equals("x-user-type", "guest").matches(&request(&headers)));
        assert!(equals("x-user-type", "vip").matches(&request(&headers)));
        assert!(!equals("x-user-type", "guest, vip").matches(&request(&headers)));
        assert!(!Condition::Not(Box::new(equals("x-user-type", "vip"))).matches(&request(&headers)));
    }

    #[test]
    fn cookie_query_and_method_are_subjects() {
        let headers = headers();
        let is =
            |subject, value: &str| Condition::Is(subject, Test::Equals(value.to_owned())).matches(&request(&headers));
        assert!(is(Subject::Cookie("canary".to_owned()), "never"));
        assert!(!is(Subject::Cookie("canary".to_owned()), "always"));
        assert!(is(Subject::Query("beta".to_owned()), "yes"));
        assert!(is(Subject::Query("name".to_owned()), "a%20b"));
        assert!(is(Subject::Method, "POST"));
        assert!(!is(Subject::Method, "post"));
    }

    #[test]
    fn the_client_s_address_is_looked_for_in_networks() {
        let headers = headers();
        let ip = |networks: &[&str]| {
            Condition::Ip(Networks::new(networks.iter().map(|network| network.parse().unwrap()).collect()))
        };
        assert!(ip(&["10.0.0.0/8", "192.0.2.0/24"]).matches(&request(&headers)));
        assert!(!ip(&["10.0.0.0/8"]).matches(&request(&headers)));
        let mapped = RequestView { client_ip: "::ffff:10.1.2.3".parse().unwrap(), ..request(&headers) };
        assert!(ip(&["10.0.0.0/8"]).matches(&mapped));
    }

    #[test]
    fn a_new_list_reaches_every_test_that_has_it() {
        let headers = headers();
        let listed = || header("x-region", in_file("shanghai\n"));
        let mut condition = Condition::Any(vec![
            equals("x", "y"),
            Condition::All(vec![Condition::Not(Box::new(Condition::Not(Box::new(listed()))))]),
        ]);
        assert!(!condition.matches(&request(&headers)));
        let values = Arc::new(ValueList::of([&b"beijing"[..]]));
        condition.relist(2, &values);
        assert!(!condition.matches(&request(&headers)), "another list");
        condition.relist(3, &values);
        assert!(condition.matches(&request(&headers)));
    }

    #[test]
    fn conditions_combine() {
        let headers = headers();
        let (yes, no) = (|| equals("x-region", "beijing"), || equals("x-region", "shanghai"));
        for (condition, matches) in [
            (Condition::All(vec![yes(), yes()]), true),
            (Condition::All(vec![yes(), no()]), false),
            (Condition::Any(vec![no(), yes()]), true),
            (Condition::Any(vec![no(), no()]), false),
            (Condition::Not(Box::new(no())), true),
            (Condition::All(vec![]), true),
            (Condition::Any(vec![]), false),
            (Condition::All(vec![yes(), Condition::Not(Box::new(Condition::Any(vec![no()])))]), true),
        ] {
            assert_eq!(condition.matches(&request(&headers)), matches, "{condition:?}");
        }
    }
}
