//! The parts of guests that are plain code, tested on the host: the guests'
//! own modules, compiled here a second time with their unit tests.

extern crate alloc;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "a module of a library, of which only the tests are of interest here"
)]
#[path = "../../guest-examples/src/compute.rs"]
mod compute;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "a module of a library, of which only the tests are of interest here"
)]
#[path = "../../guest-examples/src/kv/mod.rs"]
mod kv;
