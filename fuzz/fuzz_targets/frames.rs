//! A client's HTTP/2 frames as raw bytes: see `checks::frames` for what must hold.

#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "one check a target")]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::frames(input));
