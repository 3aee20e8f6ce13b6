//! What hv asks of its host, and how it speaks to people: clocks, priorities of threads, limits, sizes.
//!
//! Nothing here knows of guests.
#![deny(unsafe_code)]
#![deny(clippy::missing_errors_doc)]

pub mod clock;
pub mod cpu_clock;
pub mod escape;
pub mod heap;
pub mod limits;
pub mod machine;
pub mod pagemap;
pub mod prompt;
pub mod range_lock;
pub mod rate_limit;
pub mod units;

pub use escape::escape;
