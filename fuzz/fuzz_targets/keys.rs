//! Cookies, query parameters, forwarded addresses and targets: see `checks::keys` for what must hold.

#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "one check a target")]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::keys(input));
