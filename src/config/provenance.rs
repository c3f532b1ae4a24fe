//! Where a configuration came from: the files as they were read, where in them each route's weights stand, and which
//! values variables and files filled in.
//!
//! Places are kept instead of the texts: a file that still has the hash has the same places. So nothing that a file
//! holds beside its values stays in memory, and a file that somebody edited meanwhile is recognised.

use super::include;
use super::raw;
use super::source::{At, FILE_BYTES, Place, Sources, read_bytes};
use crate::routing::redact::Redact;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The most that `${…}` may stand for in one configuration, in bytes: a file of 1 MiB can be named many times.
pub const FILLED_BYTES: usize = 16 * 1024 * 1024;

/// `routes` has one entry per route of the configuration, in its order.
#[derive(Clone, Debug, Default)]
pub struct Provenance {
    /// The main file first.
    pub files: Vec<ReadFile>,
    pub routes: Vec<RoutePlace>,
    include: Vec<String>,
    filled: HashMap<String, String>,
}

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadFile {
    /// Absolute.
    pub path: PathBuf,
    pub sha256: [u8; 32],
}

/// Where a route is defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePlace {
    /// Index into [`Provenance::files`].
    pub file: usize,
    /// From 1; of the weights, or of the route where it has none.
    pub line: usize,
    pub shares: Shares,
}

/// How a route says its starting weights. Places are bytes of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shares {
    /// Not at all: it has one variant, or none.
    None,
    /// The number of each variant, in the route's order.
    Weights(Vec<Range<usize>>),
    /// `filled`: a variable says which.
    Active { key: Range<usize>, value: Range<usize>, filled: bool },
}

/// What became of a file since it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedFile {
    pub path: PathBuf,
    pub how: FileChange,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileChange {
    Edited,
    /// It can't be read; why.
    Unreadable(String),
    /// A pattern of `include` names it, and it was not read.
    New,
}

impl Provenance {
    /// Without what was filled in.
    pub fn of(file: &raw::File, sources: &Sources) -> Provenance {
        let read = |source: &super::source::Source| ReadFile {
            path: source.path.clone(),
            sha256: sha256(source.text.as_bytes()),
        };
        Provenance {
            files: sources.files().iter().map(read).collect(),
            routes: file.routes.iter().map(|route| RoutePlace::of(route, sources)).collect(),
            include: file.include.iter().map(|pattern| pattern.value.clone()).collect(),
            filled: HashMap::new(),
        }
    }

    pub fn with(self, filled: Filled) -> Provenance {
        Provenance { filled: filled.values, ..self }
    }

    /// The file that defines a route, and the line.
    pub fn route(&self, index: usize) -> Option<(&Path, usize)> {
        let route = self.routes.get(index)?;
        Some((&self.files.get(route.file)?.path, route.line))
    }

    /// The files on disk that are not what was read. Reads them all.
    pub fn changed_on_disk(&self) -> Vec<ChangedFile> {
        let mut changed = Vec::new();
        for file in &self.files {
            let how = match read_bytes(&file.path, FILE_BYTES as u64) {
                Ok(bytes) if sha256(&bytes) == file.sha256 => continue,
                Ok(_) => FileChange::Edited,
                Err(why) => FileChange::Unreadable(why),
            };
            changed.push(ChangedFile { path: file.path.clone(), how });
        }
        let folder = self.files.first().and_then(|main| main.path.parent()).unwrap_or(Path::new("/"));
        // A folder that can't be listed has no new file that could be read.
        let named = self.include.iter().flat_map(|pattern| include::matching(folder, pattern, "").unwrap_or_default());
        for path in named.filter_map(|path| std::path::absolute(path).ok()) {
            let known = self.files.iter().any(|file| file.path == path);
            if !known && !changed.iter().any(|other| other.path == path) {
                changed.push(ChangedFile { path, how: FileChange::New });
            }
        }
        changed
    }
}

impl Redact for Provenance {
    /// With its `${…}` as they are written, and not what they stand for. A value that another one was filled in with
    /// is shown like that one: which of the two is meant is not known here.
    fn shown<'v>(&'v self, value: &'v str) -> &'v str {
        self.filled.get(value).map_or(value, String::as_str)
    }
}

impl RoutePlace {
    fn of(route: &raw::Route, sources: &Sources) -> RoutePlace {
        let shares = Shares::of(route);
        let first = match &shares {
            Shares::None => route.place.start,
            Shares::Weights(places) => places.iter().map(|place| place.start).min().unwrap_or(route.place.start),
            Shares::Active { value, .. } => value.start,
        };
        let file = route.place.file;
        RoutePlace { file, line: sources.file(file).position(first).line, shares }
    }
}

impl Shares {
    fn of(route: &raw::Route) -> Shares {
        let range = |place: Place| place.start..place.end;
        if let (Some(active), Some(key)) = (&route.active, route.active_key) {
            return Shares::Active { key: range(key), value: range(active.place), filled: active.is_filled() };
        }
        let (Some(variants), Some(weights)) = (&route.variants, &route.weights) else { return Shares::None };
        let place_of = |name: &At<String>| {
            let share = weights.shares.iter().find(|(variant, _)| variant.value == name.value)?.1.as_ref()?;
            Some(range(share.place))
        };
        match variants.iter().map(|(name, _)| place_of(name)).collect() {
            Some(places) => Shares::Weights(places),
            // The weights have errors, so that there is no configuration.
            None => Shares::None,
        }
    }
}

/// The values that variables and files filled in, while files are read.
#[derive(Debug, Default)]
pub struct Filled {
    /// By what they became, as they are written.
    values: HashMap<String, String>,
    bytes: usize,
}

impl Filled {
    /// False: there are too many by now.
    pub fn note(&mut self, value: &str, written: &str) -> bool {
        self.bytes += value.len();
        if self.bytes > FILLED_BYTES {
            return false;
        }
        self.values.insert(value.to_owned(), written.to_owned());
        true
    }

    /// The form in which a value is held that was made of the text `at`, if that has a filled in part.
    pub fn held_as<T>(&mut self, at: &At<T>, form: &str) {
        if let Some(written) = at.filled_as().filter(|_| !form.is_empty()) {
            self.values.insert(form.to_owned(), written.to_owned());
        }
    }
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
