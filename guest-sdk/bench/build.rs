//! Links the guests as static position-independent programs without a C runtime.

fn main() {
    for argument in ["-nostartfiles", "-nostdlib", "-static-pie"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
