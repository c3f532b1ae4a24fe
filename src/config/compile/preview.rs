//! `preview`: which requests reach the variant that has no traffic yet.

use super::Checker;
use super::routes::Names;
use crate::config::model::PREVIEW_RULE;
use crate::config::raw;
use crate::config::source::listed;
use crate::routing::rule::Condition;

impl Checker<'_> {
    /// None: something is wrong with it; Some(None): there is none.
    pub fn preview(&mut self, raw: &raw::Route, names: &Names<'_>) -> Option<Option<Condition>> {
        let Some(when) = &raw.preview else { return Some(None) };
        let condition = self.condition(when);
        if names.variants.len() != 2 {
            let has = match names.variants.as_slice() {
                [] => "none".to_owned(),
                variants => listed(variants),
            };
            let message = format!("`preview` in {} needs two variants, and there is {has}", names.route);
            let finding = self.findings.error("bad-preview", when.place, message);
            finding
                .help("with two, the one with less of the traffic is the idle one; for others write a [[route.rule]]");
            return None;
        }
        let named = raw.rules.iter().filter_map(|rule| rule.name.as_ref()).find(|name| name.value == PREVIEW_RULE);
        if let Some(name) = named {
            let message =
                format!("a rule of {} is called {PREVIEW_RULE:?}, as the one that `preview` makes", names.route);
            let finding = self.findings.error("duplicate-name", name.place, message).other(when.place);
            finding.help("give the rule another name, or leave one of the two out");
            return None;
        }
        condition.map(Some)
    }
}
