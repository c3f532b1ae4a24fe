//! A route's revisions: what each change of its live state made of it, who asked, from where, when and why.
//!
//! A revision carries the whole assignment of buckets, so that an undo brings back the very same buckets and not just
//! the same weights. It is kept as the text that stands in the log and taken apart when somebody asks: 10,000 routes'
//! histories cost their text and little more. Pure: files and clocks are the controller's.

use super::command::Origin;
use crate::limits::{HISTORY_AGE, HISTORY_BYTES, HISTORY_KEPT, HISTORY_PER_ROUTE, HISTORY_REVISIONS};
use crate::routing::split::{Assignment, Run, Weight};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// A route's first revision, or its present state where nothing was known of how it came to be.
pub const START: &str = "start";
/// The file's weights, or its set or order of variants, came into force.
pub const FILE: &str = "file";
/// Weights set through the API.
pub const SHIFT: &str = "shift";
/// Everything to one variant.
pub const SWITCH: &str = "switch";
/// An earlier revision's assignment came back.
pub const UNDO: &str = "undo";

/// A rollout's step.
pub const ROLLOUT: &str = "rollout";
/// A rollout gave everything to its winner.
pub const PROMOTE: &str = "promote";
/// A rollout took traffic back.
pub const ROLLBACK: &str = "rollback";

/// How often revisions that are too old are looked for.
const TRIM_INTERVAL: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    pub route: String,
    pub generation: u64,
    /// To the millisecond.
    pub time: Timestamp,
    /// One of the words above, or what a later Weir wrote.
    pub action: Cow<'static, str>,
    pub origin: Origin,
    /// Weights by variant's name; empty where nothing was before.
    pub before: Vec<(String, Weight)>,
    /// The variants' names after it, in the assignment's order.
    pub variants: Vec<String>,
    pub assignment: Assignment,
    /// Of an undo: the generation whose assignment came back.
    pub to: Option<u64>,
    /// Of a switch: what it was told to pass over.
    pub overrode: Vec<String>,
}

/// A revision as it stands in the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub generation: u64,
    time_ms: i64,
    record: Box<str>,
}

/// A route's revisions, oldest first, generations ascending. Cheap to clone; a change makes a new one.
#[derive(Clone, Debug)]
pub struct History(Arc<[Arc<Entry>]>);

/// How much of it there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub revisions: usize,
    /// Of the records.
    pub bytes: usize,
}

/// When all routes' histories are to be gone through for what is too much or too old.
#[derive(Clone, Copy, Debug)]
pub struct Trimming {
    above: Totals,
    from: Timestamp,
}

/// Weights in thousandths of a percent; a run is its end and its variant's place.
#[derive(Serialize, Deserialize)]
struct Record {
    route: String,
    generation: u64,
    time: String,
    action: Cow<'static, str>,
    actor: String,
    source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    before: Vec<(String, u32)>,
    variants: Vec<String>,
    runs: Vec<(u32, u8)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    overrode: Vec<String>,
}

