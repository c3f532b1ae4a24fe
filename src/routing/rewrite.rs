//! What a route changes in a request's path and host before a target gets it.
//!
//! Paths are those of requests: as sent, nothing decoded, without the query. What comes out starts with exactly one
//! slash, whatever the client put after the route's prefix: `//name` means another host to whoever reads it as a URL.

use http::Uri;
use http::header::HeaderValue;
use http::uri::PathAndQuery;
use std::borrow::Cow;

/// The longest path that a configuration may name, in bytes.
const PATH_BYTES: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub path: Option<PathChange>,
    /// `Host` for the target, with a port if it is to have one.
    pub host: Option<HeaderValue>,
}

/// Another path than the one asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// Instead of the first `matched` bytes, the route's prefix, comes `with`.
    Prefix {
        matched: usize,
        with: String,
    },
    Whole(String),
}

/// Path and query are longer than hyper takes them: 65,534 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rewritten path is too long")]
pub struct TooLong;

/// Why a path cannot stand in for another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("path {0:?} does not start with \"/\"")]
    Relative(String),
    #[error("path {0:?} has \"//\", which some servers read as the start of a host")]
    DoubleSlash(String),
    #[error("path {path:?} has the character {character:?}; what no path may have is written as % and two digits")]
    Character { path: String, character: char },
    #[error("path {0:?} has a \"%\" without two hexadecimal digits after it")]
    Escape(String),
    #[error("the path is longer than {PATH_BYTES} bytes")]
    Long,
}

impl PathChange {
    /// `matched` is the route's prefix as it matches: without a slash at its end.
    pub fn prefix(matched: &str, with: &str) -> Result<PathChange, TargetError> {
        Ok(PathChange::Prefix { matched: matched.len(), with: checked(with)?.to_owned() })
    }

    pub fn whole(path: &str) -> Result<PathChange, TargetError> {
        Ok(PathChange::Whole(checked(path)?.to_owned()))
    }

    /// The path instead of one that the route matched. `OPTIONS *` has no path: `*` stays.
    pub fn apply<'p>(&'p self, path: &str) -> Cow<'p, str> {
        match self {
            _ if path == "*" => Cow::Borrowed("*"),
            PathChange::Whole(path) => Cow::Borrowed(path),
            PathChange::Prefix { matched, with } => match path.get(*matched..) {
                None | Some("") => Cow::Borrowed(with),
                Some(rest) => Cow::Owned(joined(with.trim_end_matches('/'), rest)),
            },
        }
    }
}

impl Rewrite {
    /// The request's target with its path changed; None when it stays.
    pub fn uri(&self, uri: &Uri) -> Result<Option<Uri>, TooLong> {
        let Some(change) = &self.path else { return Ok(None) };
        let mut target = change.apply(uri.path()).into_owned();
        if let Some(query) = uri.query() {
            target.reserve(query.len() + 1);
            target.push('?');
            target.push_str(query);
        }
        let target = PathAndQuery::try_from(target).map_err(|_| TooLong)?;
        Ok(Some(Uri::from(target)))
    }
}

/// `front` has no slash at its end. What follows an empty one gets exactly one slash.
fn joined(front: &str, rest: &str) -> String {
    let rest = if front.is_empty() { rest.trim_start_matches('/') } else { rest.strip_prefix('/').unwrap_or(rest) };
    let mut path = String::with_capacity(front.len() + 1 + rest.len());
    path.push_str(front);
    path.push('/');
    path.push_str(rest);
    path
}

