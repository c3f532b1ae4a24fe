//! The audit log's lines: who changed what, when, from where and why, and what was refused; each a JSON object of its own.
//!
//! A refused change has no place in the history and moves nothing, so nothing waits for its line, and an actor gets only
//! so many of them in a time: a script that tries for ever must not push out the changes that came into force.

use super::command::{DrainOrder, Edit, Installed, Origin, WeightChange};
use super::history::{self, Entry, Revision};
use super::save::{SaveRequest, Saving};
use crate::limits::{REFUSAL_WINDOW, REFUSALS_PER_ACTOR};
use crate::routing::split::Weight;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;

/// A change of a route's live state that came into force.
pub fn changed(entry: &Entry) -> String {
    line(revision(&entry.revision(), "done"))
}

/// A change that was under way when the process ended: nobody was told that it was done, and it was not.
pub fn unacknowledged(entry: &Entry) -> String {
    line(revision(&entry.revision(), "not done"))
}

/// A configuration that was swapped in. What it changed of live weights has lines of its own.
pub fn reloaded(installed: &Installed, origin: &Origin, now: Timestamp) -> String {
    let mut members = who(origin, "reload", now);
    let lists = [
        ("added", &installed.added),
        ("removed", &installed.removed),
        ("file_won", &installed.file_won),
        ("live_kept", &installed.live_kept),
    ];
    members.insert("routes".to_owned(), json!(installed.routes));
    members.extend(lists.map(|(name, routes)| (name.to_owned(), json!(routes))));
    members.insert("result".to_owned(), json!("done"));
    line(members)
}

/// Live weights that were written into the files. They are what they were.
pub fn saved(saving: &Saving, origin: &Origin, now: Timestamp) -> String {
    let mut members = who(origin, "save", now);
    let routes = saving.routes.iter().map(|route| route.view.name()).collect::<Vec<_>>();
    let files = saving.files.iter().map(|file| file.path.display().to_string()).collect::<Vec<_>>();
    members.insert("routes".to_owned(), json!(routes));
    members.insert("files".to_owned(), json!(files));
    members.insert("result".to_owned(), json!("done"));
    line(members)
}

/// What somebody asked of a rollout, and was done.
pub fn rollout(route: &str, action: &str, origin: &Origin, now: Timestamp) -> String {
    let mut members = who(origin, action, now);
    members.insert("rollout".to_owned(), json!(route));
    members.insert("result".to_owned(), json!("done"));
    line(members)
}

/// A target that was taken out or back in.
pub fn drained(order: &DrainOrder, now: Timestamp) -> String {
    let mut members = who(&order.origin, order.action(), now);
    members.insert("pool".to_owned(), json!(order.pool));
    members.insert("target".to_owned(), json!(order.target));
    members.insert("result".to_owned(), json!("done"));
    line(members)
}

/// The state goes to another process. Should that not serve, a line of what was refused follows.
pub fn handed_over(binary: &str, origin: &Origin, now: Timestamp) -> String {
    let mut members = who(origin, UPGRADE, now);
    members.insert("binary".to_owned(), json!(cut(binary)));
    members.insert("result".to_owned(), json!("handed over"));
    line(members)
}

/// A change that was refused.
#[derive(Debug)]
pub struct Refused {
    actor: String,
    line: String,
}

/// The longest text of a refused change that is kept, in bytes: it is whatever somebody sent.
const REFUSED_TEXT_BYTES: usize = 500;
/// What an upgrade's lines call it.
const UPGRADE: &str = "upgrade";
/// The most weights of it.
const REFUSED_WEIGHTS: usize = 16;

