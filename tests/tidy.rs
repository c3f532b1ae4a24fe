//! Reads the tree and checks what the compiler cannot: which room may use which, what may not stand where, and that
//! documents name only what exists.
//!
//! Every check is a pure function from text to findings, so that the tests at the end can show each of them failing;
//! `tree_is_tidy` runs them over the tree. Rust is checked with comments and literals blanked out, see [`code_of`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A room and the rooms that it may use beside itself. `limits` is a leaf that everybody may use.
const DOORS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("net", &["limits"]),
    ("routing", &["limits"]),
    ("judge", &[]),
    ("rollout", &["judge", "routing", "limits"]),
    ("tls", &["limits"]),
    ("boundary", &["net", "routing", "limits"]),
    ("config", &["judge", "net", "rollout", "routing", "tls", "limits"]),
    ("proxy", &["boundary", "net", "routing", "tls", "limits"]),
    ("control", &["boundary", "judge", "net", "rollout", "routing", "config", "tls", "limits"]),
    ("app", &["proxy", "control", "boundary", "net", "routing", "config", "limits"]),
    ("cli", &["app", "boundary", "config", "control", "judge", "net", "routing", "limits"]),
    ("main", &["app", "cli", "config", "limits"]),
];

/// A word that may not stand in the files under a path, and why.
struct Ban {
    under: &'static str,
    except: &'static [&'static str],
    word: &'static str,
    why: &'static str,
}

const fn ban(under: &'static str, word: &'static str, why: &'static str) -> Ban {
    Ban { under, except: &[], word, why }
}

const BANS: &[Ban] = &[
    ban("src/routing", "tokio", "deciders do no I/O"),
    ban("src/routing", "std::fs", "deciders do no I/O"),
    ban("src/routing", "Instant::now", "deciders are told the time"),
    ban("src/routing", "SystemTime::now", "deciders are told the time"),
    ban("src/routing", "rand::rng", "deciders are given their randomness"),
    ban("src/routing", "rand::random", "deciders are given their randomness"),
    ban("src/routing", "thread_rng", "deciders are given their randomness"),
    ban("src/judge", "tokio", "the judge does no I/O"),
    ban("src/judge", "std::fs", "the judge does no I/O"),
    ban("src/judge", "std::io", "the judge does no I/O"),
    ban("src/judge", "Instant::now", "the judge is told the time"),
    ban("src/judge", "SystemTime::now", "the judge is told the time"),
    ban("src/judge", "rand::rng", "the judge needs no randomness"),
    ban("src/rollout", "tokio", "the rollout does no I/O"),
    ban("src/rollout", "std::fs", "the rollout does no I/O"),
    ban("src/rollout", "std::io", "the rollout does no I/O"),
    ban("src/rollout", "async", "the rollout is driven, it waits for nothing"),
    ban("src/rollout", "Instant::now", "the rollout is told the time"),
    ban("src/rollout", "SystemTime::now", "the rollout is told the time"),
    ban("src/rollout", "rand::rng", "the rollout needs no randomness"),
    ban("src/tls", "tokio", "no I/O there"),
    ban("src/tls", "std::fs", "files are read by config and control"),
    ban("src/tls", "SystemTime::now", "who needs the time brings it along"),
    ban("src/boundary", "hyper", "the boundary knows no transport"),
    ban("src/proxy", "Mutex", "a worker's state is its own; nothing on the path waits for another thread"),
    ban("src/proxy", "RwLock", "a worker's state is its own; nothing on the path waits for another thread"),
    ban("src/proxy", "println!", "the data plane writes to the log only"),
    ban("src/control", "println!", "the control plane writes to the log only"),
    Ban { under: "src", except: &["src/control"], word: "prometheus", why: "metrics are shaped in control" },
    Ban { under: "src", except: &["src/control"], word: "axum", why: "the admin API's wire is control's" },
    Ban {
        under: "src",
        except: &["src/boundary", "src/control"],
        word: "load_full",
        why: "it writes to a count that all threads share; a worker has a TableReader",
    },
    ban("src", "unsafe", "the crate forbids it"),
    ban("src", "transmute", "the crate forbids it"),
    ban("", "todo!", "unfinished"),
    ban("", "unimplemented!", "unfinished"),
    ban("", "dbg!", "left over from debugging"),
    ban("", "#[ignore", "a test that does not run proves nothing"),
    ban("", "allow(dead_code)", "delete it instead"),
];

