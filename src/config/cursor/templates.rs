//! Strings with placeholders: `${variant}` stays, `${HOME}` is filled in, `$${variant}` is text.

use super::super::interpolate::{Part, interpolate_around};
use super::super::source::{At, listed};
use super::{Context, Cursor, within};
use toml::Spanned;
use toml::de::DeValue;

/// A name that the operator chose, and its values; one that could not be read is reported already and left out.
pub type NamedTemplates = (At<String>, Vec<At<Vec<Part>>>);

impl Cursor<'_> {
    /// Every entry as (name, text), in the file's order; with `lists` also as (name, list of texts).
    pub fn into_templates(
        self,
        cx: &mut Context<'_>,
        placeholders: &[&'static str],
        lists: bool,
    ) -> Vec<NamedTemplates> {
        let mut entries = Vec::new();
        for (name, value) in self.in_order(cx) {
            let path = self.path_of(&name.value);
            let expected = if lists { "a string or a list of strings" } else { "a string" };
            let items = value.get_ref().as_array().filter(|_| lists);
            let values: Vec<_> = match items {
                Some(items) => {
                    items.iter().filter_map(|item| template(cx, item, &path, placeholders, expected)).collect()
                }
                None => template(cx, value, &path, placeholders, expected).into_iter().collect(),
            };
            entries.push((name, values));
        }
        entries
    }
}

fn template(
    cx: &mut Context<'_>,
    value: &Spanned<DeValue<'_>>,
    path: &str,
    placeholders: &[&'static str],
    expected: &str,
) -> Option<At<Vec<Part>>> {
    let place = cx.place(value.span());
    let Some(written) = value.get_ref().as_str() else {
        cx.wrong_type(path, value, expected);
        return None;
    };
    match interpolate_around(written, placeholders, cx.folder, cx.env) {
        Ok(parts) if written.contains("${") => Some(At::filled(parts, place, written)),
        Ok(parts) => Some(At::new(parts, place)),
        Err(unfilled) => {
            let known = listed(placeholders.iter().map(|name| format!("${{{name}}}")));
            for one in unfilled {
                let place = within(cx.source, place, &one.text);
                let own = one.help.map(|help| format!("{help}; ")).unwrap_or_default();
                let help = format!("{own}filled in for each request are {known}");
                cx.findings.error("interpolation", place, one.message).help(help);
            }
            None
        }
    }
}
