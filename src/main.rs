//! The `keyward` binary: reads the command line and hands over to the library.

use std::process::ExitCode;

/// Rows of usage are made on one thread and dropped on another, which the system's allocator does
/// at length.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keyward::cli::main()
}
