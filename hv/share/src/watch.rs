//! What changes in folders that the guest watches: events of inotify, sorted by handle.
//!
//! Handles of the same folder have one watch of the kernel. Watches are made and removed by the share's threads, one at a time; events are
//! read by whoever drives the device, and never waited for.

use super::errno::errno;
use super::share::Share;
use hv_abi::Errno;
use hv_abi::io::share::{
    EVENT_ATTRIBUTES, EVENT_CLOSED, EVENT_DIRECTORY, EVENT_ENDED, EVENT_LOST, EVENT_MADE, EVENT_REMOVED,
    EVENT_WRITTEN, NAME_MAX, ShareEvent, WATCHED_MAX,
};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use std::collections::{BTreeMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use zerocopy::IntoBytes;

/// Most bytes of events that are kept for all handles of a share.
const KEPT: usize = 1 << 20;
/// Bytes that are read from the kernel at a time.
const BUFFER: usize = 4 << 10;

/// What a share watches.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    /// Held while a watch is made or removed.
    control: Mutex<()>,
    /// Made with the first watch: a user has few instances.
    instance: Mutex<Option<Arc<OwnedFd>>>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    handles: BTreeMap<u64, Watched>,
    /// Bytes of all queues.
    kept: usize,
}

#[derive(Debug)]
struct Watched {
    /// The kernel's number. Not one after it has ended.
    watch: Option<i32>,
    /// Events that were not fetched.
    events: VecDeque<Box<[u8]>>,
    lost: bool,
}

impl Watched {
    /// Keeps an event, as long as there is room.
    fn push(&mut self, kept: &mut usize, what: u32, pair: u32, name: &[u8]) {
        let event = encode(what, pair, name);
        if self.events.back() == Some(&event) {
            return;
        }
        if *kept + event.len() > KEPT {
            self.lost = true;
            return;
        }
        *kept += event.len();
        self.events.push_back(event);
    }
}

fn encode(what: u32, pair: u32, name: &[u8]) -> Box<[u8]> {
    let len = (size_of::<ShareEvent>() + name.len()).next_multiple_of(8);
    let head = ShareEvent { what, pair, len: len as u16, name_len: name.len() as u16, reserved: 0 };
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(name);
    bytes.resize(len, 0);
    bytes.into_boxed_slice()
}

/// The kernel's events, as guests get them.
const MEANINGS: [(ReadFlags, u32); 8] = [
    (ReadFlags::CREATE, EVENT_MADE),
    (ReadFlags::MOVED_TO, EVENT_MADE),
    (ReadFlags::DELETE, EVENT_REMOVED),
    (ReadFlags::MOVED_FROM, EVENT_REMOVED),
    (ReadFlags::MODIFY, EVENT_WRITTEN),
    (ReadFlags::CLOSE_WRITE, EVENT_CLOSED),
    (ReadFlags::ATTRIB, EVENT_ATTRIBUTES),
    (ReadFlags::ISDIR, EVENT_DIRECTORY),
];

fn wanted() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
}

impl Table {
    /// Sorts an event of the kernel into the queues of its handles.
    fn sort(&mut self, event: &inotify::Event<'_>) {
        let flags = event.events();
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.handles.values_mut().for_each(|watched| watched.lost = true);
            return;
        }
        let ends = flags.contains(ReadFlags::IGNORED);
        let what = match ends {
            true => EVENT_ENDED,
            false => MEANINGS.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, what)| what).sum(),
        };
        let name = event.file_name().map_or(&[][..], |name| name.to_bytes());
        if what & !EVENT_DIRECTORY == 0 || name.len() > NAME_MAX {
            return;
        }
        for watched in self.handles.values_mut().filter(|watched| watched.watch == Some(event.wd())) {
            watched.push(&mut self.kept, what, event.cookie(), name);
            if ends {
                watched.watch = None;
            }
        }
    }

    /// Forgets a handle. Returns the kernel's watch if no other handle has it.
    fn forget(&mut self, handle: u64) -> Option<i32> {
        let watched = self.handles.remove(&handle)?;
        self.kept -= watched.events.iter().map(|event| event.len()).sum::<usize>();
        watched.watch.filter(|watch| self.handles.values().all(|other| other.watch != Some(*watch)))
    }

    /// Takes whole events, as many as fit.
    fn fetch(&mut self, handle: u64, limit: usize) -> Result<Vec<u8>, Errno> {
        let watched = self.handles.get_mut(&handle).ok_or(Errno::Invalid)?;
        let mut bytes = Vec::new();
        while let Some(event) = watched.events.front()
            && bytes.len() + event.len() <= limit
        {
            bytes.extend_from_slice(event);
            self.kept -= event.len();
            watched.events.pop_front();
        }
        // Behind those that came before.
        if watched.events.is_empty() && watched.lost && bytes.len() + size_of::<ShareEvent>() <= limit {
            watched.lost = false;
            bytes.extend_from_slice(&encode(EVENT_LOST, 0, &[]));
        }
        Ok(bytes)
    }
}

