//! `in_file`: the lists that rules name, each read once however many name it.

use super::Checker;
use crate::config::list::ListFile;
use crate::config::source::At;
use crate::routing::rule::FileList;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Default)]
pub struct Lists {
    files: Vec<ListFile>,
    /// Index into `files`, or why there is none.
    known: HashMap<PathBuf, Result<usize, String>>,
}

impl Lists {
    pub fn into_files(self) -> Vec<ListFile> {
        self.files
    }

    fn read(&mut self, path: PathBuf) -> Result<usize, String> {
        if let Some(known) = self.known.get(&path) {
            return known.clone();
        }
        let read = ListFile::read(&path).map(|file| {
            self.files.push(file);
            self.files.len() - 1
        });
        self.known.insert(path, read.clone());
        read
    }
}

impl Checker<'_> {
    /// The list that a file holds, its path relative to the file that names it.
    pub fn list(&mut self, written: &At<String>) -> Option<FileList> {
        if written.value.is_empty() {
            self.findings.error("bad-condition", written.place, "`in_file` names no file");
            return None;
        }
        let path = self.sources.resolve(written.place.file, &written.value);
        match self.lists.read(path.clone()) {
            Ok(list) => {
                // The log names the path.
                self.filled.held_as(written, &path.display().to_string());
                let values = Arc::clone(&self.lists.files[list].values);
                Some(FileList { name: written.written().into(), list, values })
            }
            Err(error) => {
                let shown = if written.is_filled() { written.shown() } else { path.display().to_string() };
                let message = format!("list {shown}: {error}");
                let finding = self.findings.error("unreadable-file", written.place, message);
                finding.help("the file has one value a line; its path is relative to this configuration file");
                None
            }
        }
    }
}
