//! From what a change asks for to the assignment of buckets that it means.

use crate::config::RouteConfig;
use crate::control::command::{ChangeError, Edit, RouteView, Switch, UndoError, UndoRefused};
use crate::control::history;
use crate::routing::split::{Assignment, Weight};
use std::sync::Arc;

use super::listed;

/// What a change means. With the route's own assignment it changes nothing.
pub struct Asked {
    pub assignment: Assignment,
    pub action: &'static str,
    pub to: Option<u64>,
    pub overrode: Vec<String>,
}

pub fn asked(view: &RouteView, edit: &Edit) -> Result<Asked, ChangeError> {
    let route = &view.config.routes[view.index];
    let moved = |weights: &[Weight], action, overrode| {
        let assignment = view.live.assignment.moved_to(weights).map_err(|error| weights_error("weights", &error))?;
        Ok(Asked { assignment, action, to: None, overrode })
    };
    match edit {
        Edit::Patch(named) => moved(&weights(route, &view.live.weights, named, false)?, history::SHIFT, Vec::new()),
        Edit::Replace(named) => moved(&weights(route, &view.live.weights, named, true)?, history::SHIFT, Vec::new()),
        Edit::Switch(switch) => {
            let weights = everything_to(place_of(route, &switch.to)?, route);
            let there = weights == view.live.weights;
            if !there {
                still_probed(view, switch)?;
            }
            moved(&weights, history::SWITCH, if there { Vec::new() } else { switch.overrode.clone() })
        }
        Edit::Undo { to } => {
            let (to, assignment) = undone(view, *to)?;
            Ok(Asked { assignment, action: history::UNDO, to: Some(to), overrode: Vec::new() })
        }
    }
}

/// The place of the variant that everything is to go to.
pub fn place_of(route: &RouteConfig, name: &str) -> Result<usize, ChangeError> {
    let place = route.variants.iter().position(|variant| variant.name == name);
    place.ok_or_else(|| ChangeError::Weights { field: "to".to_owned(), detail: no_variant(route, name) })
}

fn no_variant(route: &RouteConfig, name: &str) -> String {
    let known: Vec<&str> = route.variants.iter().map(|variant| variant.name.as_str()).collect();
    format!("route {:?} has no variant {name:?}; it has {}", route.name, known.join(", "))
}

fn everything_to(place: usize, route: &RouteConfig) -> Vec<Weight> {
    let share = |at| if at == place { Weight::FULL } else { Weight::ZERO };
    (0..route.variants.len()).map(share).collect()
}

/// A reload or a name that resolved anew may have come between the look at the targets and the switch.
fn still_probed(view: &RouteView, switch: &Switch) -> Result<(), ChangeError> {
    let route = &view.config.routes[view.index];
    let pool = &view.pools[route.variants[place_of(route, &switch.to)?].pool];
    match &switch.probed {
        Some(probed) if Arc::ptr_eq(probed, pool) => Ok(()),
        _ => Err(ChangeError::Unprobed(switch.to.clone())),
    }
}

/// The generation that an undo goes to, and its assignment.
fn undone(view: &RouteView, to: Option<u64>) -> Result<(u64, Assignment), ChangeError> {
    let (live, history) = (&view.live, &view.live.history);
    let refused = |why, detail: String| {
        let revisions: Vec<u64> = history.entries().iter().rev().map(|entry| entry.generation).collect();
        let detail = format!("{detail}; {}", kept(view.name(), &revisions));
        ChangeError::Undo(UndoError { why, detail, revisions })
    };
    if to == Some(live.generation) {
        return Ok((live.generation, live.assignment.clone()));
    }
    let entry = match to {
        Some(generation) => history.at(generation).ok_or_else(|| {
            let past = if generation < live.generation { "is not kept any more" } else { "never was" };
            refused(UndoRefused::Unknown, format!("revision {generation} {past}"))
        })?,
        None => history.before(live.generation).ok_or_else(|| {
            refused(UndoRefused::Nothing, format!("there is no revision before {} to go back to", live.generation))
        })?,
    };
    let revision = entry.revision();
    let variants: Vec<&str> =
        view.config.routes[view.index].variants.iter().map(|variant| variant.name.as_str()).collect();
    let assignment = revision.for_variants(&variants).ok_or_else(|| {
        let (then, now) = (revision.variants.join(", "), variants.join(", "));
        let detail = format!("revision {} has the variants {then}, and the route has {now} now", entry.generation);
        refused(UndoRefused::VariantsChanged, detail)
    })?;
    Ok((entry.generation, assignment))
}

/// `route "shop" has the revisions 1, 4 to 7`.
fn kept(route: &str, newest_first: &[u64]) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for generation in newest_first.iter().rev() {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *generation => *last = *generation,
            _ => runs.push((*generation, *generation)),
        }
    }
    let shown = |(first, last): &(u64, u64)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    };
    let runs: Vec<String> = runs.iter().map(shown).collect();
    match newest_first.len() {
        0 => format!("route {route:?} has no revisions"),
        1 => format!("route {route:?} has the revision {}", runs.join(", ")),
        _ => format!("route {route:?} has the revisions {}", runs.join(", ")),
    }
}

