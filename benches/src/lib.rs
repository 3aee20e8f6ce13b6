//! What the benches share: the floor, and how two things are compared.
#![deny(unsafe_code)]

pub use hv_bench::floor;
pub mod host_http;
pub mod host_io;
pub mod neighbour;
pub mod pair;
pub mod suite;
