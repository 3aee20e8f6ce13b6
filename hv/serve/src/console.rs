//! What guests print, as lines among the events; how much of it is told is limited there.
#![forbid(unsafe_code)]

use super::events::{Events, Stream};
use hv_core::device::console::Output;
use hv_function::Outputs;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Longest line; a longer one is broken.
const LINE: usize = 1024;

/// The consoles of one function's guests.
#[derive(Clone)]
pub(super) struct Consoles(Arc<FunctionLog>);

struct FunctionLog {
    name: String,
    events: Events,
}

impl Consoles {
    pub(super) fn new(name: &str, events: Events) -> Self {
        Consoles(Arc::new(FunctionLog { name: name.into(), events }))
    }

    /// A stream of one guest.
    pub(super) fn output(&self, stream: Stream) -> Console {
        Console { function: self.0.clone(), stream, line: Vec::new() }
    }

    /// Makes this stream of more guests.
    pub(super) fn outputs(&self, stream: Stream) -> Outputs {
        let consoles = self.clone();
        Arc::new(move || Box::new(consoles.output(stream)))
    }
}

impl FunctionLog {
    fn print(&self, stream: Stream, line: &[u8]) {
        self.events.printed(&self.name, stream, &String::from_utf8_lossy(line));
    }
}

/// Gathers what a guest prints on a stream into lines.
pub(super) struct Console {
    function: Arc<FunctionLog>,
    stream: Stream,
    line: Vec<u8>,
}

impl Output for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            for piece in part.chunks(LINE) {
                if self.line.len() + piece.len() > LINE {
                    self.function.print(self.stream, &std::mem::take(&mut self.line));
                }
                self.line.extend_from_slice(piece);
            }
            if self.line.pop_if(|last| *last == b'\n').is_some() {
                self.function.print(self.stream, &std::mem::take(&mut self.line));
            }
        }
        Ok(bytes.len())
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.function.print(self.stream, &self.line);
        }
    }
}
