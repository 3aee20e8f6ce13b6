//! The `hv` command: a thin shell around [`hv::cli`].

fn main() -> std::process::ExitCode {
    hv::cli::main()
}