/// RFC 3339, UTC, to the millisecond: `2026-11-21T06:11:21.042Z`.
pub fn rfc3339(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// `{"stable":95,"canary":5}`.
pub fn shares(shares: &[(String, Weight)]) -> Value {
    Value::Object(shares.iter().map(|(variant, weight)| (variant.clone(), percent(*weight))).collect())
}

/// `5`, not `5.0`.
pub fn percent(weight: Weight) -> Value {
    let thousandths = weight.thousandths();
    if thousandths.is_multiple_of(1000) { json!(thousandths / 1000) } else { json!(weight.percent()) }
}

impl Revision {
    /// Weights by variant's name, in the route's order of then.
    pub fn after(&self) -> Vec<(String, Weight)> {
        self.variants.iter().cloned().zip(self.assignment.weights()).collect()
    }

    /// Its assignment for the variants of now; None when their names are others by now.
    pub fn for_variants(&self, now: &[&str]) -> Option<Assignment> {
        if now.len() != self.variants.len() {
            return None;
        }
        let place = |name: &String| now.iter().position(|known| known == name).map(Some);
        let map: Vec<Option<usize>> = self.variants.iter().map(place).collect::<Option<_>>()?;
        self.assignment.remapped(&map, now.len()).ok()
    }
}

impl Entry {
    pub fn of(revision: &Revision) -> Entry {
        let record = Record {
            route: revision.route.clone(),
            generation: revision.generation,
            time: rfc3339(revision.time),
            action: revision.action.clone(),
            actor: revision.origin.actor.clone(),
            source: revision.origin.source.clone(),
            reason: revision.origin.reason.clone(),
            before: revision.before.iter().map(|(name, weight)| (name.clone(), weight.thousandths())).collect(),
            variants: revision.variants.clone(),
            runs: revision.assignment.runs().iter().map(|run| (run.end, run.variant)).collect(),
            to: revision.to,
            overrode: revision.overrode.clone(),
        };
        let text = serde_json::to_string(&record).expect("strings and numbers always serialise");
        Entry { generation: revision.generation, time_ms: revision.time.as_millisecond(), record: text.into() }
    }

    /// From a record's text; the error says what makes no sense.
    pub fn read(record: &str) -> Result<(Entry, Revision), String> {
        let revision = revision(record)?;
        let time_ms = revision.time.as_millisecond();
        Ok((Entry { generation: revision.generation, time_ms, record: record.into() }, revision))
    }

    pub fn record(&self) -> &str {
        &self.record
    }

    pub fn revision(&self) -> Revision {
        revision(&self.record).expect("it was written or read here before")
    }
}

fn revision(record: &str) -> Result<Revision, String> {
    let record: Record = serde_json::from_str(record).map_err(|error| error.to_string())?;
    let time: Timestamp = record.time.parse().map_err(|error| format!("its time: {error}"))?;
    let runs = record.runs.iter().map(|(end, variant)| Run { end: *end, variant: *variant }).collect();
    let assignment = Assignment::from_runs(record.variants.len(), runs).map_err(|error| error.to_string())?;
    let weight = |(name, thousandths): (String, u32)| Some((name, Weight::from_thousandths(thousandths).ok()?));
    let before: Option<Vec<_>> = record.before.into_iter().map(weight).collect();
    if record.generation == 0 {
        return Err("its generation is 0".to_owned());
    }
    Ok(Revision {
        route: record.route,
        generation: record.generation,
        time,
        action: record.action,
        origin: Origin { actor: record.actor, source: record.source, reason: record.reason },
        before: before.ok_or("a weight before it is above 100 percent")?,
        variants: record.variants,
        assignment,
        to: record.to,
        overrode: record.overrode,
    })
}

impl Default for History {
    fn default() -> History {
        History(Arc::new([]))
    }
}

impl History {
    /// In the order of the log: an entry takes the place of every one of its generation and later.
    pub fn replay(entries: impl IntoIterator<Item = Arc<Entry>>) -> History {
        let mut kept: Vec<Arc<Entry>> = Vec::new();
        for entry in entries {
            kept.truncate(kept.partition_point(|earlier| earlier.generation < entry.generation));
            kept.push(entry);
        }
        History(kept.into())
    }

    /// With one more, and the oldest gone if those are too many now.
    pub fn with(&self, entry: Arc<Entry>) -> History {
        History::replay(self.0.iter().cloned().chain([entry])).bounded()
    }

    /// The newest, as many as a route keeps.
    pub fn bounded(self) -> History {
        match self.0.len().checked_sub(HISTORY_PER_ROUTE) {
            Some(surplus @ 1..) => History(self.0[surplus..].into()),
            _ => self,
        }
    }

    /// Newest last.
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.0
    }

    pub fn newest(&self) -> Option<&Arc<Entry>> {
        self.0.last()
    }

    pub fn at(&self, generation: u64) -> Option<&Arc<Entry>> {
        let place = self.0.binary_search_by_key(&generation, |entry| entry.generation).ok()?;
        self.0.get(place)
    }

    /// The newest of those below `generation`.
    pub fn before(&self, generation: u64) -> Option<&Arc<Entry>> {
        let place = self.0.partition_point(|entry| entry.generation < generation);
        self.0.get(place.checked_sub(1)?)
    }

    /// Parted at a generation: up to and with it, and those beyond.
    pub fn parted_after(&self, generation: u64) -> (History, &[Arc<Entry>]) {
        let (known, beyond) = self.0.split_at(self.0.partition_point(|entry| entry.generation <= generation));
        (History(known.into()), beyond)
    }

    pub fn totals(&self) -> Totals {
        self.0.iter().fold(Totals::default(), |totals, entry| totals.plus(Totals::of(entry)))
    }

    /// Without what is older than `oldest_ms`, but for the newest that always stay; None when nothing goes.
    pub fn since(&self, oldest_ms: i64) -> Option<History> {
        let stays =
            |(place, entry): &(usize, &Arc<Entry>)| entry.time_ms >= oldest_ms || place + HISTORY_KEPT >= self.0.len();
        let kept: Vec<_> = self.0.iter().enumerate().filter(stays).map(|(_, entry)| Arc::clone(entry)).collect();
        (kept.len() < self.0.len()).then(|| History(kept.into()))
    }
}

