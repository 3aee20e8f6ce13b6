//! Builds the program of the platform `process`, which hv carries with it: the binary of `hv/stub`.

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../stub");
    println!("cargo::rerun-if-changed={}", package.display());
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name| std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let out = PathBuf::from(variable("OUT_DIR"));
    // At a fixed place that no guest is at, and with code and data apart; without frames for unwinding, which nobody does there.
    let mut flags = ["relocation-model=static", "force-unwind-tables=no"].map(str::to_owned).to_vec();
    for argument in
        ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,-e,hv_start", "-Wl,--build-id=none"]
    {
        flags.push(format!("link-arg={argument}"));
    }
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        flags.push(format!("linker={}", linker.to_string_lossy()));
    }
    let flags: Vec<_> = flags.iter().map(|flag| format!("-C{flag}")).collect();
    let status = Command::new(variable("CARGO"))
        .args(["build", "--quiet", "--locked", "--offline", "--bin", "hv-stub", "--features", "program"])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        // Optimised in every profile.
        .args(["--profile", "release", "--config", "profile.release.opt-level=2"])
        .args([
            "--config",
            "profile.release.strip=\"debuginfo\"",
            "--config",
            "profile.release.panic=\"abort\"",
        ])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&out)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        // The options of the build that this is a part of, such as sanitizers and lints, are not for this program.
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "hv/stub does not compile");
    println!("cargo::rustc-env=HV_STUB={}", out.join(TARGET).join("release/hv-stub").display());
}
