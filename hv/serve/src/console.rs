//! What guests print: as lines among the events, where it is limited how much is told, and with the requests that it was
//! printed for.
#![forbid(unsafe_code)]

use super::events::{Events, Stream};
use super::trace::Invocations;
use hv_core::device::console::Output;
use hv_function::{CurrentRequest, Outputs};
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
    invocations: Arc<Invocations>,
}

impl Consoles {
    pub(super) fn new(name: &str, events: Events, invocations: Arc<Invocations>) -> Self {
        Consoles(Arc::new(FunctionLog { name: name.into(), events, invocations }))
    }

    /// A stream of one guest.
    pub(super) fn output(&self, stream: Stream, request: CurrentRequest) -> Console {
        Console { function: self.0.clone(), stream, request, last: 0, line: Vec::new() }
    }

    /// Makes this stream of more guests.
    pub(super) fn outputs(&self, stream: Stream) -> Outputs {
        let consoles = self.clone();
        Arc::new(move |request| Box::new(consoles.output(stream, request.clone())))
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
    /// The request that the guest is at.
    request: CurrentRequest,
    /// The one that `line` was printed for.
    last: u64,
    line: Vec<u8>,
}

impl Console {
    fn print_line(&mut self) {
        self.function.print(self.stream, &std::mem::take(&mut self.line));
    }
}

impl Output for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let number = self.request.number();
        self.function.invocations.print(number, self.stream, bytes);
        // No line has parts of two requests.
        if std::mem::replace(&mut self.last, number) != number && !self.line.is_empty() {
            self.print_line();
        }
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            for piece in part.chunks(LINE) {
                if self.line.len() + piece.len() > LINE {
                    self.print_line();
                }
                self.line.extend_from_slice(piece);
            }
            if self.line.pop_if(|last| *last == b'\n').is_some() {
                self.print_line();
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
            self.print_line();
        }
    }
}
