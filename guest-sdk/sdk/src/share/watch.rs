//! What changes in folders of the host.
#![forbid(unsafe_code)]

use super::{Call, OPEN_READ, Share};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Poll, ready};
use hv_abi::Errno;
use hv_abi::io::share::{
    EVENT_ATTRIBUTES, EVENT_CLOSED, EVENT_DIRECTORY, EVENT_ENDED, EVENT_LOST, EVENT_MADE, EVENT_REMOVED,
    EVENT_WRITTEN, ShareEvent,
};
use zerocopy::FromBytes;

/// Bytes of events that are fetched at a time.
const BUFFER: usize = 4 << 10;

/// Something that has happened to an entry of a folder that is watched, or to what is watched itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `EVENT_` bits of [`hv_abi::io::share`].
    pub what: u32,
    /// Of a name that was renamed: the same number in both events.
    pub pair: Option<u32>,
    /// The name in the folder; empty for what is watched.
    pub name: Vec<u8>,
}

impl Event {
    fn has(&self, bit: u32) -> bool {
        self.what & bit != 0
    }

    /// There is something of this name.
    pub fn is_made(&self) -> bool {
        self.has(EVENT_MADE)
    }

    /// The name is gone.
    pub fn is_removed(&self) -> bool {
        self.has(EVENT_REMOVED)
    }

    /// Bytes or size have changed.
    pub fn is_written(&self) -> bool {
        self.has(EVENT_WRITTEN)
    }

    /// Somebody who could write has closed it.
    pub fn is_closed(&self) -> bool {
        self.has(EVENT_CLOSED)
    }

    /// Attributes have changed.
    pub fn is_of_attributes(&self) -> bool {
        self.has(EVENT_ATTRIBUTES)
    }

    /// It is about a folder.
    pub fn is_dir(&self) -> bool {
        self.has(EVENT_DIRECTORY)
    }

    /// There were more events than were kept.
    pub fn is_lost(&self) -> bool {
        self.has(EVENT_LOST)
    }

    /// The file system is gone, and nothing more comes.
    pub fn is_end(&self) -> bool {
        self.has(EVENT_ENDED)
    }
}

/// The events in a buffer that [`Share::changes`] has filled.
#[derive(Clone, Debug)]
pub struct Events<'a>(&'a [u8]);

impl<'a> Events<'a> {
    /// The events in these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Events(bytes)
    }
}

impl Iterator for Events<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let (head, _) = ShareEvent::read_from_prefix(self.0).ok()?;
        let (event, rest) = self.0.split_at_checked(head.len.into())?;
        let name = event.get(size_of::<ShareEvent>()..)?.get(..head.name_len.into())?.to_vec();
        self.0 = rest;
        Some(Event { what: head.what, pair: (head.pair != 0).then_some(head.pair), name })
    }
}

/// A folder or file that is watched, until this is dropped.
pub struct Watch {
    share: Share,
    handle: u64,
    /// The request for further events, under way. Dropped before the buffer: that waits for the host, which answers once the handle is closed.
    call: Option<Call<'static>>,
    /// Where the host puts them. Nobody else touches it meanwhile.
    buffer: Box<[u8]>,
    /// Bytes of the buffer that were fetched, and how many of them were taken out.
    filled: usize,
    taken: usize,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("share", &self.share.tag()).finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches what a path leads to, or the handle's own folder or file if the path is empty. Does not await: no task runs meanwhile.
    ///
    /// # Errors
    ///
    /// Those of [`Share::open`] and [`Share::watch`].
    pub fn new(share: Share, from: u64, path: &[u8]) -> Result<Watch, Errno> {
        let handle = share.open(from, path, OPEN_READ).block()?;
        let buffer = vec![0; BUFFER].into_boxed_slice();
        let watch = Watch { share, handle, call: None, buffer, filled: 0, taken: 0 };
        share.watch(handle).block()?;
        Ok(watch)
    }

    /// The next event, when there is one. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`Errno::BadHandle`] in a guest that was saved and goes on; what the host says.
    pub async fn next(&mut self) -> Result<Event, Errno> {
        poll_fn(|context| {
            loop {
                let mut events = Events::new(&self.buffer[self.taken..self.filled]);
                if let Some(event) = events.next() {
                    self.taken = self.filled - events.0.len();
                    return Poll::Ready(Ok(event));
                }
                let call = self.call.get_or_insert_with(|| {
                    let request = super::changes(self.handle, 0);
                    self.share.call(super::with_memory(request, &mut self.buffer))
                });
                let filled = ready!(Pin::new(call).poll(context));
                (self.call, self.taken, self.filled) = (None, 0, 0);
                self.filled = (filled? as usize).min(self.buffer.len());
            }
        })
        .await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.share.close(self.handle);
    }
}
