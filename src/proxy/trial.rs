//! Faults that a debug build makes on demand, so that tests can see what they come to. Not part of a release build.

/// Names a file that says `panic N` or `hang N`; worker N does so.
const FAULT: &str = "WEIR_TRIAL_FAULT";

pub(super) fn fail_if_asked(worker: usize) {
    let Ok(file) = std::env::var(FAULT) else { return };
    let asked = std::fs::read_to_string(file).unwrap_or_default();
    let Some((fault, number)) = asked.trim().split_once(' ') else { return };
    if number.parse() == Ok(worker) {
        assert_ne!(fault, "panic", "a panic that was asked for");
        if fault == "hang" {
            loop {
                std::thread::park();
            }
        }
    }
}