impl Refused {
    /// Of a route's live state.
    pub fn change(change: &WeightChange, why: &impl ToString, now: Timestamp) -> Refused {
        let weights = |weights: &[(String, Weight)]| -> Map<String, Value> {
            let some = weights.iter().take(REFUSED_WEIGHTS);
            some.map(|(name, weight)| (cut(name), history::percent(*weight))).collect()
        };
        let (action, asked) = match &change.edit {
            Edit::Patch(named) | Edit::Replace(named) => (history::SHIFT, json!({"weights": weights(named)})),
            Edit::Switch(switch) => (history::SWITCH, json!({"to": cut(&switch.to), "force": switch.force})),
            Edit::Undo { to } => (history::UNDO, json!({"to": to})),
        };
        let members = [("route", json!(cut(&change.route))), ("asked", asked)];
        Refused::new(&change.origin, action, members, why, now)
    }

    /// Of a rollout.
    pub fn rollout(route: &str, action: &str, origin: &Origin, why: &impl ToString, now: Timestamp) -> Refused {
        Refused::new(origin, action, [("rollout", json!(cut(route)))], why, now)
    }

    /// Of a configuration that should have been swapped in.
    pub fn reload(origin: &Origin, why: &impl ToString, now: Timestamp) -> Refused {
        Refused::new(origin, "reload", [], why, now)
    }

    /// Of a process that should have taken this one's place.
    pub fn upgrade(origin: &Origin, why: &impl ToString, now: Timestamp) -> Refused {
        Refused::new(origin, UPGRADE, [], why, now)
    }

    /// Of live weights that should have gone into the files.
    pub fn save(request: &SaveRequest, why: &impl ToString, now: Timestamp) -> Refused {
        let routes = request.routes.as_ref();
        let routes = routes.map(|routes| routes.iter().take(REFUSED_WEIGHTS).map(|name| cut(name)).collect::<Vec<_>>());
        Refused::new(&request.origin, "save", [("routes", json!(routes))], why, now)
    }

    /// Of a target that should have been taken out or back in.
    pub fn drain(order: &DrainOrder, why: &impl ToString, now: Timestamp) -> Refused {
        let about = [("pool", json!(cut(&order.pool))), ("target", json!(cut(&order.target)))];
        Refused::new(&order.origin, order.action(), about, why, now)
    }

    fn new<const N: usize>(
        origin: &Origin,
        action: &str,
        about: [(&str, Value); N],
        why: &impl ToString,
        now: Timestamp,
    ) -> Refused {
        let mut members = who(origin, action, now);
        members.extend(about.map(|(name, value)| (name.to_owned(), value)));
        members.insert("result".to_owned(), json!("refused"));
        members.insert("why".to_owned(), json!(cut(&why.to_string())));
        Refused { actor: origin.actor.clone(), line: line(members) }
    }
}

fn cut(text: &str) -> String {
    match text.floor_char_boundary(REFUSED_TEXT_BYTES) {
        whole if whole == text.len() => text.to_owned(),
        end => format!("{}…", &text[..end]),
    }
}

/// How many refusals each actor has had written of late. Actors are tokens' names and a few words, so that there are
/// not many.
#[derive(Debug, Default)]
pub struct Refusals {
    window: Option<Timestamp>,
    written: HashMap<String, u32>,
    left_out: u64,
}

impl Refusals {
    /// The lines to write. What was left out is said with the first line after the window.
    pub fn admit(&mut self, refused: Vec<Refused>, now: Timestamp) -> Vec<String> {
        let is_over = |since: Timestamp| !(since..since + REFUSAL_WINDOW).contains(&now);
        let mut lines = Vec::new();
        if self.window.is_none_or(is_over) {
            let before = std::mem::replace(self, Refusals { window: Some(now), ..Refusals::default() });
            if before.left_out > 0 {
                let origin = Origin { actor: "weir".to_owned(), source: String::new(), reason: None };
                let mut members = who(&origin, "refused", now);
                members.insert("left_out".to_owned(), json!(before.left_out));
                lines.push(line(members));
            }
        }
        for Refused { actor, line } in refused {
            let written = self.written.entry(actor).or_default();
            if *written < REFUSALS_PER_ACTOR {
                *written += 1;
                lines.push(line);
            } else {
                self.left_out += 1;
            }
        }
        lines
    }
}

