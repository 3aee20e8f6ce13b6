//! The tests of the other programs again, with guests in processes ([`hv_tests::platform`]), and
//! what only makes sense there.

#[path = "process/across.rs"]
mod across;
#[path = "process/apart.rs"]
mod apart;
#[path = "process/calls.rs"]
mod calls;
#[path = "crates.rs"]
mod crates;
#[path = "disk.rs"]
mod disk;
#[path = "embed.rs"]
mod embed;
#[path = "function.rs"]
mod function;
#[path = "process/guests.rs"]
mod guests;
#[path = "hostile.rs"]
mod hostile;
#[path = "kv.rs"]
mod kv;
#[path = "limits.rs"]
mod limits;
#[path = "manners.rs"]
mod manners;
#[path = "net.rs"]
mod net;
#[path = "run.rs"]
mod run;
#[path = "sched.rs"]
mod sched;
#[path = "serve.rs"]
mod serve;
#[path = "serve_config.rs"]
mod serve_config;
#[path = "serve_examples.rs"]
mod serve_examples;
#[path = "serve_faults.rs"]
mod serve_faults;
#[path = "serve_operations.rs"]
mod serve_operations;
#[path = "snapshot.rs"]
mod snapshot;
#[path = "snapshot_trust.rs"]
mod snapshot_trust;
#[path = "streams.rs"]
mod streams;
#[path = "process/stub.rs"]
mod stub;
#[path = "upcall.rs"]
mod upcall;
#[path = "web.rs"]
mod web;
