//! The statistics of hv's measurements: `hv bench` and the criterion benches compare by the same rules.
//!
//! Pure: no clock and no file is read here, and all that is random comes from a seed, which results record. The rules
//! are explained in `docs/measuring.md`.
//!
//! ```text
//!  samples    what single operations took: histograms, and the percentiles that they carry
//!  interval   medians of rounds, and 95 % intervals of them and of their ratios
//!  verdict    when a difference is claimed
//!  order      in which order the members of a round take their turns
//!  stop       when there are rounds enough
//! ```
#![forbid(unsafe_code)]

pub mod interval;
pub mod order;
pub mod samples;
pub mod stop;
pub mod verdict;

pub use interval::{Estimate, ratio_of_medians};
pub use samples::Samples;
pub use verdict::Verdict;
