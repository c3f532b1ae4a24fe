//! New weights in a file's text: which bytes change, and how that is shown.
//!
//! The text is spliced at the places that the reader found, so that comments, order, spaces, line endings and a byte
//! order mark stay as they are. A document that is parsed and printed again (as `toml_edit` does) keeps comments, but
//! makes CRLF to LF, drops a byte order mark and gathers dotted keys that stand apart.

use super::provenance::Shares;
use crate::routing::split::Weight;
use std::ops::Range;

/// Unchanged lines that a diff shows before and after a change.
const CONTEXT_LINES: usize = 3;

/// One replacement. Of several in one text none overlaps another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Bytes of the text.
    pub at: Range<usize>,
    pub text: String,
}

/// A line that edits change, as it was and as it becomes, without line breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedLine {
    /// From 1, before the change.
    pub line: usize,
    pub before: String,
    pub after: String,
}

/// The variant that is live is said by a variable, which the file can't be made to say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`active` is filled in from a variable or a file")]
pub struct FilledIn;

/// The edits that make a route's weights in `text` say `after` instead of `before`; both have one weight per variant.
pub fn weights(
    text: &str,
    shares: &Shares,
    variants: &[&str],
    before: &[Weight],
    after: &[Weight],
) -> Result<Vec<Edit>, FilledIn> {
    if before == after {
        return Ok(Vec::new());
    }
    match shares {
        Shares::None => Ok(Vec::new()),
        Shares::Weights(places) => {
            let changed = places.iter().zip(before.iter().zip(after)).filter(|(_, (before, after))| before != after);
            Ok(changed.map(|(at, (_, after))| Edit { at: at.clone(), text: after.to_string() }).collect())
        }
        Shares::Active { filled: true, .. } => Err(FilledIn),
        Shares::Active { key, value, .. } => match after.iter().position(|weight| *weight == Weight::FULL) {
            Some(whole) => Ok(vec![Edit { at: value.clone(), text: like(&text[value.clone()], variants[whole]) }]),
            None => Ok(active_to_weights(text, key, value, variants, after)),
        },
    }
}

/// The text with the edits made.
pub fn applied(text: &str, edits: &[Edit]) -> String {
    splice(text, 0..text.len(), &in_order(edits))
}

/// The lines that the edits change.
pub fn changed_lines(text: &str, edits: &[Edit]) -> Vec<ChangedLine> {
    let mut lines = Vec::new();
    for hunk in changes(text, edits) {
        for (nth, before) in hunk.before.iter().enumerate() {
            let after = hunk.after.get(nth).map_or("", String::as_str);
            let bare = |line: &str| line.trim_end_matches(['\n', '\r']).to_owned();
            if before != after {
                lines.push(ChangedLine { line: hunk.first + nth + 1, before: bare(before), after: bare(after) });
            }
        }
    }
    lines
}

/// The edits as a unified diff, as `diff -u` prints it and `patch` takes it; empty without edits.
pub fn unified(name: &str, text: &str, edits: &[Edit]) -> String {
    let old: Vec<&str> = text.split_inclusive('\n').collect();
    let mut out = String::new();
    // Lines that the new text has more than the old one, so far.
    let mut grown: isize = 0;
    let changes = changes(text, edits);
    for hunk in changes.chunk_by(|a, b| b.first - a.end() <= 2 * CONTEXT_LINES) {
        let (first, last) = (&hunk[0], &hunk[hunk.len() - 1]);
        let start = first.first.saturating_sub(CONTEXT_LINES);
        let end = (last.end() + CONTEXT_LINES).min(old.len());
        let growth: isize = hunk.iter().map(Change::growth).sum();
        if out.is_empty() {
            out.push_str(&format!("--- {name}\n+++ {name}\n"));
        }
        let (lines, new_start) = (end - start, start.saturating_add_signed(grown));
        let new_lines = lines.saturating_add_signed(growth);
        out.push_str(&format!("@@ -{},{lines} +{},{new_lines} @@\n", start + 1, new_start + 1));
        let mut at = start;
        for change in hunk {
            old[at..change.first].iter().for_each(|line| push_line(&mut out, ' ', line));
            change.before.iter().for_each(|line| push_line(&mut out, '-', line));
            change.after.iter().for_each(|line| push_line(&mut out, '+', line));
            at = change.end();
        }
        old[at..end].iter().for_each(|line| push_line(&mut out, ' ', line));
        grown += growth;
    }
    out
}

