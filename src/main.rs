//! The `weir` command.

/// Requests bring and take pieces of one to eight kilobytes, which the C library's allocator merges and cuts anew each
/// time; this one keeps lists of each size, a thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    weir::cli::main()
}