const MAX_FILE_LINES: usize = 800;
const MAX_FUNCTION_LINES: usize = 70;

/// Folders whose names, written as code in a document, are meant as paths of this tree.
const PATH_STARTS: &[&str] = &["src/", "tests/", "docs/", "config/", "benches/", "deploy/", ".ci/", "fuzz/"];

/// Paths of a developer's machine; put together here so that this file does not name one.
const MACHINE_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/tmp", "/w/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

#[test]
fn tree_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = tree(root);
    assert!(files.iter().any(|file| file == "src/lib.rs"), "the walk of the tree does not see src/lib.rs: {files:?}");
    let mut findings = Vec::new();
    for file in &files {
        let Ok(text) = std::fs::read_to_string(root.join(file)) else { continue };
        findings.extend(findings_in(file, &text, &|path| root.join(path).exists()));
    }
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Everything wrong with one file; `exists` answers for paths relative to the root.
fn findings_in(file: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut findings = machine_paths(text);
    if file.ends_with(".md") {
        findings.extend(dead_links(file, text, exists));
    }
    if file.ends_with(".rs") {
        let code = code_of(text);
        findings.extend(shape(file, text));
        findings.extend(closed_doors(file, &code));
        findings.extend(banned_words(file, &code));
        findings.extend(lossy_serde(file, &code));
        findings.extend(long_functions(&code));
    }
    findings.into_iter().map(|finding| format!("{file}: {finding}")).collect()
}

/// Files of the tree, relative, without what is built, hidden (but `.ci`) or fetched.
fn tree(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(root.join(&folder)).expect("the tree is readable");
        for entry in entries.map(|entry| entry.expect("the tree is readable")) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = folder.join(&name);
            let hidden = name.starts_with('.') && name != ".ci";
            if hidden || matches!(name.as_str(), "target" | "state" | "__pycache__") {
                continue;
            }
            if entry.file_type().expect("the tree is readable").is_dir() {
                folders.push(path);
            } else {
                files.push(path.to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    files
}

/// The room that a source file belongs to: `src/proxy/tls.rs` and `src/proxy.rs` are `proxy`.
fn room_of(file: &str) -> Option<&str> {
    let inside = file.strip_prefix("src/")?;
    let room = inside.split('/').next()?;
    Some(room.strip_suffix(".rs").unwrap_or(room))
}

fn closed_doors(file: &str, code: &str) -> Vec<String> {
    let Some(room) = room_of(file).filter(|room| *room != "lib") else { return Vec::new() };
    let Some((_, open)) = DOORS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("room `{room}` has no doors in tests/tidy.rs")];
    };
    let depth = file.matches('/').count();
    rooms_used(code, depth)
        .into_iter()
        .filter(|used| used != room && !open.contains(&used.as_str()))
        .map(|used| format!("`{room}` may not use `{used}`"))
        .collect()
}

/// Rooms that `code` names, by `crate::room`, `weir::room`, a group of them, or enough `super::`; `depth` is how many
/// modules the file's module lies below the crate.
fn rooms_used(code: &str, depth: usize) -> BTreeSet<String> {
    let up = "super::".repeat(depth);
    let mut used = BTreeSet::new();
    for root in ["crate::", "weir::", up.as_str()] {
        for (at, _) in code.match_indices(root) {
            if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':') {
                continue;
            }
            used.extend(first_names(&code[at + root.len()..]));
        }
    }
    used.retain(|name| DOORS.iter().any(|(room, _)| room == name));
    used
}

/// The first name of a path, or those of a group: `{a::B, c}` has a and c.
fn first_names(path: &str) -> Vec<String> {
    let ident = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![ident(path)] };
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                names.push(ident(group[start..at].trim()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names
}

fn banned_words(file: &str, code: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let under = |folder: &str| folder.is_empty() || room_file(file, folder);
    for ban in BANS.iter().filter(|ban| under(ban.under) && !ban.except.iter().any(|folder| room_file(file, folder))) {
        for (number, line) in code.lines().enumerate() {
            if has_word(line, ban.word) {
                findings.push(format!("line {}: `{}`: {}", number + 1, ban.word, ban.why));
            }
        }
    }
    findings
}

/// Whether `file` lies in `folder` or is its module's own file: `src/proxy.rs` belongs to `src/proxy`.
fn room_file(file: &str, folder: &str) -> bool {
    file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let glued_before = word.starts_with(part) && line[..at].ends_with(part);
        let glued_after = word.ends_with(part) && line[at + word.len()..].starts_with(part);
        !glued_before && !glued_after
    })
}

