//! Builds the stub of the platform `process`: a program of its own, which hv carries with it.

use std::path::PathBuf;
use std::process::Command;

const STUB: &str = "src/platform/process/stub/main.rs";

fn main() {
    for path in ["src/platform/process/stub", "src/platform/process/shared.rs", "build.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let variable = |name| std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let out = PathBuf::from(variable("OUT_DIR")).join("stub");
    let mut command = Command::new(variable("RUSTC"));
    command.args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "stub"]);
    command.args(["--target", "x86_64-unknown-linux-gnu"]);
    // Optimised in every profile; without frames for unwinding, which nobody does there.
    for option in
        ["opt-level=2", "strip=debuginfo", "panic=abort", "relocation-model=static", "force-unwind-tables=no"]
    {
        command.args(["-C", option]);
    }
    // A program without a C library, at a fixed place that no guest is at, and with code and data apart.
    for argument in
        ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,-e,hv_start", "-Wl,--build-id=none"]
    {
        command.arg("-C").arg(format!("link-arg={argument}"));
    }
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        command.arg("-C").arg(format!("linker={}", linker.to_string_lossy()));
    }
    let status = command.arg("-o").arg(&out).arg(STUB).status().expect("rustc runs");
    assert!(status.success(), "{STUB} does not compile");
}
