//! The `hv` command: a thin shell around [`hv::cli`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    hv::cli::main()
}
