//! How a pool chooses among its targets: `balance`, `hash_key`, and what targets weigh.

use super::Checker;
use crate::config::cursor::word;
use crate::config::raw;
use crate::routing::balance::{Balance, HashKey};

/// Of a target that says nothing of it.
const WEIGHT: u32 = 1;

impl Checker<'_> {
    pub(super) fn balance(&mut self, raw: &raw::Pool) -> Option<Balance> {
        let pool = &raw.name.value;
        let words = ["p2c", "round_robin", "least_conn", "hash"];
        let path = format!("pool.{pool}.balance");
        let written = match &raw.balance {
            None => Some(0),
            Some(written) => word(self.findings, written, &path, &words),
        };
        let listed = raw.hash_key.as_ref().map(|keys| keys.value.as_slice()).unwrap_or_default();
        let keys: Vec<_> = listed.iter().filter_map(|key| self.key(key, "bad-hash-key")).collect();
        if let Some(list) = &raw.hash_key {
            if written.is_some_and(|written| words[written] != "hash") {
                let message = format!("`pool.{pool}.hash_key` has no effect without balance = \"hash\"");
                self.findings.error("contradiction", list.place, message);
            }
            if list.value.is_empty() {
                let help = "leave it out for the client's address";
                self.findings.error("bad-hash-key", list.place, format!("`pool.{pool}.hash_key` is empty")).help(help);
            }
        }
        self.after_ip(listed, None, "bad-hash-key");
        if keys.len() != listed.len() {
            return None;
        }
        listed.iter().zip(&keys).for_each(|(written, key)| self.filled.held_as(written, &key.to_string()));
        Some(match written? {
            0 => Balance::P2c,
            1 => Balance::RoundRobin,
            2 => Balance::LeastConn,
            _ => Balance::Hash(HashKey(keys)),
        })
    }

    pub(super) fn target_weights(raw: &raw::Pool) -> Vec<u32> {
        let targets = raw.targets.as_ref().map(|targets| targets.value.as_slice()).unwrap_or_default();
        let weight = |target: &raw::Target| target.weight.as_ref().and_then(|weight| u32::try_from(weight.value).ok());
        targets.iter().map(|target| weight(target).unwrap_or(WEIGHT)).collect()
    }
}