fn revision(revision: &Revision, result: &str) -> Map<String, Value> {
    let mut members = who(&revision.origin, &revision.action, revision.time);
    members.insert("route".to_owned(), json!(revision.route));
    members.insert("generation".to_owned(), json!(revision.generation));
    members.insert("before".to_owned(), history::shares(&revision.before));
    members.insert("after".to_owned(), history::shares(&revision.after()));
    if let Some(to) = revision.to {
        members.insert("to".to_owned(), json!(to));
    }
    if !revision.overrode.is_empty() {
        members.insert("overrode".to_owned(), json!(revision.overrode));
    }
    members.insert("result".to_owned(), json!(result));
    members
}

fn who(origin: &Origin, action: &str, now: Timestamp) -> Map<String, Value> {
    let members = [
        ("time", json!(history::rfc3339(now))),
        ("actor", json!(origin.actor)),
        ("source", json!(origin.source)),
        ("action", json!(action)),
        ("reason", json!(origin.reason)),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// JSON may hold DEL and the control characters above it as they are; a terminal that shows the file must not.
fn line(members: Map<String, Value>) -> String {
    let text = Value::Object(members).to_string();
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            let _ = write!(line, "\\u{:04x}", u32::from(c));
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(actor: &str) -> Origin {
        Origin { actor: actor.to_owned(), source: "127.0.0.1:1".to_owned(), reason: Some("try".to_owned()) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn read(line: &str) -> Value {
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn a_refused_change_says_what_was_asked_and_why_not_and_is_short() {
        let long = "ä".repeat(10_000);
        let named: Vec<_> = (0..10_000).map(|n| (format!("{long}{n}"), Weight::ZERO)).collect();
        for (edit, action, asked) in [
            (Edit::Patch(vec![("canary".to_owned(), Weight::FULL)]), "shift", json!({"weights": {"canary": 100}})),
            (Edit::Undo { to: Some(3) }, "undo", json!({"to": 3})),
        ] {
            let (route, origin) = ("shop".to_owned(), origin("ci"));
            let change = WeightChange { route, edit, if_match: None, overrides: false, origin };
            let refused = read(&Refused::change(&change, &"no\u{85}", at(0)).line);
            let who = json!({"time": "2027-01-15T08:00:00.000Z", "actor": "ci", "source": "127.0.0.1:1", "action": action,
                "reason": "try", "route": "shop", "asked": asked, "result": "refused", "why": "no\u{85}"});
            assert_eq!(refused, who);
        }
        let change = WeightChange {
            route: long.clone(),
            edit: Edit::Replace(named),
            if_match: None,
            overrides: false,
            origin: origin("ci"),
        };
        let refused = Refused::change(&change, &long, at(0));
        assert!(refused.line.len() < 12_000 && read(&refused.line)["result"] == "refused", "{}", refused.line.len());
    }

    #[test]
    fn each_actor_has_so_many_refusals_written_in_a_time_and_the_rest_is_counted() {
        let refused = |actor: &str, count: u32| -> Vec<Refused> {
            (0..count).map(|_| Refused::reload(&origin(actor), &"bad", at(0))).collect()
        };
        let mut refusals = Refusals::default();
        let most = REFUSALS_PER_ACTOR as usize;
        assert_eq!(refusals.admit(refused("ci", REFUSALS_PER_ACTOR + 7), at(0)).len(), most);
        assert_eq!(refusals.admit(refused("ann", 2), at(1)).len(), 2, "another actor has its own");
        assert_eq!(refusals.admit(refused("ci", 1), at(59)), [""; 0]);
        let after = refusals.admit(refused("ci", 1), at(60));
        assert_eq!((after.len(), read(&after[0])["left_out"].as_u64()), (2, Some(8)));
        assert_eq!(refusals.admit(refused("ci", 1), at(120)).len(), 1, "nothing was left out since");
        // A clock that is set back begins anew.
        assert_eq!(refusals.admit(refused("ci", REFUSALS_PER_ACTOR + 1), at(0)).len(), most);
    }
}
