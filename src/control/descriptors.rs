//! Whether this process may open as many files as its limits allow connections.

use crate::config::Config;
use crate::net::descriptors::{limit, reserved};

/// Says in the log what to do when the configuration allows more connections than there are file descriptors for.
pub fn check(config: &Config, workers: usize) {
    if let Some(text) = shortage(config, workers, limit()) {
        tracing::warn!("{text}");
    }
}

fn shortage(config: &Config, workers: usize, limit: usize) -> Option<String> {
    let clients = config.limits.max_connections;
    // Each worker's share is rounded up.
    let targets = config.pools.iter().map(|pool| pool.max_connections.saturating_add(workers - 1)).sum::<usize>();
    let wanted = clients.saturating_add(targets);
    // Of a limit that is enough, not of this one.
    let needed = wanted.saturating_add(reserved(wanted.saturating_mul(2), workers, config.listeners.len()));
    (needed > limit).then(|| {
        format!(
            "this process may open {limit} files, and limits.max_connections ({clients}) with the pools' \
             max_connections ({targets} in all) may need {needed}: raise the limit (LimitNOFILE={needed} in the unit, \
             `ulimit -Hn`, --ulimit nofile={needed} in containers), or lower them; until then fewer clients are \
             accepted, and further ones wait"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures;

    #[test]
    fn what_is_short_and_what_to_do_is_said() {
        let config = fixtures::shop();
        assert_eq!(shortage(&config, 2, 65_536), None);
        let text = shortage(&config, 2, 1024).unwrap();
        assert!(text.contains("may open 1024 files") && text.contains("LimitNOFILE=11585"), "{text}");
        assert_eq!(shortage(&config, 2, 11_585), None, "what is asked for is enough");
    }
}
