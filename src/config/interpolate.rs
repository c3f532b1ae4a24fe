//! `${VAR}`, `${VAR:-default}` and `${file:PATH}` inside string values. `$${` stands for `${` itself.

use super::source::read_bytes;
use std::ops::Range;
use std::path::Path;

/// The largest file that `${file:…}` takes, in bytes.
const VALUE_FILE_BYTES: u64 = 1024 * 1024;

/// What could not be filled in.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfilled {
    /// The `${…}` as written, to find it in the file.
    pub text: String,
    pub message: String,
    pub help: Option<String>,
}

/// A piece of a text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Placeholder(&'static str),
}

/// The text with everything filled in, or every place that could not be.
///
/// `folder` is where relative paths start. An empty variable counts as unset for `:-`, as in a shell.
pub fn interpolate(text: &str, folder: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Vec<Unfilled>> {
    let parts = interpolate_around(text, &[], folder, env)?;
    let text = |part| if let Part::Text(text) = part { text } else { String::new() };
    Ok(parts.into_iter().map(text).collect())
}

/// As [`interpolate`], but the names in `placeholders` are no variables: each `${name}` of them stays a part of its own.
/// Text in a row is one part.
pub fn interpolate_around(
    text: &str,
    placeholders: &[&'static str],
    folder: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Part>, Vec<Unfilled>> {
    let mut parts = Vec::new();
    let mut filled = String::with_capacity(text.len());
    let mut unfilled = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            filled.push_str(&rest[..at - 1]);
            filled.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        filled.push_str(&rest[..at]);
        let Some(Range { start, end }) = rest[at..].find('}').map(|close| at + 2..at + close) else {
            let message = "`${` without its `}`".to_owned();
            let help = Some("write `$${` for a `${` that is meant as it stands".to_owned());
            unfilled.push(Unfilled { text: rest[at..].to_owned(), message, help });
            return Err(unfilled);
        };
        let inside = &rest[start..end];
        let name = inside.split_once(":-").map_or(inside, |(name, _)| name);
        match placeholders.iter().find(|placeholder| **placeholder == name) {
            Some(placeholder) if inside == name => {
                if !filled.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut filled)));
                }
                parts.push(Part::Placeholder(placeholder));
            }
            Some(_) => {
                let message = format!("`{name}` is filled in for each request and takes no default");
                unfilled.push(Unfilled { text: rest[at..=end].to_owned(), message, help: None });
            }
            None => match value(inside, folder, env) {
                Ok(value) => filled.push_str(&value),
                Err((message, help)) => unfilled.push(Unfilled { text: rest[at..=end].to_owned(), message, help }),
            },
        }
        rest = &rest[end + 1..];
    }
    filled.push_str(rest);
    if !filled.is_empty() {
        parts.push(Part::Text(filled));
    }
    if unfilled.is_empty() { Ok(parts) } else { Err(unfilled) }
}

fn value(
    inside: &str,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String, (String, Option<String>)> {
    if let Some(path) = inside.strip_prefix("file:") {
        return file_value(&folder.join(path)).map_err(|message| (message, None));
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let first_is_digit = name.starts_with(|c: char| c.is_ascii_digit());
    if name.is_empty() || first_is_digit || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        let message = format!("`{}` is not the name of a variable", name.escape_debug());
        let help = "write ${VAR}, ${VAR:-default} or ${file:PATH}; `$${` for a `${` that is meant as it stands";
        return Err((message, Some(help.to_owned())));
    }
    match (env(name), default) {
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            let help = format!("set {name}, or give a default: ${{{name}:-default}}");
            Err((format!("the environment variable {name} is not set"), Some(help)))
        }
    }
}

fn file_value(path: &Path) -> Result<String, String> {
    let named = |message: String| format!("{}: {message}", path.display());
    let bytes = read_bytes(path, VALUE_FILE_BYTES).map_err(named)?;
    let text = String::from_utf8(bytes).map_err(|_| named("not UTF-8 text".to_owned()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Result<String, Vec<Unfilled>> {
        let env = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        interpolate(text, Path::new("/nonexistent"), &env)
    }

    #[test]
    fn fills_in() {
        for (text, expected) in [
            ("plain $ {x} $5", "plain $ {x} $5"),
            ("a ${SET} b", "a value b"),
            ("${EMPTY}", ""),
            ("${EMPTY:-other}${UNSET:-}", "other"),
            ("$${SET} ${SET}", "${SET} value"),
            ("^a{2}$", "^a{2}$"),
        ] {
            assert_eq!(fill(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn placeholders_stay() {
        let env = |name: &str| (name == "SET").then(|| "${a}".to_owned());
        let around = |text: &str| interpolate_around(text, &["a", "b"], Path::new("/nonexistent"), &env);
        let text = |text: &str| Part::Text(text.to_owned());
        let (a, b) = (Part::Placeholder("a"), Part::Placeholder("b"));
        assert_eq!(around(""), Ok(vec![]));
        assert_eq!(around("${a}"), Ok(vec![a.clone()]));
        assert_eq!(around("x${a}${b}y${SET}$${a}"), Ok(vec![text("x"), a, b, text("y${a}${a}")]));
        let unfilled = around("${A} ${b:-x} ${b }").unwrap_err();
        let texts: Vec<&str> = unfilled.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(texts, ["${A}", "${b:-x}", "${b }"]);
        assert_eq!(unfilled[0].message, "the environment variable A is not set");
        assert_eq!(unfilled[1].message, "`b` is filled in for each request and takes no default");
    }

    #[test]
    fn says_each_that_is_missing() {
        let missing = fill("${A} ${SET} ${B} ${1x} ${").unwrap_err();
        let texts: Vec<&str> = missing.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(texts, ["${A}", "${B}", "${1x}", "${"]);
        assert_eq!(missing[0].message, "the environment variable A is not set");
    }

    #[test]
    fn takes_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("hash"), "abc\r\n").unwrap();
        std::fs::write(folder.path().join("big"), vec![b'x'; 1024 * 1024 + 1]).unwrap();
        let fill = |text: &str| interpolate(text, folder.path(), &|_| None);
        assert_eq!(fill("<${file:hash}>").unwrap(), "<abc>");
        assert!(fill("${file:big}").unwrap_err()[0].message.ends_with("big: larger than 1048576 bytes"));
        assert!(fill("${file:none}").unwrap_err()[0].message.contains("none: cannot read: No such file"));
    }
}
