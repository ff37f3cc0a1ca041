//! The `keyward` binary: reads the command line and hands over to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyward::cli::main()
}
