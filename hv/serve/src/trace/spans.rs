//! A request that is over, and the spans of its time. Pure.

use super::Trace;
use hv_function::Progress;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest path that is kept.
const PATH: usize = 256;

/// A request that is over.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) trace: Option<Trace>,
    pub(crate) request: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) client: IpAddr,
    pub(crate) function: Option<Arc<str>>,
    pub(crate) tenant: Option<Arc<str>>,
    pub(crate) instance: Option<&'static str>,
    pub(crate) failure: Option<&'static str>,
    pub(crate) crash: Option<String>,
    pub(crate) started: SystemTime,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    pub(crate) stages: Stages,
}

/// How far a request has come on its way to a guest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stages {
    /// It waits for a permit.
    pub(crate) queued: Option<Instant>,
    /// It has one.
    pub(crate) admitted: Option<Instant>,
    /// What became of it in a guest.
    pub(crate) progress: Option<Arc<Progress>>,
    /// The machine is reset behind it.
    pub(crate) resets: bool,
}

/// A part of a request's time. The number makes its span's id out of the request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Waits for a permit.
    Queue = 1,
    /// Waits until a machine is ready: one is given, reset, or made.
    Clone = 2,
    /// Is answered by the guest.
    Run = 3,
    /// The machine is made as before.
    Reset = 4,
}

impl Part {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Queue => "queue",
            Part::Clone => "clone",
            Part::Run => "run",
            Part::Reset => "reset",
        }
    }
}

/// The id of a part's span.
pub(crate) fn part_of(span: u64, part: Part) -> u64 {
    span | part as u64
}

/// So much of a path as is kept.
pub(crate) fn shortened(path: &str) -> String {
    path[..path.floor_char_boundary(PATH)].to_owned()
}

impl Finished {
    /// The parts of its time that are known: when each began, and how long it took.
    pub(crate) fn parts(&self) -> Vec<(Part, Instant, Duration)> {
        let Stages { queued, admitted, progress, .. } = &self.stages;
        let began = progress.as_ref().map(|progress| progress.began());
        let answered = progress.as_ref().and_then(|progress| progress.ended());
        let reset = progress.as_ref().and_then(|progress| progress.reset());
        [
            (Part::Queue, *queued, admitted.or(Some(self.ended))),
            (Part::Clone, *admitted, began.or(Some(self.ended))),
            (Part::Run, began, answered.or(Some(self.ended))),
            (Part::Reset, answered, reset),
        ]
        .into_iter()
        .filter_map(|(part, from, to)| {
            let (from, to) = (from?, to?);
            Some((part, from, to.saturating_duration_since(from)))
        })
        .collect()
    }

    /// Whether something of it is still to come: its machine is being reset.
    pub(crate) fn goes_on(&self) -> bool {
        let progress = self.stages.progress.as_ref();
        self.stages.resets && progress.is_some_and(|progress| progress.reset().is_none())
    }

    /// A moment in nanoseconds since 1970.
    pub(crate) fn nanos(&self, at: Instant) -> u64 {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        (started + at.saturating_duration_since(self.begun)).as_nanos() as u64
    }
}