/// The weights that are asked for, one per variant. `whole`: every variant is to be named.
fn weights(
    route: &RouteConfig,
    live: &[Weight],
    named: &[(String, Weight)],
    whole: bool,
) -> Result<Vec<Weight>, ChangeError> {
    let mut asked: Vec<Option<Weight>> = vec![None; route.variants.len()];
    for (name, weight) in named {
        let field = format!("weights.{name}");
        let Some(place) = route.variants.iter().position(|variant| variant.name == *name) else {
            return Err(ChangeError::Weights { field, detail: no_variant(route, name) });
        };
        if asked[place].replace(*weight).is_some() {
            return Err(ChangeError::Weights { field, detail: format!("variant {name:?} is named twice") });
        }
    }
    if named.is_empty() {
        let detail = "no variant is named; name at least one, such as {\"weights\":{\"canary\":5}}".to_owned();
        return Err(ChangeError::Weights { field: "weights".to_owned(), detail });
    }
    if whole && let Some(missing) = asked.iter().position(Option::is_none) {
        let name = &route.variants[missing].name;
        let detail = format!("variant {name:?} is missing; PUT names every variant, PATCH only those to change");
        return Err(ChangeError::Weights { field: format!("weights.{name}"), detail });
    }
    if asked[0].is_none() {
        asked[0] = Some(baseline_rest(route, live, &asked)?);
    }
    let weights: Vec<Weight> = asked.iter().zip(live).map(|(asked, live)| asked.unwrap_or(*live)).collect();
    let sum: u32 = weights.iter().map(|weight| weight.thousandths()).sum();
    if sum != Weight::FULL.thousandths() {
        let detail = format!("weights sum to {} percent instead of 100: {}", percent(sum), listed(route, &weights));
        return Err(ChangeError::Weights { field: "weights".to_owned(), detail });
    }
    Ok(weights)
}

/// What is left for the baseline.
fn baseline_rest(route: &RouteConfig, live: &[Weight], asked: &[Option<Weight>]) -> Result<Weight, ChangeError> {
    let others = asked.iter().zip(live).skip(1);
    let taken: u32 = others.map(|(asked, live)| asked.unwrap_or(*live).thousandths()).sum();
    let rest = Weight::FULL.thousandths().checked_sub(taken);
    rest.and_then(|rest| Weight::from_thousandths(rest).ok()).ok_or_else(|| ChangeError::Weights {
        field: "weights".to_owned(),
        detail: format!(
            "the variants besides the baseline {:?} would have {} percent, which leaves less than nothing for it",
            route.variants[0].name,
            percent(taken)
        ),
    })
}

fn weights_error(field: &str, error: &impl std::fmt::Display) -> ChangeError {
    ChangeError::Weights { field: field.to_owned(), detail: error.to_string() }
}

fn percent(thousandths: u32) -> f64 {
    f64::from(thousandths) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures::{cause, ground, weights as percents};
    use crate::control::ground::tests::{change, named, three};

    fn patched(shares: &[(&str, f64)]) -> Result<Vec<f64>, (String, String)> {
        match ground(three()).changed(&change(Edit::Patch(named(shares))), cause().now) {
            Ok(changed) => Ok(changed.route.live.weights.iter().map(|weight| weight.percent()).collect()),
            Err(ChangeError::Weights { field, detail }) => Err((field, detail)),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_patch_gives_the_difference_to_the_baseline() {
        assert_eq!(patched(&[("b", 25.0)]).unwrap(), [65.0, 25.0, 10.0]);
        assert_eq!(patched(&[("b", 0.0), ("c", 0.0)]).unwrap(), [100.0, 0.0, 0.0]);
        assert_eq!(patched(&[("b", 90.0)]).unwrap(), [0.0, 90.0, 10.0]);
        assert_eq!(patched(&[("b", 0.001)]).unwrap(), [89.999, 0.001, 10.0]);
        assert_eq!(patched(&[("a", 60.0), ("b", 30.0)]).unwrap(), [60.0, 30.0, 10.0]);
    }

    #[test]
    fn a_patch_that_does_not_add_up_is_refused_with_the_field() {
        for (shares, field, said) in [
            (&[("b", 90.001)][..], "weights", "100.001 percent"),
            (&[("a", 60.0)], "weights", "sum to 90 percent"),
            (&[("a", 100.0)], "weights", "sum to 130 percent"),
            (&[("d", 5.0)], "weights.d", "it has a, b, c"),
            (&[("b", 5.0), ("b", 6.0)], "weights.b", "named twice"),
            (&[], "weights", "no variant is named"),
        ] {
            let (named, detail) = patched(shares).unwrap_err();
            assert_eq!(named, field, "{detail}");
            assert!(detail.contains(said), "{detail}");
        }
    }

    #[test]
    fn a_put_names_every_variant() {
        let put = |shares: &[(&str, f64)]| ground(three()).changed(&change(Edit::Replace(named(shares))), cause().now);
        let view = put(&[("c", 1.0), ("a", 90.0), ("b", 9.0)]).unwrap().route;
        assert_eq!(view.live.weights, percents(&[90.0, 9.0, 1.0]));
        assert_eq!(view.live.generation, 2);
        let Err(ChangeError::Weights { field, .. }) = put(&[("a", 90.0), ("c", 10.0)]) else { panic!() };
        assert_eq!(field, "weights.b");
        let Err(ChangeError::Weights { field, .. }) = put(&[("a", 90.0), ("b", 1.0), ("c", 1.0)]) else { panic!() };
        assert_eq!(field, "weights");
    }
}
