//! The `hv` command.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    hv_cli::main()
}