impl Totals {
    fn of(entry: &Entry) -> Totals {
        Totals { revisions: 1, bytes: entry.record.len() }
    }

    pub fn plus(self, other: Totals) -> Totals {
        Totals { revisions: self.revisions + other.revisions, bytes: self.bytes + other.bytes }
    }

    pub fn minus(self, other: Totals) -> Totals {
        Totals {
            revisions: self.revisions.saturating_sub(other.revisions),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn exceeds(self, bound: Totals) -> bool {
        self.revisions > bound.revisions || self.bytes > bound.bytes
    }
}

const MOST: Totals = Totals { revisions: HISTORY_REVISIONS, bytes: HISTORY_BYTES };

impl Trimming {
    pub fn is_due(&self, totals: Totals, now: Timestamp) -> bool {
        totals.exceeds(self.above) || now >= self.from
    }

    /// What a trimming left: the next is due when there is too much again, or some time later. Newest revisions of
    /// very many routes may be too much by themselves; then going through them again must wait for more to come.
    pub fn done(left: Totals, now: Timestamp) -> Trimming {
        let most = |left: usize, most: usize| most.max(left + most / 8);
        let above = Totals { revisions: most(left.revisions, MOST.revisions), bytes: most(left.bytes, MOST.bytes) };
        Trimming { above, from: now.saturating_add(TRIM_INTERVAL).unwrap_or(now) }
    }
}

/// The oldest time in milliseconds that may stay, by age and by what all routes have together. Where that is too much
/// an eighth of it goes, so that trimming is rare.
pub fn oldest_to_stay<'h>(histories: impl Iterator<Item = &'h History>, now: Timestamp) -> i64 {
    let by_age = now.as_millisecond().saturating_sub(i64::try_from(HISTORY_AGE.as_millis()).unwrap_or(i64::MAX));
    let mut totals = Totals::default();
    let mut may_go = Vec::new();
    for history in histories {
        totals = totals.plus(history.totals());
        let surplus = history.0.len().saturating_sub(HISTORY_KEPT);
        may_go.extend(history.0[..surplus].iter().map(|entry| (entry.time_ms, Totals::of(entry))));
    }
    if !totals.exceeds(MOST) {
        return by_age;
    }
    let goal = Totals { revisions: MOST.revisions / 8 * 7, bytes: MOST.bytes / 8 * 7 };
    may_go.sort_unstable_by_key(|(time_ms, _)| *time_ms);
    let mut oldest = by_age;
    for (time_ms, entry) in may_go {
        if !totals.exceeds(goal) {
            break;
        }
        totals = totals.minus(entry);
        oldest = oldest.max(time_ms.saturating_add(1));
    }
    oldest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(thousandths: &[u32]) -> Vec<Weight> {
        thousandths.iter().map(|weight| Weight::from_thousandths(*weight).unwrap()).collect()
    }

    fn sample(generation: u64, time_ms: i64) -> Revision {
        Revision {
            route: "shop".to_owned(),
            generation,
            time: Timestamp::from_millisecond(time_ms).unwrap(),
            action: SHIFT.into(),
            origin: Origin {
                actor: "ci".to_owned(),
                source: "127.0.0.1:5000".to_owned(),
                reason: Some("a \"try\"\n\u{1}é".to_owned()),
            },
            before: vec![("stable".to_owned(), Weight::FULL), ("canary".to_owned(), Weight::ZERO)],
            variants: vec!["stable".to_owned(), "canary".to_owned()],
            assignment: Assignment::starting(&weights(&[95_000, 5_000])).unwrap(),
            to: None,
            overrode: Vec::new(),
        }
    }

    fn entry(generation: u64, time_ms: i64) -> Arc<Entry> {
        Arc::new(Entry::of(&sample(generation, time_ms)))
    }

    fn generations(history: &History) -> Vec<u64> {
        history.entries().iter().map(|entry| entry.generation).collect()
    }

    #[test]
    fn a_revision_is_read_back_as_it_was() {
        let plain = sample(3, 1_800_000_000_042);
        let mut full = plain.clone();
        full.action = "promote".into();
        full.origin.reason = None;
        full.to = Some(1);
        full.overrode = vec!["target a:1: refused".to_owned()];
        for revision in [plain, full] {
            let entry = Entry::of(&revision);
            assert!(!entry.record().contains('\n'), "one line: {}", entry.record());
            let (again, read) = Entry::read(entry.record()).unwrap();
            assert_eq!((&again, &read), (&entry, &revision));
            assert_eq!(entry.revision(), revision);
        }
        assert_eq!(rfc3339(sample(1, 1_800_000_000_042).time), "2027-01-15T08:00:00.042Z");
        assert_eq!(sample(1, 0).after()[1], ("canary".to_owned(), weights(&[5_000])[0]));
    }

    #[test]
    fn what_makes_no_sense_is_not_read() {
        let good = Entry::of(&sample(3, 0)).record().to_owned();
        for (from, to) in [
            ("\"generation\":3", "\"generation\":0"),
            ("\"generation\":3", "\"generation\":-3"),
            ("100000,0", "99999,0"),
            ("[5000,1]", "[5000,2]"),
            ("[\"stable\",100000]", "[\"stable\",100001]"),
            ("1970-01-01T00:00:00.000Z", "yesterday"),
            ("\"actor\":\"ci\",", ""),
            ("}", ""),
        ] {
            assert!(good.contains(from), "{from} in {good}");
            assert!(Entry::read(&good.replacen(from, to, 1)).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn an_assignment_comes_back_by_name_or_not_at_all() {
        let revision = sample(1, 0);
        assert_eq!(revision.for_variants(&["stable", "canary"]), Some(revision.assignment.clone()));
        let turned = revision.for_variants(&["canary", "stable"]).unwrap();
        assert_eq!(turned.weights(), weights(&[5_000, 95_000]));
        assert_eq!(turned.remapped(&[Some(1), Some(0)], 2).unwrap(), revision.assignment);
        for other in [&["stable"][..], &["stable", "green"], &["stable", "canary", "third"]] {
            assert_eq!(revision.for_variants(other), None);
        }
    }

    #[test]
    fn a_later_record_takes_the_place_of_its_generation_and_beyond() {
        let history = History::replay([1, 2, 3, 4].map(|generation| entry(generation, 0)));
        assert_eq!(generations(&history), [1, 2, 3, 4]);
        let again = history.with(entry(3, 9));
        assert_eq!(generations(&again), [1, 2, 3]);
        assert_eq!(again.newest().unwrap().time_ms, 9);
        assert_eq!(generations(&history.with(entry(1, 0))), [1]);
        assert_eq!(history.before(3).unwrap().generation, 2);
        assert!(history.before(1).is_none() && history.at(5).is_none() && History::default().newest().is_none());
        assert_eq!(history.at(2).unwrap().generation, 2);
        let (known, beyond) = history.parted_after(2);
        assert_eq!((generations(&known), beyond.len()), (vec![1, 2], 2));
    }

    #[test]
    fn a_route_keeps_its_newest() {
        let most = HISTORY_PER_ROUTE as u64;
        let history = History::replay((1..=most + 5).map(|generation| entry(generation, 0))).bounded();
        assert_eq!(generations(&history), (6..=most + 5).collect::<Vec<_>>());
        let history = history.with(entry(most + 6, 0));
        assert_eq!((history.entries().len(), history.entries()[0].generation), (HISTORY_PER_ROUTE, 7));
    }

    #[test]
    fn age_takes_all_but_the_newest() {
        let now = Timestamp::from_millisecond(2_000_000_000_000).unwrap();
        let age = HISTORY_AGE.as_millis() as i64;
        let at = |ago: i64| now.as_millisecond() - ago;
        let history =
            History::replay([entry(1, at(age + 2)), entry(2, at(age + 1)), entry(3, at(age)), entry(4, at(0))]);
        let oldest = oldest_to_stay([&history].into_iter(), now);
        assert_eq!(generations(&history.since(oldest).unwrap()), [3, 4]);
        let idle = History::replay([1, 2, 3].map(|generation| entry(generation, at(2 * age))));
        assert_eq!(generations(&idle.since(oldest).unwrap()), [2, 3]);
        assert!(history.since(at(age + 2)).is_none());
    }

    #[test]
    fn too_much_in_total_takes_the_oldest_and_leaves_each_route_its_newest() {
        let now = Timestamp::from_millisecond(1_000_000_000).unwrap();
        let routes = HISTORY_REVISIONS / HISTORY_PER_ROUTE + 1;
        let of_route = |route: usize| {
            let time = |generation: u64| (route * HISTORY_PER_ROUTE) as i64 + generation as i64;
            History::replay((1..=HISTORY_PER_ROUTE as u64).map(|generation| entry(generation, time(generation))))
        };
        let histories: Vec<History> = (0..routes).map(of_route).collect();
        let count = |histories: &[History]| histories.iter().fold(Totals::default(), |sum, one| sum.plus(one.totals()));
        let before = count(&histories);
        assert!(Trimming::done(Totals::default(), now).is_due(before, now));
        let oldest = oldest_to_stay(histories.iter(), now);
        let trimmed: Vec<History> =
            histories.iter().map(|history| history.since(oldest).unwrap_or_else(|| history.clone())).collect();
        let after = count(&trimmed);
        assert!(after.revisions <= HISTORY_REVISIONS / 8 * 7 && after.revisions > HISTORY_REVISIONS / 8 * 6);
        assert!(after.bytes <= HISTORY_BYTES);
        assert_eq!(trimmed[0].entries().len(), HISTORY_KEPT);
        assert_eq!(trimmed[routes - 1].entries().len(), HISTORY_PER_ROUTE);
        let next = Trimming::done(after, now);
        assert!(!next.is_due(after, now));
        assert!(next.is_due(before, now) && next.is_due(after, now + TRIM_INTERVAL));
    }

    #[test]
    fn newest_revisions_that_are_too_much_by_themselves_are_not_gone_through_every_time() {
        let now = Timestamp::UNIX_EPOCH;
        let left = Totals { revisions: 2 * HISTORY_REVISIONS, bytes: HISTORY_BYTES };
        let next = Trimming::done(left, now);
        assert!(!next.is_due(Totals { revisions: left.revisions + 1, ..left }, now));
        assert!(next.is_due(Totals { revisions: left.revisions + HISTORY_REVISIONS, ..left }, now));
    }
}
