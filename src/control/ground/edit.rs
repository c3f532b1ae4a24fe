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
    if let Some(detail) = route.answers_by_itself() {
        return Err(ChangeError::Weights { field: "weights".to_owned(), detail });
    }
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
    let pool = route.variants[place_of(route, &switch.to)?].pool.map(|pool| &view.pools[pool]);
    match (&switch.probed, pool) {
        (_, None) => Ok(()),
        (Some(probed), Some(pool)) if Arc::ptr_eq(probed, pool) => Ok(()),
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
            let detail = match generation {
                gone if (1..live.generation).contains(&gone) => format!("revision {gone} is not kept any more"),
                never => format!("there is no revision {never}"),
            };
            refused(UndoRefused::Unknown, detail)
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
    use crate::control::command::WeightChange;
    use crate::control::fixtures::{cause, ground, weights as percents};
    use crate::control::ground::tests::{change, named, three};
    use crate::control::ground::{Addresses, Ground, Past};
    use crate::control::persist::Saved;
    use proptest::prelude::*;
    use std::collections::HashMap;

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

    fn switch(ground: &Ground, to: &str) -> WeightChange {
        let probed = Some(Arc::clone(&ground.pools[0]));
        change(Edit::Switch(Switch { to: to.to_owned(), force: false, probed, overrode: Vec::new() }))
    }

    fn does(ground: &mut Ground, change: &WeightChange) -> bool {
        let changed = ground.changed(change, cause().now).unwrap();
        ground.apply(&changed.route);
        changed.changed()
    }

    fn refused(ground: &Ground, edit: Edit) -> UndoError {
        match ground.changed(&change(edit), cause().now) {
            Err(ChangeError::Undo(refused)) => refused,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_switch_gives_everything_to_one_of_any_number() {
        let mut ground = ground(three());
        let to_c = switch(&ground, "c");
        assert!(does(&mut ground, &to_c));
        assert_eq!(ground.routes[0].weights, percents(&[0.0, 0.0, 100.0]));
        let newest = ground.routes[0].history.newest().unwrap().revision();
        assert_eq!((newest.action.as_ref(), newest.generation), ("switch", 2));
        assert!(!does(&mut ground, &to_c), "there already");
        assert_eq!(ground.routes[0].generation, 2);
        let Err(ChangeError::Weights { field, detail }) = ground.changed(&switch(&ground, "d"), cause().now) else {
            panic!()
        };
        assert_eq!((field.as_str(), detail.contains("it has a, b, c")), ("to", true));
    }

    #[test]
    fn a_switch_whose_targets_are_others_by_now_is_not_done() {
        let ground = ground(three());
        let mut unseen = switch(&ground, "b");
        let Edit::Switch(asked) = &mut unseen.edit else { panic!() };
        asked.probed = None;
        assert!(matches!(ground.changed(&unseen, cause().now), Err(ChangeError::Unprobed(_))));
        let mut other = three();
        other.pools[0].max_connections = 7;
        let (other, _) = ground.reloaded(other, Addresses::new(), &cause());
        let seen_before = switch(&ground, "b");
        assert!(matches!(other.changed(&seen_before, cause().now), Err(ChangeError::Unprobed(_))));
        assert!(ground.changed(&seen_before, cause().now).unwrap().changed());
    }

    #[test]
    fn an_undo_goes_back_one_or_to_a_revision_that_is_there() {
        let mut ground = ground(three());
        let nothing = refused(&ground, Edit::Undo { to: None });
        assert_eq!((nothing.why, &nothing.revisions[..]), (UndoRefused::Nothing, &[1][..]));
        for percent in [30.0, 40.0, 5.0] {
            does(&mut ground, &change(Edit::Patch(named(&[("b", percent)]))));
        }
        let third = ground.clone();
        assert!(does(&mut ground, &change(Edit::Undo { to: None })));
        assert_eq!(ground.routes[0].weights[1].percent(), 40.0);
        // The one before an undo is what it undid.
        assert!(does(&mut ground, &change(Edit::Undo { to: None })));
        assert_eq!(ground.routes[0].assignment, third.routes[0].assignment);
        assert!(does(&mut ground, &change(Edit::Undo { to: Some(1) })));
        let newest = ground.routes[0].history.newest().unwrap().revision();
        assert_eq!((newest.generation, newest.to, newest.action.as_ref()), (7, Some(1), "undo"));
        assert!(!does(&mut ground, &change(Edit::Undo { to: Some(7) })), "the present one");
        assert!(!does(&mut ground, &change(Edit::Undo { to: Some(1) })), "the same buckets");
        for (to, said) in [(8, "there is no revision 8"), (0, "there is no revision 0"), (u64::MAX, "there is no")] {
            let unknown = refused(&ground, Edit::Undo { to: Some(to) });
            assert_eq!((unknown.why, unknown.revisions), (UndoRefused::Unknown, vec![7, 6, 5, 4, 3, 2, 1]));
            assert!(
                unknown.detail.contains(said) && unknown.detail.ends_with("revisions 1 to 7"),
                "{}",
                unknown.detail
            );
        }
    }

    #[test]
    fn an_undo_needs_the_variants_of_then() {
        let mut ground = ground(three());
        does(&mut ground, &change(Edit::Patch(named(&[("b", 45.0)]))));
        let with = |variants: &[(&str, f64)]| {
            let file = crate::control::fixtures::config(&[("r", variants)]);
            ground.reloaded(file, Addresses::new(), &cause()).0
        };
        let more = with(&[("a", 70.0), ("b", 20.0), ("c", 5.0), ("d", 5.0)]);
        let changed = refused(&more, Edit::Undo { to: Some(1) });
        assert_eq!((changed.why, changed.revisions), (UndoRefused::VariantsChanged, vec![3, 2, 1]));
        assert!(changed.detail.contains("has the variants a, b, c, and the route has a, b, c, d now"));
        // In another order it is still the same clients.
        let mut turned = with(&[("c", 10.0), ("a", 70.0), ("b", 20.0)]);
        assert!(does(&mut turned, &change(Edit::Undo { to: Some(1) })));
        let back = turned.routes[0].assignment.remapped(&[Some(2), Some(0), Some(1)], 3).unwrap();
        assert_eq!(back, Assignment::starting(&percents(&[70.0, 20.0, 10.0])).unwrap());
    }

    #[test]
    fn revisions_are_named_as_runs() {
        for (newest_first, text) in [
            (&[][..], "has no revisions"),
            (&[4], "has the revision 4"),
            (&[5, 4], "has the revisions 4, 5"),
            (&[9, 7, 6, 5, 2, 1], "has the revisions 1, 2, 5 to 7, 9"),
        ] {
            assert!(kept("r", newest_first).ends_with(text), "{}", kept("r", newest_first));
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Patch(u32, u32),
        Switch(usize),
        Undo(Option<prop::sample::Index>),
        File(u32, u32),
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        let share = || 0u32..=50_000;
        prop_oneof![
            4 => (share(), share()).prop_map(|(b, c)| Step::Patch(b, c)),
            1 => (0usize..3).prop_map(Step::Switch),
            2 => any::<Option<prop::sample::Index>>().prop_map(Step::Undo),
            1 => (share(), share()).prop_map(|(b, c)| Step::File(b, c)),
            1 => Just(Step::Restart),
        ]
    }

    /// As after a restart: from what stands on disk.
    fn restarted(ground: &Ground) -> Ground {
        let (route, live) = (&ground.config.routes[0], &ground.routes[0]);
        let saved = HashMap::from([("r".to_owned(), Saved::of(route, live))]);
        let read = |record: &str| Arc::new(history::Entry::read(record).unwrap().0);
        let entries = live.history.entries().iter().map(|entry| read(entry.record()));
        let histories = HashMap::from([("r".to_owned(), history::History::replay(entries))]);
        Ground::start(
            (*ground.config).clone(),
            Past { saved, histories, ..Past::default() },
            Addresses::new(),
            1,
            &cause(),
        )
        .0
    }

    fn take(ground: &mut Ground, step: &Step) {
        let percent = |thousandths: &u32| f64::from(*thousandths) / 1000.0;
        match step {
            Step::Patch(b, c) => {
                does(ground, &change(Edit::Patch(named(&[("b", percent(b)), ("c", percent(c))]))));
            }
            Step::Switch(place) => {
                let switch = switch(ground, ["a", "b", "c"][*place]);
                does(ground, &switch);
            }
            Step::Undo(to) => {
                let entries = ground.routes[0].history.entries();
                let to = to.map(|to| to.get(entries).generation);
                if to.is_some() || entries.len() > 1 {
                    does(ground, &change(Edit::Undo { to }));
                }
            }
            Step::File(b, c) => {
                let shares = [("a", percent(&(100_000 - b - c))), ("b", percent(b)), ("c", percent(c))];
                let file = crate::control::fixtures::config(&[("r", &shares)]);
                *ground = ground.reloaded(file, Addresses::new(), &cause()).0;
            }
            Step::Restart => *ground = restarted(ground),
        }
    }

    proptest! {
        #[test]
        fn an_undo_brings_back_the_very_same_buckets(steps in prop::collection::vec(step(), 1..24)) {
            let mut ground = ground(three());
            let mut lived = HashMap::from([(1, ground.routes[0].assignment.clone())]);
            for step in &steps {
                take(&mut ground, step);
                let now = &ground.routes[0];
                let known = lived.entry(now.generation).or_insert_with(|| now.assignment.clone());
                prop_assert_eq!(&*known, &now.assignment, "one generation, one assignment");
                let history: Vec<u64> = now.history.entries().iter().map(|entry| entry.generation).collect();
                prop_assert_eq!(history, (1..=now.generation).collect::<Vec<_>>());
            }
            for (generation, assignment) in lived {
                let mut back = ground.clone();
                let changed = does(&mut back, &change(Edit::Undo { to: Some(generation) }));
                prop_assert_eq!(back.routes[0].assignment.runs(), assignment.runs());
                prop_assert_eq!(changed, ground.routes[0].assignment != assignment);
            }
        }
    }
}
