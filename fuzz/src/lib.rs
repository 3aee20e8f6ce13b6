//! Fuzz targets of hv: one module for each kind of untrusted input that hv reads.
//!
//! A target is a function of bytes. It builds the part of hv that it is about, feeds it what the
//! bytes say, and asserts what has to hold whatever they say. libFuzzer calls it from a program in
//! `fuzz_targets`; `cargo test` calls it with the files of the corpus and with the target's seeds.
//!
//! docs/security.md says how to run them, and how to add one.

pub mod block;
mod cell;
pub mod config;
pub mod console;
pub mod disk;
pub mod emulated;
pub mod function;
pub mod hypercall;
pub mod image;
mod input;
pub mod net;
pub mod proxy_header;
mod rig;
pub mod services;
pub mod share;
pub mod snapshot;
pub mod snapshot_record;
pub mod symbols;
pub mod usernet;
pub mod zygote;

pub use input::{Input, Seed};

/// A target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its program and its folder in the corpus.
    pub name: &'static str,
    /// Runs it once.
    pub run: fn(&[u8]),
    /// Inputs to begin with, made of valid things.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 17] = [
    Target { name: "block", run: block::run, seeds: block::seeds },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "console", run: console::run, seeds: console::seeds },
    Target { name: "disk", run: disk::run, seeds: disk::seeds },
    Target { name: "emulated", run: emulated::run, seeds: emulated::seeds },
    Target { name: "function", run: function::run, seeds: function::seeds },
    Target { name: "hypercall", run: hypercall::run, seeds: hypercall::seeds },
    Target { name: "image", run: image::run, seeds: image::seeds },
    Target { name: "net", run: net::run, seeds: net::seeds },
    Target { name: "proxy-header", run: proxy_header::run, seeds: proxy_header::seeds },
    Target { name: "services", run: services::run, seeds: services::seeds },
    Target { name: "share", run: share::run, seeds: share::seeds },
    Target { name: "snapshot", run: snapshot::run, seeds: snapshot::seeds },
    Target { name: "snapshot-record", run: snapshot_record::run, seeds: snapshot_record::seeds },
    Target { name: "symbols", run: symbols::run, seeds: symbols::seeds },
    Target { name: "usernet", run: usernet::run, seeds: usernet::seeds },
    Target { name: "zygote", run: zygote::run, seeds: zygote::seeds },
];
