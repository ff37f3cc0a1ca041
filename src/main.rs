//! The `keyward` binary: reads the command line and hands over to the library.

use std::process::ExitCode;

/// A call takes less processor time with it than with the system's allocator, and less with its second
/// version than with its third: see `docs/performance.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keyward::cli::main()
}
