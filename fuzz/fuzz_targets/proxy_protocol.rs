//! The PROXY protocol's headers: see `checks::proxy_protocol` for what must hold.

#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "one check a target")]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::proxy_protocol(input));