/// A path by RFC 3986 §3.3, in which nothing is left to a reader's leniency.
fn checked(path: &str) -> Result<&str, TargetError> {
    let own = || path.to_owned();
    if path.len() > PATH_BYTES {
        return Err(TargetError::Long);
    }
    if !path.starts_with('/') {
        return Err(TargetError::Relative(own()));
    }
    if path.contains("//") {
        return Err(TargetError::DoubleSlash(own()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~!$&'()*+,;=:@%".contains(c);
    if let Some(character) = path.chars().find(|&c| !allowed(c)) {
        return Err(TargetError::Character { path: own(), character });
    }
    let escaped = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if path.split('%').skip(1).any(|rest| !escaped(rest)) {
        return Err(TargetError::Escape(own()));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::matcher::PathMatch;
    use proptest::prelude::*;

    fn prefix(matched: &str, with: &str) -> PathChange {
        let PathMatch::Prefix(matched) = PathMatch::prefix(matched).unwrap() else { panic!() };
        PathChange::prefix(&matched, with).unwrap()
    }

    #[test]
    fn prefixes_give_way_on_segment_borders() {
        for (matched, with, path, expected) in [
            ("/v1", "/api", "/v1", "/api"),
            ("/v1", "/api", "/v1/", "/api/"),
            ("/v1/", "/api/", "/v1", "/api/"),
            ("/v1/", "/api/", "/v1/x", "/api/x"),
            ("/v1", "/api", "/v1/x/y", "/api/x/y"),
            ("/v1", "/a/b/c", "/v1/x%2Fy", "/a/b/c/x%2Fy"),
            ("/v1", "/", "/v1", "/"),
            ("/v1", "/", "/v1/", "/"),
            ("/v1", "/", "/v1/x", "/x"),
            ("/v1", "/", "/v1//evil.example/x", "/evil.example/x"),
            ("/v1", "/api", "/v1//x", "/api//x"),
            ("/", "/api", "/", "/api/"),
            ("/", "/api", "/x", "/api/x"),
            ("/", "/api", "*", "*"),
        ] {
            assert_eq!(prefix(matched, with).apply(path), expected, "{matched} -> {with}: {path}");
        }
        assert_eq!(PathChange::whole("/full").unwrap().apply("/any/thing"), "/full");
        assert_eq!(PathChange::whole("/full").unwrap().apply("*"), "*");
    }

    #[test]
    fn queries_are_kept() {
        let rewrite = Rewrite { path: Some(prefix("/v1", "/")), host: None };
        for (from, to) in [("/v1/x?a=1&b=%20", "/x?a=1&b=%20"), ("/v1?", "/?"), ("/v1?//x?y", "/?//x?y"), ("*", "*")] {
            assert_eq!(rewrite.uri(&from.parse().unwrap()).unwrap().unwrap(), to.parse::<Uri>().unwrap(), "{from}");
        }
        assert_eq!(Rewrite::default().uri(&Uri::from_static("/x")), Ok(None));
        let long: Uri = format!("/v1/{}", "x".repeat(65_000)).parse().unwrap();
        let longer = Rewrite { path: Some(prefix("/v1", &format!("/{}", "y".repeat(1000)))), host: None };
        assert_eq!(longer.uri(&long), Err(TooLong));
    }

    #[test]
    fn paths_that_are_none_are_refused() {
        for path in ["/", "/api", "/api/", "/a-b_c.d~e/!$&'()*+,;=:@", "/%41%2f"] {
            assert_eq!(checked(path), Ok(path));
        }
        let character = |path: &str, character| TargetError::Character { path: path.to_owned(), character };
        for (path, error) in [
            ("", TargetError::Relative(String::new())),
            ("api", TargetError::Relative("api".to_owned())),
            ("//evil.example", TargetError::DoubleSlash("//evil.example".to_owned())),
            ("/a//b", TargetError::DoubleSlash("/a//b".to_owned())),
            ("/a?b=1", character("/a?b=1", '?')),
            ("/a#b", character("/a#b", '#')),
            ("/\\evil", character("/\\evil", '\\')),
            ("/a b", character("/a b", ' ')),
            ("/a\r\nb", character("/a\r\nb", '\r')),
            ("/é", character("/é", 'é')),
            ("/%4", TargetError::Escape("/%4".to_owned())),
            ("/%zz", TargetError::Escape("/%zz".to_owned())),
        ] {
            assert_eq!(checked(path), Err(error));
        }
        assert_eq!(checked(&format!("/{}", "x".repeat(PATH_BYTES))), Err(TargetError::Long));
    }

    proptest! {
        #[test]
        fn a_rewritten_path_starts_with_one_slash_and_keeps_the_query(
            matched in "(/[a-c]{1,2}){0,3}/?", with in "(/[d-f]{1,2}){0,3}/?",
            rest in prop_oneof![Just(String::new()), "/[a-c/%.\\\\]{0,10}"],
            query in prop::option::of("[ -~&&[^#]]{0,12}"),
        ) {
            let (matched, with) = (if matched.is_empty() { "/" } else { &matched }, if with.is_empty() { "/" } else { &with });
            let path = format!("{}{rest}", matched.trim_end_matches('/'));
            let path = if path.is_empty() { "/".to_owned() } else { path };
            let Ok(uri) = (match &query {
                Some(query) => format!("{path}?{query}").parse::<Uri>(),
                None => path.parse(),
            }) else { return Ok(()) };
            for change in [prefix(matched, with), PathChange::whole(with).unwrap()] {
                let rewritten = Rewrite { path: Some(change), host: None }.uri(&uri).unwrap().unwrap();
                prop_assert!(rewritten.path().starts_with('/') && !rewritten.path().starts_with("//"), "{rewritten}");
                prop_assert!(rewritten.path().starts_with(with.trim_end_matches('/')));
                prop_assert_eq!(rewritten.query(), query.as_deref());
                prop_assert!(rewritten.host().is_none());
                prop_assert!(!rewritten.to_string().contains(['\r', '\n']));
            }
        }
    }
}
