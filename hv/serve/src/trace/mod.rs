//! What became of single requests: their spans, what guests printed meanwhile, and their way to a collector.
#![forbid(unsafe_code)]

mod context;
mod export;
mod invocations;
mod otlp;
mod spans;

pub(super) use context::{TRACEPARENT, TRACESTATE, Trace, TraceIds, given_trace};
pub(super) use export::Exporter;
pub(super) use invocations::{Found, Invocations};
pub(super) use spans::{Finished, Part, Stages, part_of, shortened};