/// `active = "blue"` to `weights = { … }`, in the same place; the `=` stays where it is if there is room.
fn active_to_weights(
    text: &str,
    key: &Range<usize>,
    value: &Range<usize>,
    variants: &[&str],
    after: &[Weight],
) -> Vec<Edit> {
    const KEY: &str = "weights";
    let longer = KEY.len().saturating_sub(key.len());
    let spaces = text[key.end..].chars().take_while(|c| *c == ' ').count();
    let key = key.start..if spaces > longer { key.end + longer } else { key.end };
    let shares: Vec<String> =
        variants.iter().zip(after).map(|(name, weight)| format!("{} = {weight}", toml_key(name))).collect();
    let table = Edit { at: value.clone(), text: format!("{{ {} }}", shares.join(", ")) };
    vec![Edit { at: key, text: KEY.to_owned() }, table]
}

/// A variant's name as a string, in the quotes of the one that it replaces. Names need no escapes.
fn like(written: &str, name: &str) -> String {
    if written.starts_with('\'') { format!("'{name}'") } else { format!("\"{name}\"") }
}

fn toml_key(name: &str) -> String {
    if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() }
}

/// Neighbouring lines that change.
struct Change {
    /// From 0.
    first: usize,
    before: Vec<String>,
    after: Vec<String>,
}

impl Change {
    fn end(&self) -> usize {
        self.first + self.before.len()
    }
    fn growth(&self) -> isize {
        self.after.len().cast_signed() - self.before.len().cast_signed()
    }
}

fn changes(text: &str, edits: &[Edit]) -> Vec<Change> {
    let starts: Vec<usize> = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let line_of = |at: usize| starts.partition_point(|start| *start <= at) - 1;
    let edits = in_order(edits);
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for edit in &edits {
        let (first, end) = (line_of(edit.at.start), line_of(edit.at.end.max(1) - 1) + 1);
        match ranges.last_mut() {
            Some(last) if first <= last.end => last.end = last.end.max(end),
            _ => ranges.push(first..end),
        }
    }
    let change = |lines: Range<usize>| {
        let bytes = starts[lines.start]..starts.get(lines.end).copied().unwrap_or(text.len());
        let split = |text: &str| text.split_inclusive('\n').map(str::to_owned).collect();
        Change { first: lines.start, before: split(&text[bytes.clone()]), after: split(&splice(text, bytes, &edits)) }
    };
    ranges.into_iter().map(change).collect()
}

fn in_order(edits: &[Edit]) -> Vec<&Edit> {
    let mut ordered: Vec<&Edit> = edits.iter().collect();
    ordered.sort_by_key(|edit| edit.at.start);
    ordered
}

/// A part of the text with those of the `edits`, which are in order, that lie in it.
fn splice(text: &str, part: Range<usize>, edits: &[&Edit]) -> String {
    let inside = edits.partition_point(|edit| edit.at.start < part.start)
        ..edits.partition_point(|edit| edit.at.start < part.end);
    let (mut out, mut at) = (String::with_capacity(part.len()), part.start);
    for edit in &edits[inside] {
        out.push_str(&text[at..edit.at.start]);
        out.push_str(&edit.text);
        at = edit.at.end;
    }
    out.push_str(&text[at..part.end]);
    out
}

