//! Rules: conditions under which a request is sent to a variant of its own, or split by weights of its own.

use super::split::Assignment;

/// Where a condition looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Header(http::HeaderName),
    Cookie(String),
    Query(String),
    Method,
}

#[derive(Clone, Debug)]
pub enum Test {
    Present(bool),
    Equals(String),
    In(Vec<String>),
    Prefix(String),
    Suffix(String),
    /// Linear-time engine, unanchored, compiled once; matched on bytes.
    Regex(regex::bytes::Regex),
}

#[derive(Clone, Debug)]
pub enum Condition {
    Is(Subject, Test),
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
