//! What a route changes in a message's header: fields are removed, then set, then added.
//!
//! A value may name the variant, the route, the client and the request. What only names the first two is finished
//! when the configuration is read; a request clones it. The others are put together for each request.

use http::header::{HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};

/// What a value may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    Variant,
    Route,
    ClientIp,
    RequestId,
}

/// A part of a value as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Named(Placeholder),
}

/// The edits as they are written, for any variant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EditsTemplate {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, Vec<Piece>)>,
    pub add: Vec<(HeaderName, Vec<Piece>)>,
}

/// The edits for one variant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
}

/// What placeholders stand for in one request.
#[derive(Clone, Debug)]
pub struct Facts {
    pub client_ip: HeaderValue,
    pub request_id: HeaderValue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Whole(HeaderValue),
    ClientIp,
    RequestId,
    /// Several parts; the texts among them are valid in a header.
    Joined(Vec<Value>),
}

impl Placeholder {
    /// As they stand between `${` and `}`.
    pub const NAMES: [&'static str; 4] = ["variant", "route", "client_ip", "request_id"];

    pub fn named(name: &str) -> Option<Placeholder> {
        match name {
            "variant" => Some(Placeholder::Variant),
            "route" => Some(Placeholder::Route),
            "client_ip" => Some(Placeholder::ClientIp),
            "request_id" => Some(Placeholder::RequestId),
            _ => None,
        }
    }
}

impl EditsTemplate {
    /// An error when a value has a character that no header may have, or `route` or `variant` has.
    pub fn for_variant(&self, route: &str, variant: &str) -> Result<HeaderEdits, InvalidHeaderValue> {
        let value = |(name, pieces): &(HeaderName, Vec<Piece>)| {
            Value::new(pieces, route, variant).map(|value| (name.clone(), value))
        };
        let values = |list: &[_]| list.iter().map(value).collect::<Result<Vec<_>, InvalidHeaderValue>>();
        Ok(HeaderEdits { remove: self.remove.clone(), set: values(&self.set)?, add: values(&self.add)? })
    }
}

impl HeaderEdits {
    pub fn apply(&self, headers: &mut HeaderMap, facts: &Facts) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.of(facts));
        }
        for (name, value) in &self.add {
            headers.append(name, value.of(facts));
        }
    }

    pub fn names_client_ip(&self) -> bool {
        self.set.iter().chain(&self.add).any(|(_, value)| value.names_client_ip())
    }

    /// The same, in memory of its own: a clone would share the values' counts of references.
    pub fn detached(&self) -> HeaderEdits {
        let fields = |list: &[(HeaderName, Value)]| {
            list.iter().map(|(name, value)| (own_name(name), value.detached())).collect()
        };
        HeaderEdits {
            remove: self.remove.iter().map(own_name).collect(),
            set: fields(&self.set),
            add: fields(&self.add),
        }
    }
}

impl Value {
    fn new(pieces: &[Piece], route: &str, variant: &str) -> Result<Value, InvalidHeaderValue> {
        let mut parts = Vec::new();
        let mut text = String::new();
        for piece in pieces {
            let fact = match piece {
                Piece::Text(more) => {
                    text.push_str(more);
                    continue;
                }
                Piece::Named(Placeholder::Route) => {
                    text.push_str(route);
                    continue;
                }
                Piece::Named(Placeholder::Variant) => {
                    text.push_str(variant);
                    continue;
                }
                Piece::Named(Placeholder::ClientIp) => Value::ClientIp,
                Piece::Named(Placeholder::RequestId) => Value::RequestId,
            };
            if !text.is_empty() {
                parts.push(Value::whole(&std::mem::take(&mut text))?);
            }
            parts.push(fact);
        }
        if !text.is_empty() || parts.is_empty() {
            parts.push(Value::whole(&text)?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Value::Joined(parts) })
    }

    /// UTF-8 goes out as it is.
    fn whole(text: &str) -> Result<Value, InvalidHeaderValue> {
        HeaderValue::from_bytes(text.as_bytes()).map(Value::Whole)
    }

    fn of(&self, facts: &Facts) -> HeaderValue {
        match self {
            Value::Whole(value) => value.clone(),
            Value::ClientIp => facts.client_ip.clone(),
            Value::RequestId => facts.request_id.clone(),
            Value::Joined(parts) => {
                let mut joined = Vec::with_capacity(64);
                parts.iter().for_each(|part| part.write(facts, &mut joined));
                HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)).expect("valid values joined are a valid one")
            }
        }
    }

    fn write(&self, facts: &Facts, to: &mut Vec<u8>) {
        match self {
            Value::Whole(value) => to.extend_from_slice(value.as_bytes()),
            Value::ClientIp => to.extend_from_slice(facts.client_ip.as_bytes()),
            Value::RequestId => to.extend_from_slice(facts.request_id.as_bytes()),
            Value::Joined(parts) => parts.iter().for_each(|part| part.write(facts, to)),
        }
    }

    fn names_client_ip(&self) -> bool {
        match self {
            Value::ClientIp => true,
            Value::Joined(parts) => parts.iter().any(Value::names_client_ip),
            Value::Whole(_) | Value::RequestId => false,
        }
    }

    fn detached(&self) -> Value {
        match self {
            Value::Whole(value) => Value::Whole(own_value(value)),
            Value::Joined(parts) => Value::Joined(parts.iter().map(Value::detached).collect()),
            Value::ClientIp => Value::ClientIp,
            Value::RequestId => Value::RequestId,
        }
    }
}