/// `flatten` and `untagged` lose the place of an error in a file.
fn lossy_serde(file: &str, code: &str) -> Vec<String> {
    if !room_file(file, "src/config") {
        return Vec::new();
    }
    code.match_indices("serde(")
        .filter_map(|(at, _)| code[at..].split(')').next())
        .filter(|attribute| has_word(attribute, "flatten") || has_word(attribute, "untagged"))
        .map(|attribute| format!("`{attribute})` loses the place and the message of an error"))
        .collect()
}

fn shape(file: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_FILE_LINES {
        findings.push(format!("{lines} lines; at most {MAX_FILE_LINES}"));
    }
    if file.ends_with("/mod.rs") {
        findings.push("a module's file is named after it, not mod.rs".to_owned());
    }
    if !text.starts_with("//!") {
        findings.push("does not start with `//!`, why it is as it is".to_owned());
    }
    findings
}

fn long_functions(code: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let Some(length) = body_end(&code[at..]) else { continue };
        let lines = code[at..at + length].lines().count();
        if lines > MAX_FUNCTION_LINES {
            let name = first_names(&code[at + 3..]).concat();
            let line = code[..at].matches('\n').count() + 1;
            findings.push(format!("line {line}: function {name} has {lines} lines; at most {MAX_FUNCTION_LINES}"));
        }
    }
    findings
}

/// Where the function that `code` starts with ends; None for one without a body.
fn body_end(code: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0_usize, 0_usize);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 && brackets == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

fn machine_paths(text: &str) -> Vec<String> {
    text.lines()
        .enumerate()
        .flat_map(|(number, line)| MACHINE_PATHS.iter().map(move |path| (number, line, path)))
        .filter(|(_, line, path)| {
            line.match_indices(**path).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '.'))
        })
        .map(|(number, _, path)| format!("line {}: names a path of one machine, {path}", number + 1))
        .collect()
}

/// Links and code spans of a document that name a file of the tree that is not there.
fn dead_links(file: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut findings = Vec::new();
    for (number, line) in outside_fences(text) {
        let links = link_targets(line).into_iter().filter_map(|target| relative_to(folder, target));
        let spans = code_spans(line).into_iter().filter(|span| is_tree_path(span)).map(str::to_owned);
        for path in links.chain(spans) {
            if !exists(&path) {
                findings.push(format!("line {number}: {path} does not exist"));
            }
        }
    }
    findings
}

/// Numbered lines that are not in a fenced block.
fn outside_fences(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((number + 1, line));
        }
    }
    lines
}

fn link_targets(line: &str) -> Vec<&str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

fn code_spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

fn is_tree_path(span: &str) -> bool {
    PATH_STARTS.iter().any(|start| span.starts_with(start))
        && !span.contains(|c: char| c.is_whitespace() || "*<>{}$…:,[]|".contains(c))
}

/// A link's path from the root; None for what leads out of the tree or stays on the page.
fn relative_to(folder: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") || target.starts_with('#') {
        return None;
    }
    let target = target.split(['#', ' ']).next().unwrap_or(target);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The source with comments, strings and character literals blanked, lines kept.
fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let literal = literal_length(rest, code.chars().next_back());
        let (taken, blank) = if literal > 0 { (literal, true) } else { (c.len_utf8(), false) };
        for c in rest[..taken].chars() {
            code.push(if blank && c != '\n' { ' ' } else { c });
        }
        rest = &rest[taken..];
    }
    code
}

/// Bytes of the comment or literal that `text` starts with, 0 for code; `before` is the character in front of it.
fn literal_length(text: &str, before: Option<char>) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_length(text);
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = text.trim_start_matches('b');
    if !in_word && text.len() - raw.len() <= 1 && raw.starts_with('r') {
        let hashes = raw[1..].chars().take_while(|c| *c == '#').count();
        if raw[1 + hashes..].starts_with('"') {
            let open = text.len() - raw.len() + 2 + hashes;
            let close = format!("\"{}", "#".repeat(hashes));
            return text[open..].find(&close).map_or(text.len(), |at| open + at + close.len());
        }
    }
    match text.chars().next() {
        Some('"') => quoted_length(text, '"'),
        Some('\'') if text[1..].starts_with('\\') || text.chars().nth(2) == Some('\'') => quoted_length(text, '\''),
        _ => 0,
    }
}

