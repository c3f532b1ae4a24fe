//! The `weir` command.

/// Requests bring and take pieces of one to eight kilobytes, which the C library's allocator merges and cuts anew each
/// time; this one keeps lists of each size, a thread. Without huge pages: one of two megabytes for each kind of piece is
/// memory that nobody uses.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    weir::cli::main()
}