impl Watches {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic while held")
    }

    /// The kernel's queue of events, once there is one.
    fn instance(&self) -> Option<Arc<OwnedFd>> {
        self.instance.lock().expect("no panic while held").clone()
    }

    fn instance_or_new(&self) -> Result<Arc<OwnedFd>, Errno> {
        let mut instance = self.instance.lock().expect("no panic while held");
        if let Some(instance) = &*instance {
            return Ok(instance.clone());
        }
        let new = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(errno)?;
        Ok(instance.insert(Arc::new(new)).clone())
    }

    /// Forgets a handle that is closed. May wait for the host.
    pub(crate) fn forget(&self, handle: u64) {
        // Most are not watched.
        if !self.table().handles.contains_key(&handle) {
            return;
        }
        let _control = self.control.lock().expect("no panic while held");
        let watch = self.table().forget(handle);
        if let (Some(watch), Some(instance)) = (watch, self.instance()) {
            // It may have ended meanwhile.
            let _ = inotify::remove_watch(&*instance, watch);
        }
    }

    pub(crate) fn clear(&self) {
        *self.table() = Table::default();
        *self.instance.lock().expect("no panic while held") = None;
    }
}

impl Share {
    /// Notes what changes in a folder, or of a file, until the handle is closed.
    ///
    /// # Errors
    ///
    /// [`Errno::BadHandle`], also if it was not opened to be read; [`Errno::TooManyOpen`] above [`WATCHED_MAX`] handles; what the host says.
    pub fn watch(&self, handle: u64) -> Result<(), Errno> {
        let node = self.readable(handle)?;
        let watches = self.watches();
        let _control = watches.control.lock().expect("no panic while held");
        if watches.table().handles.contains_key(&handle) {
            return Ok(());
        }
        if watches.table().handles.len() >= WATCHED_MAX {
            return Err(Errno::TooManyOpen);
        }
        let instance = watches.instance_or_new()?;
        let path = format!("/proc/self/fd/{}", node.as_fd().as_raw_fd());
        let watch = inotify::add_watch(&*instance, path, wanted()).map_err(errno)?;
        let watched = Watched { watch: Some(watch), events: VecDeque::new(), lost: false };
        watches.table().handles.insert(handle, watched);
        if self.readable(handle).is_err() {
            // It was closed meanwhile, before there was anything to forget.
            watches.table().forget(handle).into_iter().for_each(|watch| {
                let _ = inotify::remove_watch(&*instance, watch);
            });
            return Err(Errno::BadHandle);
        }
        Ok(())
    }

    /// Events of a handle that were read by now: whole ones, at most so many bytes, maybe none.
    ///
    /// # Errors
    ///
    /// [`Errno::BadHandle`]; [`Errno::Invalid`] if it is not watched.
    pub fn changes(&self, handle: u64, limit: usize) -> Result<Vec<u8>, Errno> {
        self.node(handle)?;
        self.watches().table().fetch(handle, limit)
    }

    /// What is readable when there are events that were not read. `None` as long as nothing is watched.
    pub fn change_events(&self) -> Option<Arc<OwnedFd>> {
        self.watches().instance()
    }

    /// Reads events, some at a time. Does not wait. Returns whether there may be more.
    pub fn read_changes(&self) -> bool {
        let Some(instance) = self.watches().instance() else { return false };
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&*instance, &mut buffer);
        let mut any = false;
        loop {
            // Until what the kernel has filled the buffer with is used up: one call of it.
            if any && reader.is_buffer_empty() {
                return true;
            }
            match reader.next() {
                Ok(event) => self.watches().table().sort(&event),
                Err(_) => return false,
            }
            any = true;
        }
    }
}

#[cfg(test)]
mod tests;
