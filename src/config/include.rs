//! `include`: which files a pattern names, and how their tables join the main file's.

use super::findings::Findings;
use super::raw::File;
use super::source::{At, Place, Sources};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The files that the main file includes, each with the pattern that names it; sorted within a pattern.
/// A file that two patterns name comes once.
pub fn included<'p>(
    patterns: &'p [At<String>],
    sources: &Sources,
    findings: &mut Findings,
) -> Vec<(PathBuf, &'p At<String>)> {
    let main = sources.file(0);
    let folder = main.given.parent().unwrap_or(Path::new(""));
    let mut files: Vec<(PathBuf, &At<String>)> = Vec::new();
    for pattern in patterns {
        let found = match matching(folder, &pattern.value, &pattern.shown()) {
            Ok(found) => found,
            Err(message) => {
                findings.error("include", pattern.place, message);
                continue;
            }
        };
        for path in found {
            if std::path::absolute(&path).is_ok_and(|path| path == main.path) {
                let message = format!("{} includes the file that it stands in", pattern.shown());
                findings.error("include", pattern.place, message);
            } else if !files.iter().any(|(other, _)| *other == path) {
                files.push((path, pattern));
            }
        }
    }
    files
}

/// Appends what another file defines. Tables of which there can be one only must not be there already.
pub fn merge(main: &mut File, other: File, findings: &mut Findings) {
    let mut single = |name: &str, here: Option<Place>, there: Option<Place>| {
        if let (Some(first), Some(second)) = (here, there) {
            let message = format!("[{name}] stands in another file already");
            findings.error("duplicate-table", second, message).other(first);
        }
    };
    single("server", main.server.as_ref().map(|t| t.place), other.server.as_ref().map(|t| t.place));
    single("limits", main.limits.as_ref().map(|t| t.place), other.limits.as_ref().map(|t| t.place));
    single("admin", main.admin.as_ref().map(|t| t.place), other.admin.as_ref().map(|t| t.place));
    single("log", main.log.as_ref().map(|t| t.place), other.log.as_ref().map(|t| t.place));
    single("dns", main.dns.as_ref().map(|t| t.place), other.dns.as_ref().map(|t| t.place));
    main.server = main.server.take().or(other.server);
    main.limits = main.limits.take().or(other.limits);
    main.admin = main.admin.take().or(other.admin);
    main.log = main.log.take().or(other.log);
    main.dns = main.dns.take().or(other.dns);
    main.listeners.extend(other.listeners);
    main.pools.extend(other.pools);
    main.routes.extend(other.routes);
    for pattern in other.include {
        let help = "list all files in the main file";
        findings.error("include", pattern.place, "an included file cannot include others").help(help);
    }
}

/// The files that a pattern names, sorted; otherwise what to say of it, where it is called `shown`.
pub fn matching(folder: &Path, pattern: &str, shown: &str) -> Result<Vec<PathBuf>, String> {
    let (parent, last) = pattern.rsplit_once('/').map_or(("", pattern), |(parent, last)| (parent, last));
    if parent.contains(['*', '?']) {
        return Err(format!("{shown}: `*` and `?` stand in the last part of a path only"));
    }
    if last.is_empty() {
        return Err(format!("{shown} names no file"));
    }
    if !last.contains(['*', '?']) {
        return Ok(vec![folder.join(pattern)]);
    }
    let parent = match pattern.starts_with('/') && parent.is_empty() {
        true => PathBuf::from("/"),
        false => folder.join(parent),
    };
    let listed = if parent.as_os_str().is_empty() { Path::new(".") } else { &parent };
    let entries = match std::fs::read_dir(listed) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{shown}: cannot list its folder: {error}")),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| format!("{shown}: cannot list its folder: {error}"))?.file_name();
        if matches(last, &name.to_string_lossy()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names.into_iter().map(|name| parent.join(name)).collect())
}

/// `*` is any run of characters, `?` is one; hidden files only match a pattern that starts with a dot.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on when the last star has to take one character more.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", false),
            ("*.toml", ".a.toml", false),
            (".*", ".a", true),
            ("*.toml", "a.toml.bak", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbab", true),
            ("*a*b", "xxaxxba", false),
            ("*", "北京", true),
            ("??", "北京", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