fn push_line(out: &mut String, sign: char, line: &str) {
    out.push(sign);
    out.push_str(line);
    if !line.ends_with('\n') {
        out.push_str("\n\\ No newline at end of file\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overlay, load_over};
    use proptest::prelude::*;
    use std::path::Path;

    const MARK: &str = "\u{feff}";
    const FILE: &str = "/nowhere/weir.toml";
    const BASE: &str =
        "[[listener]]\nname = \"http\"\nbind = \"127.0.0.1:8080\"\n[pool.p]\ntargets = [\"127.0.0.1:1\"]\n";

    fn loaded(text: &str) -> Config {
        let overlay = Overlay::from([(FILE.into(), text.as_bytes().to_vec())]);
        let loaded = load_over(Path::new(FILE), &|_| Some("b".to_owned()), overlay);
        loaded.config.unwrap_or_else(|| panic!("{}\n{text}", loaded.report.render(false)))
    }

    fn weight(thousandths: u32) -> Weight {
        Weight::from_thousandths(thousandths).unwrap()
    }

    /// The edits that give the first route these weights, in thousandths.
    fn edits_of(text: &str, after: &[u32]) -> Result<Vec<Edit>, FilledIn> {
        let config = loaded(text);
        let route = &config.routes[0];
        let names: Vec<&str> = route.variants.iter().map(|variant| variant.name.as_str()).collect();
        let after: Vec<Weight> = after.iter().map(|thousandths| weight(*thousandths)).collect();
        weights(text, &config.provenance.routes[0].shares, &names, &route.weights, &after)
    }

    fn live(text: &str) -> Vec<u32> {
        loaded(text).routes[0].weights.iter().map(|weight| weight.thousandths()).collect()
    }

    /// The route's lines after [`BASE`] with the weights changed.
    fn saved(lines: &str, after: &[u32]) -> String {
        let text = format!("{BASE}[[route]]\nname = \"r\"\nvariants = {{ a = \"p\", b = \"p\" }}\n{lines}");
        let new = applied(&text, &edits_of(&text, after).unwrap());
        assert_eq!(live(&new), after, "{new}");
        new.strip_prefix(&text[..text.len() - lines.len()]).unwrap().to_owned()
    }

    #[test]
    fn only_the_numbers_change_however_weights_are_written() {
        for (lines, expected) in [
            ("weights = { a = 100, b = 0 } # 100?\n", "weights = { a = 94.875, b = 5.125 } # 100?\n"),
            ("weights={b=0.0,a=1_00.0}", "weights={b=5.125,a=94.875}"),
            (
                "weights.b = 0 # none\ntimeout = \"1s\"\nweights.a = 100\n",
                "weights.b = 5.125 # none\ntimeout = \"1s\"\nweights.a = 94.875\n",
            ),
            (
                "\t[route.weights]\r\n\t# both\r\n\t\"a\"   = 100\r\n\t'b' = 0x0\r\n",
                "\t[route.weights]\r\n\t# both\r\n\t\"a\"   = 94.875\r\n\t'b' = 5.125\r\n",
            ),
            ("weights = {\n  a = 100, # old\n  b = 0,\n}\n", "weights = {\n  a = 94.875, # old\n  b = 5.125,\n}\n"),
        ] {
            assert_eq!(saved(lines, &[94_875, 5_125]), expected);
        }
        assert_eq!(saved("weights = { a = 60.0, b = 4_0 }", &[60_000, 40_000]), "weights = { a = 60.0, b = 4_0 }");
        assert_eq!(saved("weights = { a = 60.0, b = 40 }", &[59_000, 41_000]), "weights = { a = 59, b = 41 }");
    }

    #[test]
    fn active_stays_active_while_one_variant_has_it_all() {
        for (lines, after, expected) in [
            ("active   = \"a\" # colour\n", [0, 100_000], "active   = \"b\" # colour\n"),
            ("active = 'a'\n", [0, 100_000], "active = 'b'\n"),
            ("active = \"\"\"\na\"\"\"\n", [0, 100_000], "active = \"b\"\n"),
            ("active = \"a\"\n", [100_000, 0], "active = \"a\"\n"),
            ("active   = \"a\" # x\n", [90_000, 10_000], "weights  = { a = 90, b = 10 } # x\n"),
            ("active = \"a\"", [99_999, 1], "weights = { a = 99.999, b = 0.001 }"),
            ("active=\"a\"", [50_000, 50_000], "weights={ a = 50, b = 50 }"),
            ("\"active\" = \"a\"", [50_000, 50_000], "weights = { a = 50, b = 50 }"),
        ] {
            assert_eq!(saved(lines, &after), expected);
        }
        let text =
            format!("{BASE}[[route]]\nname = \"r\"\nvariants = {{ \"v1.0\" = \"p\", b = \"p\" }}\nactive = \"b\"\n");
        let new = applied(&text, &edits_of(&text, &[1_000, 99_000]).unwrap());
        assert!(new.ends_with("weights = { \"v1.0\" = 1, b = 99 }\n"), "{new}");
        assert_eq!(live(&new), [1_000, 99_000]);
        let filled = text.replace("active = \"b\"", "active = \"${COLOUR}\"");
        assert_eq!(edits_of(&filled, &[100_000, 0]), Err(FilledIn));
        assert_eq!(edits_of(&filled, &[0, 100_000]), Ok(vec![]));
    }

    #[test]
    fn inline_routes_and_a_byte_order_mark_are_kept() {
        let text =
            format!("{MARK}route = [{{ name = 'r', variants = {{ a = 'p', b = 'p' }}, active = 'a' }}] # é\n{BASE}");
        let new = applied(&text, &edits_of(&text, &[25_000, 75_000]).unwrap());
        assert_eq!(new, text.replace("active = 'a'", "weights = { a = 25, b = 75 }"));
        assert_eq!(live(&new), [25_000, 75_000]);
    }

    #[test]
    fn diffs_are_what_diff_u_prints() {
        let text = "1\n2\n3\n4\nfive\n6\n7\n8\n9\n10\n11\n12\n13\nlast";
        let edit = |what: &str, text_after: &str| {
            let at = text.find(what).unwrap();
            Edit { at: at..at + what.len(), text: text_after.to_owned() }
        };
        let diff = unified("f", text, &[edit("last", "LAST"), edit("five", "5")]);
        let expected = "--- f\n+++ f\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-five\n+5\n 6\n 7\n 8\n@@ -11,4 +11,4 @@\n 11\n 12\n 13\n\
            -last\n\\ No newline at end of file\n+LAST\n\\ No newline at end of file\n";
        assert_eq!(diff, expected);
        let joined = unified("f", text, &[edit("five", "5"), edit("12", "twelve")]);
        assert_eq!(joined.matches("@@ -").count(), 1, "{joined}");
        assert_eq!(unified("f", text, &[]), "");
        let lines = changed_lines(text, &[edit("five", "5")]);
        assert_eq!(lines, [ChangedLine { line: 5, before: "five".to_owned(), after: "5".to_owned() }]);
    }

    /// What `patch` would make of it.
    fn patched(text: &str, diff: &str) -> String {
        let old: Vec<&str> = text.split_inclusive('\n').collect();
        let (mut out, mut at) = (String::new(), 0);
        let mut lines = diff.split_inclusive('\n').skip(2).peekable();
        while let Some(line) = lines.next() {
            let (sign, rest) = line.split_at(1);
            let bare = lines.next_if(|next| next.starts_with('\\')).is_some();
            let rest = if bare { rest.strip_suffix('\n').unwrap() } else { rest };
            match sign {
                "@" => {
                    let start: usize = rest[3..].split(',').next().unwrap().parse().unwrap();
                    old[at..start - 1].iter().for_each(|line| out.push_str(line));
                    at = start - 1;
                }
                "+" => out.push_str(rest),
                _ => {
                    assert_eq!(rest, old[at]);
                    at += 1;
                    if sign == " " {
                        out.push_str(rest);
                    }
                }
            }
        }
        old[at..].iter().for_each(|line| out.push_str(line));
        out
    }

    /// Three weights that sum to 100.
    fn split() -> impl Strategy<Value = [u32; 3]> {
        let grain = prop_oneof![Just(1u32), Just(1000), Just(50_000)];
        (0u32..=100_000, 0u32..=100_000, grain).prop_map(|(one, other, grain)| {
            let (low, high) = (one.min(other) / grain * grain, one.max(other) / grain * grain);
            [low, high - low, 100_000 - high]
        })
    }

    /// A route's lines, written in one of the ways that there are.
    fn route_text() -> impl Strategy<Value = String> {
        let style = (0..5usize, any::<bool>(), "[ \t]{0,3}", "(#[ a-z=\"\\[é]{0,12})?");
        (split(), style).prop_map(|([a, b, c], (style, float, space, comment))| {
            let number = |thousandths: u32| match float {
                true => format!("{}.{:03}", thousandths / 1000, thousandths % 1000),
                false => weight(thousandths).to_string(),
            };
            let (a, b, c) = (number(a), number(b), number(c));
            let shares = match style {
                0 => format!("weights{space}={space}{{ a = {a},b={space}{b}, c = {c}{space}}}{space}{comment}\n"),
                1 => format!("weights.c = {c} {comment}\nweights . a={space}{a}\ntimeout = '1s'\nweights.\"b\" = {b}\n"),
                2 => format!("{space}[route.weights] {comment}\n\n{space}b ={space}{b}\n'c' = {c} {comment}\na = {a}\n"),
                3 => format!("weights = {{ {comment}\n{space}a = {a},\n b = {b}, {comment}\n c = {c} }}\n"),
                _ => format!("active{space}={space}'b'{space}{comment}\n"),
            };
            format!("[[route]] {comment}\nname = 'NAME'\nvariants = {{ a = 'p', b = 'p', c = 'p' }}\nmatch = {{ path = '/NAME' }}\n{shares}")
        })
    }

    proptest! {
        #[test]
        fn a_saved_file_has_those_weights_and_every_other_byte_as_it_was(
            routes in prop::collection::vec((route_text(), split()), 1..4),
            crlf in any::<bool>(),
            mark in any::<bool>(),
        ) {
            let mut text = if mark { MARK } else { "" }.to_owned() + BASE;
            for (nth, (route, _)) in routes.iter().enumerate() {
                text.push_str(&route.replace("NAME", &format!("r{nth}")));
            }
            let text = if crlf { text.replace('\n', "\r\n") } else { text };
            let config = loaded(&text);
            let mut edits = Vec::new();
            for (nth, (_, after)) in routes.iter().enumerate() {
                let after = after.map(weight);
                let shares = &config.provenance.routes[nth].shares;
                edits.extend(weights(&text, shares, &["a", "b", "c"], &config.routes[nth].weights, &after).unwrap());
            }
            let new = applied(&text, &edits);
            let again = loaded(&new);
            for (nth, (_, after)) in routes.iter().enumerate() {
                prop_assert_eq!(&again.routes[nth].weights, &after.map(weight));
            }
            let active = |index: usize| matches!(config.provenance.routes[index].shares, Shares::Active { .. });
            prop_assert_eq!(outside(&text, &config, &active), outside(&new, &again, &active));
            prop_assert_eq!(patched(&text, &unified("f", &text, &edits)), new);
        }
    }

    /// All bytes but those of the numbers; of a route that was `active` all but the whole line's key and value.
    fn outside(text: &str, config: &Config, was_active: &dyn Fn(usize) -> bool) -> Vec<String> {
        let mut cuts: Vec<Range<usize>> = Vec::new();
        for (index, route) in config.provenance.routes.iter().enumerate() {
            match &route.shares {
                Shares::None => {}
                Shares::Weights(places) if was_active(index) => {
                    let start = text[..places[0].start].rfind("weights").unwrap();
                    let last = places[places.len() - 1].end;
                    cuts.push(start..last + text[last..].find('}').unwrap() + 1);
                }
                Shares::Weights(places) => cuts.extend(places.iter().cloned()),
                Shares::Active { key, value, .. } => cuts.push(key.start..value.end),
            }
        }
        cuts.sort_by_key(|cut| cut.start);
        let mut at = 0;
        let mut rest: Vec<String> = Vec::new();
        for cut in cuts {
            rest.push(text[at..cut.start].to_owned());
            at = cut.end;
        }
        rest.push(text[at..].to_owned());
        rest
    }
}
