//! The `keyward` binary: reads the command line and hands over to the library.

use std::process::ExitCode;

/// A call takes less processor time with it than with the system's allocator, and large pages less memory with
/// its third version than with its second: see `docs/performance.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keyward::cli::main()
}