fn own_name(name: &HeaderName) -> HeaderName {
    HeaderName::from_bytes(name.as_str().as_bytes()).expect("it is a name")
}

/// The same value in memory of its own.
pub fn own_value(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).expect("it is a value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts() -> Facts {
        Facts { client_ip: HeaderValue::from_static("192.0.2.7"), request_id: HeaderValue::from_static("abc") }
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    fn field(name: &'static str, pieces: &[Piece]) -> (HeaderName, Vec<Piece>) {
        (HeaderName::from_static(name), pieces.to_vec())
    }

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn applied(template: &EditsTemplate, headers: &HeaderMap) -> HeaderMap {
        let edits = template.for_variant("shop", "canary").unwrap();
        let mut edited = headers.clone();
        edits.apply(&mut edited, &facts());
        let mut again = headers.clone();
        edits.detached().apply(&mut again, &facts());
        assert_eq!(edited, again);
        edited
    }

    #[test]
    fn removes_then_sets_then_adds() {
        let template = EditsTemplate {
            remove: vec![HeaderName::from_static("x-a"), HeaderName::from_static("x-gone")],
            set: vec![field("x-b", &[text("set")])],
            add: vec![field("x-a", &[text("1")]), field("x-b", &[text("2")]), field("x-a", &[text("3")])],
        };
        let headers = map(&[("x-a", "old"), ("x-b", "old"), ("x-b", "old"), ("x-c", "kept")]);
        let expected = map(&[("x-a", "1"), ("x-a", "3"), ("x-b", "set"), ("x-b", "2"), ("x-c", "kept")]);
        assert_eq!(applied(&template, &headers), expected);
    }

    #[test]
    fn placeholders_are_filled_in() {
        let named = Piece::Named;
        for (pieces, expected, whole) in [
            (vec![], "", true),
            (vec![text("a"), text("b")], "ab", true),
            (vec![named(Placeholder::Variant)], "canary", true),
            (vec![named(Placeholder::Route), text("/"), named(Placeholder::Variant)], "shop/canary", true),
            (vec![named(Placeholder::ClientIp)], "192.0.2.7", false),
            (vec![named(Placeholder::RequestId)], "abc", false),
            (
                vec![text("<"), named(Placeholder::RequestId), named(Placeholder::Route), named(Placeholder::ClientIp)],
                "<abcshop192.0.2.7",
                false,
            ),
        ] {
            let value = Value::new(&pieces, "shop", "canary").unwrap();
            assert_eq!(value.of(&facts()), expected);
            assert_eq!(matches!(value, Value::Whole(_)), whole, "{value:?}");
            assert_eq!(value.names_client_ip(), pieces.contains(&named(Placeholder::ClientIp)));
        }
        for name in Placeholder::NAMES {
            assert!(Placeholder::named(name).is_some());
        }
        assert_eq!(Placeholder::named("Variant"), None);
    }

    #[test]
    fn control_characters_are_refused_and_other_scripts_are_not() {
        for bad in ["a\nb", "a\r", "\0", "\u{7f}"] {
            let template = EditsTemplate { set: vec![field("x", &[text(bad)])], ..EditsTemplate::default() };
            assert!(template.for_variant("r", "v").is_err(), "{bad:?}");
        }
        let template = EditsTemplate { set: vec![field("x", &[text("é\t")])], ..EditsTemplate::default() };
        assert_eq!(applied(&template, &HeaderMap::new())["x"].as_bytes(), "é\t".as_bytes());
    }

    proptest! {
        /// Whatever a trusted proxy gave as the request's id: the value is its parts, in order.
        #[test]
        fn joined_values_are_their_parts(
            id in prop::collection::vec(prop_oneof![0x20..=0x7eu8, 0x80..=0xffu8], 0..20),
            before in "[ -~]{0,10}", after in "[ -~]{0,10}",
        ) {
            let facts = Facts { request_id: HeaderValue::from_bytes(&id).unwrap(), ..facts() };
            let pieces = [text(&before), Piece::Named(Placeholder::RequestId), text(&after)];
            let value = Value::new(&pieces, "r", "v").unwrap().of(&facts);
            prop_assert_eq!(value.as_bytes(), [before.as_bytes(), &id, after.as_bytes()].concat());
        }
    }
}
