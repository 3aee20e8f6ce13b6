//! A line on standard error that says how far a run is.

use hv_bench::density::DensityProgress;
use hv_bench::runner::RunProgress;
use std::io::Write;

pub(super) struct ProgressLine {
    terminal: bool,
    /// The last round that was printed, where lines are not overwritten.
    said: Option<u32>,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        ProgressLine { terminal: crate::colour::can_overwrite(&std::io::stderr()), said: None }
    }

    pub(super) fn clear(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl DensityProgress for ProgressLine {
    fn touched(&mut self, bytes: u64, of: u64) {
        let (mib, all) = (bytes >> 20, of.div_ceil(1 << 20));
        // Without a terminal, the end is enough.
        let _ = match self.terminal {
            true => write!(std::io::stderr(), "\r\x1b[Khv bench: touching memory: {mib} of {all} MiB"),
            false if bytes < of => Ok(()),
            false => writeln!(std::io::stderr(), "hv bench: {all} MiB of memory are touched"),
        };
    }

    fn live(&mut self, guests: u32, of: u32) {
        // Standard error may be closed: an error of the write is ignored.
        let _ = match self.terminal {
            true => write!(std::io::stderr(), "\r\x1b[Khv bench: {guests} of {of} guests are live"),
            false => writeln!(std::io::stderr(), "hv bench: {guests} of {of} guests are live"),
        };
    }
}

impl RunProgress for ProgressLine {
    fn step(&mut self, round: u32, rounds: u32, operation: &str) {
        let what = match round {
            0 => "warm-up".to_owned(),
            round if round <= rounds => format!("round {round} of {rounds}"),
            round => format!("round {round}, where intervals are wide"),
        };
        // Standard error may be closed: an error of the write is ignored.
        let _ = if self.terminal {
            write!(std::io::stderr(), "\r\x1b[Khv bench: {what}: {operation}")
        } else if self.said.replace(round) != Some(round) {
            writeln!(std::io::stderr(), "hv bench: {what}")
        } else {
            Ok(())
        };
    }
}
