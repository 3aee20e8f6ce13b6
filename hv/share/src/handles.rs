//! What a guest has open, by numbers.

use hv_abi::Errno;
use rustix::fs::OFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// Most handles that a guest may have open in a share: each is a descriptor of hv.
pub(crate) const MAX_HANDLES: u32 = 512;

/// Bits of a handle that say the slot; the rest is a number that no other handle of the share ever has.
const SLOT_BITS: u32 = 16;

/// Something that is open.
#[derive(Debug)]
pub struct Node {
    fd: OwnedFd,
    /// One of [`hv_abi::io::share::kind`].
    pub(crate) kind: u32,
    /// Whether its bytes or entries may be read.
    pub(crate) readable: bool,
    /// Whether its bytes may be written.
    pub(crate) writable: bool,
    /// Whether it is known to lie where the folder's [local file system](super::Folder::local_device) is.
    pub(crate) is_local: bool,
    /// Of a folder whose entries are read: the cookie that the descriptor is at.
    pub(crate) position: Mutex<u64>,
}

impl Node {
    /// Something of this kind that was opened for this; with `O_PATH` for neither.
    pub(crate) fn new(fd: OwnedFd, kind: u32, access: OFlags) -> Self {
        let readable = access == OFlags::RDONLY || access == OFlags::RDWR;
        let writable = access == OFlags::WRONLY || access == OFlags::RDWR;
        Node { fd, kind, readable, writable, is_local: false, position: Mutex::new(0) }
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The handles of one share.
#[derive(Debug)]
pub(crate) struct Handles(Mutex<Table>);

#[derive(Debug)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Of the next handle; never 0, which makes the root.
    serial: u64,
}

#[derive(Debug, Default)]
struct Slot {
    handle: u64,
    node: Option<Arc<Node>>,
}

impl Handles {
    /// No handles. The first one has this serial number: one that no share of a guest that was saved is likely to have given.
    pub(crate) fn new(serial: u64) -> Self {
        let serial = (serial >> SLOT_BITS).max(1);
        Handles(Mutex::new(Table { slots: Vec::new(), free: Vec::new(), serial }))
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().expect("no panic while held")
    }

    /// Whether another one may be opened.
    pub(crate) fn has_room(&self) -> bool {
        let table = self.table();
        !table.free.is_empty() || table.slots.len() < MAX_HANDLES as usize
    }

    /// Keeps what was opened.
    pub(crate) fn insert(&self, node: Node) -> Result<u64, Errno> {
        let table = &mut *self.table();
        let slot = match table.free.pop() {
            Some(slot) => slot,
            None if table.slots.len() < MAX_HANDLES as usize => {
                table.slots.push(Slot::default());
                (table.slots.len() - 1) as u16
            }
            None => return Err(Errno::TooManyOpen),
        };
        let handle = table.serial << SLOT_BITS | u64::from(slot);
        table.serial = (table.serial + 1) & (u64::MAX >> SLOT_BITS);
        table.serial = table.serial.max(1);
        table.slots[usize::from(slot)] = Slot { handle, node: Some(Arc::new(node)) };
        Ok(handle)
    }

    /// What has this handle.
    pub(crate) fn get(&self, handle: u64) -> Result<Arc<Node>, Errno> {
        let table = self.table();
        let slot = table.slots.get(usize::from(handle as u16)).filter(|slot| slot.handle == handle);
        slot.and_then(|slot| slot.node.clone()).ok_or(Errno::BadHandle)
    }

    /// Forgets a handle. What is under way on it goes on.
    pub(crate) fn remove(&self, handle: u64) -> Result<Arc<Node>, Errno> {
        let table = &mut *self.table();
        let number = handle as u16;
        let slot = table.slots.get_mut(usize::from(number)).filter(|slot| slot.handle == handle);
        let node = slot.and_then(|slot| slot.node.take()).ok_or(Errno::BadHandle)?;
        table.free.push(number);
        Ok(node)
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        let table = &mut *self.table();
        (table.slots, table.free) = (Vec::new(), Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_abi::io::share::kind;

    fn node() -> Node {
        Node::new(std::fs::File::open("/dev/null").unwrap().into(), kind::FILE, OFlags::RDONLY)
    }

    #[test]
    fn handles_that_were_never_given_or_given_back_are_refused() {
        let handles = Handles::new(7 << SLOT_BITS);
        let first = handles.insert(node()).unwrap();
        let second = handles.insert(node()).unwrap();
        assert_ne!(first, second);
        for made_up in [0, 1, 7, first ^ 1 << SLOT_BITS, first | 0xffff, u64::MAX] {
            assert_eq!(handles.get(made_up).map(drop), Err(Errno::BadHandle), "{made_up}");
            assert_eq!(handles.remove(made_up).map(drop), Err(Errno::BadHandle), "{made_up}");
        }
        handles.remove(first).unwrap();
        assert_eq!(handles.remove(first).map(drop), Err(Errno::BadHandle));
        let third = handles.insert(node()).unwrap();
        assert_eq!(third as u16, first as u16, "the slot is used again");
        assert_eq!(handles.get(first).map(drop), Err(Errno::BadHandle), "and the handle is not");
        handles.clear();
        assert_eq!(handles.get(second).map(drop), Err(Errno::BadHandle));
    }

    #[test]
    fn there_are_not_more_than_may_be() {
        let handles = Handles::new(0);
        let all: Vec<_> = (0..MAX_HANDLES).map(|_| handles.insert(node()).unwrap()).collect();
        assert!(!handles.has_room());
        assert_eq!(handles.insert(node()), Err(Errno::TooManyOpen));
        handles.remove(all[17]).unwrap();
        assert!(handles.has_room() && handles.insert(node()).is_ok());
    }
}