fn block_comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The checks can fail: each is shown what it must find, and what it must leave alone.
mod checks_can_fail {
    use super::*;

    fn findings(file: &str, text: &str) -> Vec<String> {
        findings_in(file, text, &|path| path == "docs/there.md")
    }

    #[test]
    fn a_closed_door_is_found_however_it_is_opened() {
        for text in [
            "use crate::control::Controller;",
            "use crate::{boundary::{table, drain}, control::x};",
            "fn f() { let _ = crate::control::x(); }",
            "use super::super::control;",
        ] {
            assert_eq!(closed_doors("src/proxy/a.rs", text), ["`proxy` may not use `control`"], "{text}");
        }
        assert_eq!(closed_doors("src/control.rs", "use super::proxy;"), ["`control` may not use `proxy`"]);
        assert_eq!(closed_doors("src/shed/a.rs", ""), ["room `shed` has no doors in tests/tidy.rs"]);
        assert!(closed_doors("src/proxy/a.rs", "use crate::boundary::table; use super::control_flow;").is_empty());
        assert!(closed_doors("src/proxy/a/b.rs", "use super::super::forward; use mycrate::control;").is_empty());
    }

    #[test]
    fn banned_words_are_found_in_their_room_only() {
        let clock = "//! x\nfn f() { std::time::Instant::now(); }\n";
        assert_eq!(banned_words("src/routing/a.rs", clock), ["line 2: `Instant::now`: deciders are told the time"]);
        assert!(banned_words("src/proxy/a.rs", clock).is_empty());
        assert_eq!(banned_words("src/proxy.rs", "use std::sync::{Arc, Mutex};").len(), 1);
        assert!(banned_words("src/proxy.rs", "struct MutexLike;").is_empty());
        assert_eq!(banned_words("src/app.rs", "use prometheus::Registry;").len(), 1);
        assert!(banned_words("src/control/metrics.rs", "use prometheus::Registry;").is_empty());
        assert_eq!(banned_words("tests/a.rs", "#[ignore = \"slow\"]").len(), 1);
        assert_eq!(lossy_serde("src/config/raw.rs", "#[serde(default, flatten)]").len(), 1);
        assert!(lossy_serde("src/config/raw.rs", "#[serde(default)] x.iter().flatten()").is_empty());
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let source =
            "a /* todo! /* b */ c */ d // dbg!\n\"crate::proxy \\\" todo!\" r#\"\"dbg!\"# 'x' '\\'' b\"y\" <'a>";
        let code = code_of(source);
        assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "d", "b", "<'a>"]);
        assert_eq!(code.lines().count(), source.lines().count());
        assert!(findings("src/proxy/a.rs", "//! x\n// crate::control\nconst A: &str = \"Mutex\";\n").is_empty());
    }

    #[test]
    fn shapes_are_checked() {
        assert_eq!(findings("src/app.rs", "fn f() {}\n").len(), 1);
        assert_eq!(findings("src/app/mod.rs", "//! x\n").len(), 1);
        assert_eq!(shape("src/app.rs", &format!("//! x\n{}", "\n".repeat(MAX_FILE_LINES))).len(), 1);
        let long =
            |lines: usize| format!("impl A {{\nfn g();\nfn f(a: [u8; 3]) {{\n{}}}\n}}\n", "x();\n".repeat(lines));
        assert!(long_functions(&long(MAX_FUNCTION_LINES - 2)).is_empty());
        let found = long_functions(&long(MAX_FUNCTION_LINES - 1));
        assert_eq!(found, ["line 3: function f has 71 lines; at most 70"]);
    }

    #[test]
    fn documents_name_what_exists() {
        let text = "[a](there.md#x) [b](gone.md) [c](https://x.y/z) [d](#here) `docs/there.md` `docs/gone.md`\n\
                    `src/*.rs` `docs/` `a/b`\n```\n[e](gone.md)\n```\n";
        let found = findings("docs/a.md", text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().all(|finding| finding.contains("docs/ ") || finding.contains("docs/gone.md")));
        let path = format!("see {}x", MACHINE_PATHS[0]);
        assert_eq!(findings("docs/a.md", &path).len(), 1);
        assert!(findings("docs/a.md", "a frame/work/shop").is_empty());
    }
}
