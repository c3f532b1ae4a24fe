//! Routes: their variants and weights, how clients are known again.

use super::Checker;
use super::filters::{only_variant, written_edits};
use crate::config::cursor::Named;
use crate::config::model::{OnEmpty, RouteConfig, VariantConfig};
use crate::config::raw;
use crate::config::source::{At, Place, listed};
use crate::limits::{BUCKETS, VARIANTS_PER_ROUTE};
use crate::routing::rule::{Condition, Rule};
use crate::routing::split::Weight;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The variants of one route, for what names them.
pub struct Names<'r> {
    /// `route.shop`.
    pub route: &'r str,
    pub variants: Vec<&'r str>,
}

impl Names<'_> {
    pub fn index(&self, name: &str) -> Option<usize> {
        self.variants.iter().position(|variant| *variant == name)
    }
}

/// A route's variants, their weights, the rules between them, and the condition of its preview.
type Versions = (Vec<VariantConfig>, Vec<Weight>, Vec<Rule>, Option<Condition>);

impl Checker<'_> {
    pub fn routes(&mut self, raw: &[raw::Route], pools: &[raw::Pool]) -> Option<Vec<RouteConfig>> {
        self.unique("route", raw.iter().filter_map(|route| route.name.as_ref()));
        let mut by_name = HashMap::new();
        for (index, pool) in pools.iter().enumerate() {
            by_name.entry(pool.name.value.as_str()).or_insert(index);
        }
        let routes: Vec<_> = raw.iter().map(|route| self.route(route, &by_name, pools)).collect();
        let routes: Vec<_> = routes.into_iter().collect::<Option<_>>()?;
        if !self.findings.has_errors() {
            self.unreachable(raw, &routes);
            self.groups(raw, &routes);
            self.unused(pools, &routes);
        }
        Some(routes)
    }

    fn route(&mut self, raw: &raw::Route, by_name: &HashMap<&str, usize>, pools: &[raw::Pool]) -> Option<RouteConfig> {
        if let Some(name) = &raw.name {
            self.name("route", name);
        }
        let matches = self.request_match(&raw.matches);
        let sticky = match &raw.sticky {
            Some(sticky) => self.sticky(sticky, raw.name.as_ref()).map(Some),
            None => Some(None),
        };
        let only = only_variant(raw);
        let versions = match &only {
            Some(only) => Some((vec![only.clone()], vec![Weight::FULL], Vec::new(), None)),
            None => self.versions(raw, by_name, pools),
        };
        let names = match (&only, &raw.variants) {
            (Some(only), _) => vec![only.name.as_str()],
            (None, variants) => variants.iter().flatten().map(|(name, _)| name.value.as_str()).collect(),
        };
        let filters = self.filters(raw, matches.as_ref(), &names);
        let timeout = raw.timeout.as_ref().map_or(TIMEOUT, |timeout| timeout.value);
        let mirror = match &raw.mirror {
            Some(mirror) => self.mirror(mirror, &raw.path, by_name, timeout).map(Some),
            None => Some(None),
        };
        let on_empty = self.on_empty(raw, &names);
        let recovery = self.recovery(raw);
        let rollout = self.rollout(raw, &names);
        let (variants, weights, rules, preview) = versions?;
        let name = raw.name.as_ref()?.value.clone();
        let group = raw.sticky.as_ref().and_then(|sticky| sticky.group.as_ref());
        Some(RouteConfig {
            salt: group.map_or_else(|| name.clone(), |group| group.value.clone()),
            name,
            matches: matches?,
            variants,
            weights,
            rules,
            preview,
            sticky: sticky?,
            timeout,
            request_timeout: raw.request_timeout.as_ref().map(|timeout| timeout.value),
            close_moved_within: raw.on_move.as_ref().and_then(|on_move| Some(on_move.close_within.as_ref()?.value)),
            on_empty,
            filters: filters?,
            request_headers: raw.filters.request_headers.as_ref().and_then(written_edits),
            response_headers: raw.filters.response_headers.as_ref().and_then(written_edits),
            mirror: mirror?,
            recovery: recovery?.map(Arc::new),
            rollout: rollout?.map(Arc::new),
        })
    }

    /// `stable` is the baseline, whatever it is called.
    fn on_empty(&mut self, raw: &raw::Route, names: &[&str]) -> OnEmpty {
        let Some(written) = raw.on_empty.as_ref().filter(|written| written.value == "stable") else {
            return OnEmpty::Fail;
        };
        if let Some((first, others)) = names.split_first()
            && others.contains(&"stable")
        {
            let message = format!("`{}.on_empty` is \"stable\", which is the first variant, {first:?}", raw.path);
            let finding = self.findings.error("bad-on-empty", written.place, message);
            finding.help("put the variant `stable` first in `variants`, or write on_empty = \"fail\"");
        }
        OnEmpty::Baseline
    }

    /// The variants, their weights and the rules between them.
    fn versions(&mut self, raw: &raw::Route, by_name: &HashMap<&str, usize>, pools: &[raw::Pool]) -> Option<Versions> {
        // Without variants there is nothing to hold weights and rules against.
        let variants = raw.variants.as_ref()?;
        let names =
            Names { route: &raw.path, variants: variants.iter().map(|(name, _)| name.value.as_str()).collect() };
        let resolved = self.variants(raw, variants, by_name, pools);
        let weights = self.starting_weights(raw, &names);
        let rules = self.rules(&raw.rules, &names);
        let preview = self.preview(raw, &names);
        Some((resolved?, weights?, rules?, preview?))
    }

    fn variants(
        &mut self,
        raw: &raw::Route,
        variants: &[Named<String>],
        by_name: &HashMap<&str, usize>,
        pools: &[raw::Pool],
    ) -> Option<Vec<VariantConfig>> {
        if variants.is_empty() || variants.len() > VARIANTS_PER_ROUTE {
            let message = format!("{} has {} variants", raw.path, variants.len());
            let finding = self.findings.error("bad-variants", raw.place, message);
            finding.help(format!("a route has 1 to {VARIANTS_PER_ROUTE}: variants = {{ stable = \"POOL\" }}"));
        }
        let mut resolved = Vec::new();
        for (name, pool) in variants {
            self.name("variant", name);
            let Some(pool) = pool else { continue };
            match by_name.get(pool.value.as_str()) {
                Some(index) => resolved.push(VariantConfig { name: name.value.clone(), pool: Some(*index) }),
                None => {
                    let known: Vec<&str> = pools.iter().map(|pool| pool.name.value.as_str()).collect();
                    self.unknown("unknown-pool", "pool", pool, &known);
                }
            }
        }
        (resolved.len() == variants.len()).then_some(resolved)
    }

    fn starting_weights(&mut self, raw: &raw::Route, names: &Names<'_>) -> Option<Vec<Weight>> {
        match (&raw.weights, &raw.active) {
            (Some(weights), Some(active)) => {
                let message = format!("{} has both `weights` and `active`", raw.path);
                let finding = self.findings.error("bad-weights", active.place, message);
                finding.other(weights.place).help("`active` is short for weights 100 and 0: keep one of them");
                self.weights(weights, names);
                None
            }
            (Some(weights), None) => self.weights(weights, names),
            (None, Some(active)) => {
                let index = self.variant(active, names)?;
                Some((0..names.variants.len()).map(|i| if i == index { Weight::FULL } else { Weight::ZERO }).collect())
            }
            (None, None) if raw.has_shares => None,
            (None, None) if names.variants.len() == 1 => Some(vec![Weight::FULL]),
            (None, None) => {
                if !names.variants.is_empty() {
                    let message = format!("{} has {} variants but no `weights`", raw.path, names.variants.len());
                    let all_at_baseline = vec![0; names.variants.len()];
                    let help = suggestion(names, &all_at_baseline).unwrap_or_default();
                    self.findings.error("weights-missing", raw.place, message).help(help);
                }
                None
            }
        }
    }

    /// The index of a variant that something names.
    pub fn variant(&mut self, name: &At<String>, names: &Names<'_>) -> Option<usize> {
        let index = names.index(&name.value);
        if index.is_none() {
            self.unknown("unknown-variant", &format!("variant in {}:", names.route), name, &names.variants);
        }
        index
    }

    /// One weight per variant, summing to 100.
    pub fn weights(&mut self, raw: &raw::Weights, names: &Names<'_>) -> Option<Vec<Weight>> {
        let mut weights: Vec<Option<Weight>> = vec![None; names.variants.len()];
        let mut sound = true;
        for (name, share) in &raw.shares {
            let index = self.variant(name, names);
            let weight = share.as_ref().and_then(|share| self.weight(share));
            match (index, weight) {
                (Some(index), Some(weight)) => weights[index] = Some(weight),
                _ => sound = false,
            }
        }
        if !sound {
            return None;
        }
        self.whole(raw.place, &weights, names)
    }

    pub(super) fn weight(&mut self, share: &At<f64>) -> Option<Weight> {
        match Weight::from_percent(share.value) {
            Ok(weight) => Some(weight),
            Err(error) => {
                let help = "a weight is a percentage from 0 to 100 with up to three decimals";
                self.findings.error("bad-weight", share.place, error.to_string()).help(help);
                None
            }
        }
    }

    /// Every variant is named, and the sum is right.
    fn whole(&mut self, place: Place, weights: &[Option<Weight>], names: &Names<'_>) -> Option<Vec<Weight>> {
        let given: Vec<u64> = weights.iter().map(|one| u64::from(one.map_or(0, Weight::thousandths))).collect();
        let missing: Vec<&str> =
            names.variants.iter().zip(weights).filter(|(_, weight)| weight.is_none()).map(|(name, _)| *name).collect();
        let sum: u64 = given.iter().sum();
        let full = u64::from(BUCKETS);
        if sum == full && missing.is_empty() {
            return Some(weights.iter().copied().flatten().collect());
        }
        let route = names.route;
        let (code, mut message) = match sum == full {
            true => ("weights-missing", format!("the weights of {route} leave out {}", listed(&missing))),
            false => ("weights-sum", format!("the weights of {route} sum to {} instead of 100", percent(sum))),
        };
        if sum != full && !missing.is_empty() {
            message.push_str(&format!("; {} has none", listed(&missing)));
        }
        let help = match sum {
            _ if sum == full => written(names, &given),
            // One is missing: it most likely was to have the rest.
            _ if sum < full && missing.len() == 1 => {
                let rest = full - sum;
                let filled = weights.iter().map(|one| one.map_or(rest, |weight| u64::from(weight.thousandths())));
                written(names, &filled.collect::<Vec<_>>())
            }
            _ => suggestion(names, &given)
                .unwrap_or_else(|| format!("take away {} in all", percent(sum.saturating_sub(full)))),
        };
        self.findings.error(code, place, message).help(help);
        None
    }

    fn unused(&mut self, pools: &[raw::Pool], routes: &[RouteConfig]) {
        let of_variants = routes.iter().flat_map(|route| &route.variants).filter_map(|one| one.pool);
        let of_mirrors = routes.iter().filter_map(|route| route.mirror.as_ref()).map(|mirror| mirror.pool);
        let used: HashSet<usize> = of_variants.chain(of_mirrors).collect();
        for (index, pool) in pools.iter().enumerate() {
            if !used.contains(&index) {
                let message = format!("no route uses pool.{}", pool.name.value);
                self.findings.warning("unused-pool", pool.name.place, message);
            }
        }
    }
}

/// The weights with the baseline's share changed so that the sum is 100, unless the others alone exceed it.
fn suggestion(names: &Names<'_>, thousandths: &[u64]) -> Option<String> {
    let others: u64 = thousandths.iter().skip(1).sum();
    let baseline = u64::from(BUCKETS).checked_sub(others)?;
    let right: Vec<u64> = std::iter::once(baseline).chain(thousandths.iter().skip(1).copied()).collect();
    Some(written(names, &right))
}

fn written(names: &Names<'_>, thousandths: &[u64]) -> String {
    let shares: Vec<String> =
        names.variants.iter().zip(thousandths).map(|(name, share)| format!("{name} = {}", percent(*share))).collect();
    format!("for example weights = {{ {} }}", shares.join(", "))
}

/// Exact: `33.333`, `100`.
fn percent(thousandths: u64) -> String {
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_exact() {
        for (thousandths, text) in [(0, "0"), (1, "0.001"), (33_333, "33.333"), (100_000, "100"), (90_500, "90.5")] {
            assert_eq!(percent(thousandths), text);
        }
    }
}
