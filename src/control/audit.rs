//! The audit log's lines: who changed what, when, from where and why, each a JSON object of its own.

use super::command::{Installed, Origin};
use super::history::{self, Entry, Revision};
use super::save::Saving;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
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
