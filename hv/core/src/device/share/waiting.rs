//! Requests for changes, which wait until something has changed.
#![forbid(unsafe_code)]

use super::workers::Outcome;
use crate::device::block::buffers::Buffers;
use crate::reactor::Registrar;
use hv_abi::Errno;
use hv_abi::io::share::CHANGES_WAITING;
use hv_share::Share;
use mio::Interest;
use mio::unix::SourceFd;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// One that waits.
struct Waiting {
    id: u64,
    handle: u64,
    /// It is answered at the next look, and so are those before it of the same handle.
    now: bool,
    to: Buffers,
}

/// Those of one share. The I/O thread looks for changes; only it may read them.
#[derive(Default)]
pub(super) struct ChangeRequests {
    all: Vec<Waiting>,
    /// Where the descriptor of changes is to be registered.
    io: Option<Registrar>,
    /// The descriptor that is.
    registered: Option<Arc<OwnedFd>>,
}

impl ChangeRequests {
    pub(super) fn start(&mut self, io: Registrar) {
        self.io = Some(io);
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Takes a request, which waits for the next [look](Self::look). Returns why not.
    pub(super) fn push(&mut self, id: u64, handle: u64, now: bool, to: Buffers) -> Result<(), Errno> {
        // One that is to be answered at once makes room.
        if self.all.iter().filter(|waiting| !waiting.now).count() >= CHANGES_WAITING && !now {
            return Err(Errno::Busy);
        }
        self.all.push(Waiting { id, handle, now, to });
        Ok(())
    }

    /// Reads what has changed, and answers what waits for that. Returns whether there may be more to read. `key` is for the descriptor.
    pub(super) fn look(&mut self, share: &Share, key: u32, done: &mut Vec<Outcome>) -> bool {
        if self.all.is_empty() {
            return false;
        }
        if let Err(error) = self.register(share, key) {
            tracing::warn!("a share's changes cannot be waited for: {error}");
            done.extend(
                self.all.drain(..).map(|waiting| Outcome { id: waiting.id, result: Err(Errno::Again) }),
            );
            return false;
        }
        let more = share.read_changes();
        let urgent: Vec<u64> = self.all.iter().filter(|one| one.now).map(|one| one.handle).collect();
        self.all.retain(|waiting| {
            let result = match share.changes(waiting.handle, waiting.to.len() as usize) {
                Ok(bytes) if bytes.is_empty() && !urgent.contains(&waiting.handle) => return true,
                Ok(bytes) => {
                    waiting.to.copy_from(&bytes);
                    Ok(bytes.len() as u64)
                }
                Err(errno) => Err(errno),
            };
            done.push(Outcome { id: waiting.id, result });
            false
        });
        more
    }

    /// Answers all, with nothing.
    pub(super) fn finish(&mut self, done: &mut Vec<Outcome>) {
        done.extend(self.all.drain(..).map(|waiting| Outcome { id: waiting.id, result: Ok(0) }));
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.all.clear();
        // Closed, it is registered no more.
        self.registered = None;
    }

    fn register(&mut self, share: &Share, key: u32) -> io::Result<()> {
        let Some(events) = share.change_events() else { return Ok(()) };
        if self.registered.as_ref().is_some_and(|registered| Arc::ptr_eq(registered, &events)) {
            return Ok(());
        }
        if let Some(io) = &self.io {
            io.register(&mut SourceFd(&events.as_raw_fd()), key, Interest::READABLE)?;
        }
        self.registered = Some(events);
        Ok(())
    }
}
