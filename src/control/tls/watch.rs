//! Looks at the files every second, puts in force what changed, and says in the log what became of it: each change
//! once, a certificate that is about to expire once a day.

use super::Tls;
use super::files::Trouble;
use crate::config;
use crate::control::command::Command;
use crate::control::ground::Ground;
use crate::limits::CERTIFICATE_INTERVAL;
use crate::tls::certificate::Staple;
use crate::tls::time::{self, DAY_SECONDS};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::mpsc;

/// Until there is no controller any more.
pub async fn keep_watching(ground: Arc<ArcSwap<Ground>>, commands: mpsc::WeakSender<Command>) {
    let mut watch = Watch::new(Arc::clone(&ground.load().tls));
    loop {
        watch.warn_of_expiry(time::unix(SystemTime::now()));
        tokio::time::sleep(CERTIFICATE_INTERVAL).await;
        if commands.strong_count() == 0 {
            return;
        }
        let current = Arc::clone(&ground.load());
        watch.follow(&current.tls);
        if current.tls.is_empty() {
            continue;
        }
        let Some(next) = watch.look().await else { continue };
        let Some(commands) = commands.upgrade() else { return };
        let command = Command::Certified { tls: Arc::new(next), instead_of: Arc::clone(&current.tls) };
        if commands.send(command).await.is_err() {
            return;
        }
    }
}

struct Watch {
    /// In force.
    published: Arc<Tls>,
    /// With what was learnt since that changes nothing.
    current: Tls,
    /// Why the last look came to nothing.
    failure: Option<String>,
    /// When each certificate was last warned of, in seconds since 1970.
    warned: BTreeMap<PathBuf, i64>,
}

impl Watch {
    fn new(published: Arc<Tls>) -> Watch {
        let current = Tls::clone(&published);
        Watch { published, current, failure: None, warned: BTreeMap::new() }
    }

    /// A reload may have put another in force.
    fn follow(&mut self, published: &Arc<Tls>) {
        if !Arc::ptr_eq(&self.published, published) {
            said_of_change(&self.published, published);
            self.published = Arc::clone(published);
            self.current = Tls::clone(published);
        }
    }

    /// What is to be put in force; None when nothing is.
    async fn look(&mut self) -> Option<Tls> {
        let (current, now) = (self.current.clone(), time::unix(SystemTime::now()));
        let looked = tokio::task::spawn_blocking(move || current.looked_at(now)).await;
        match looked.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(next) => {
                self.failure = None;
                self.current = next;
                differs(&self.published, &self.current).then(|| self.current.clone())
            }
            // Files that read well but give no whole: as it was.
            Err(why) => {
                if self.failure.as_ref() != Some(&why) {
                    tracing::error!("TLS stays as it was: {why}");
                }
                self.failure = Some(why);
                None
            }
        }
    }

    fn warn_of_expiry(&mut self, now: i64) {
        for (files, kept) in &self.published.certificates {
            let Some(what) = config::expiry(&kept.value.leaf, now) else { continue };
            let due = self.warned.get(&files.cert).is_none_or(|last| last + DAY_SECONDS <= now);
            if due {
                tracing::warn!(name = kept.value.leaf.name(), "certificate {} {what}", files.cert.display());
                self.warned.insert(files.cert.clone(), now);
            }
        }
    }
}

/// Something that is served, or known to be wrong, is another.
fn differs(before: &Tls, after: &Tls) -> bool {
    let lasting = |tls: &Tls| -> Vec<(String, Trouble)> {
        let troubles = tls.troubles().filter(|(_, trouble)| trouble.lasting);
        troubles.map(|(name, trouble)| (name, trouble.clone())).collect()
    };
    let servers = |tls: &Tls| tls.servers.values().map(Arc::as_ptr).collect::<Vec<_>>();
    let clients = |tls: &Tls| tls.clients.values().map(Arc::as_ptr).collect::<Vec<_>>();
    servers(before) != servers(after) || clients(before) != clients(after) || lasting(before) != lasting(after)
}

/// What is in force now and was not, for the log.
fn said_of_change(before: &Tls, after: &Tls) {
    for (files, kept) in &after.certificates {
        let old = before.certificates.get(files);
        let cert = files.cert.display().to_string();
        let leaf = &kept.value.leaf;
        if old.is_some_and(|old| !Arc::ptr_eq(&old.value, &kept.value)) {
            let until = time::date(leaf.not_after);
            tracing::info!(cert, name = leaf.name(), until, "a new certificate is served");
        }
        if let Staple::Refused(why) = &kept.value.staple
            && old.is_none_or(|old| old.value.staple != kept.value.staple)
        {
            tracing::warn!(cert, "the OCSP response is not served: {why}");
        }
        said_of_trouble(&cert, old.and_then(|old| old.trouble.as_ref()), kept.trouble.as_ref());
    }
    for (file, kept) in &after.authorities {
        let old = before.authorities.get(file);
        let file = super::shown(file.as_deref());
        if old.is_some_and(|old| !Arc::ptr_eq(&old.value, &kept.value)) {
            tracing::info!(file, "new authorities are in force");
        }
        said_of_trouble(&file, old.and_then(|old| old.trouble.as_ref()), kept.trouble.as_ref());
    }
}

fn said_of_trouble(file: &str, before: Option<&Trouble>, after: Option<&Trouble>) {
    let lasting =
        |trouble: Option<&Trouble>| trouble.filter(|trouble| trouble.lasting).map(|trouble| trouble.why.clone());
    match (lasting(before), lasting(after)) {
        (old, Some(why)) if old.as_ref() != Some(&why) => {
            tracing::error!(file, "what was read before stays in use: {why}");
        }
        (Some(_), None) => tracing::info!(file, "the files are in order again"),
        _ => {}
    }
}
