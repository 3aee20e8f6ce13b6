//! Files in the guest's own memory, as Linux' tmpfs has them: they are gone when the guest ends.
#![forbid(unsafe_code)]

use super::file::Source;
use super::tree::{Tree, components, split};
use super::{Entry, Error, Metadata, OpenOptions};
use crate::clock::wall_nanos;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// Bytes of a piece of a file. A piece without content takes no memory.
const PAGE: usize = 4096;

/// What a file or folder takes besides its content and its name.
const NODE: u64 = 256;

/// Bytes that may still be used.
#[derive(Clone)]
struct Room(Rc<Cell<u64>>);

impl Room {
    fn take(&self, bytes: u64) -> Result<(), Error> {
        self.0.set(self.0.get().checked_sub(bytes).ok_or(Error::NoSpace)?);
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        self.0.set(self.0.get() + bytes);
    }
}

enum Content {
    Folder(RefCell<BTreeMap<String, Rc<Node>>>),
    File(RefCell<Pages>),
}

/// A file or folder. It lives as long as it has a name or is open.
struct Node {
    content: Content,
    modified: Cell<i64>,
    room: Room,
}

impl Drop for Node {
    fn drop(&mut self) {
        let pages = match &self.content {
            Content::File(pages) => pages.borrow().pages.len() * PAGE,
            Content::Folder(_) => 0,
        };
        self.room.give_back(NODE + pages as u64);
    }
}

fn now() -> i64 {
    (wall_nanos() / 1_000_000_000) as i64
}

impl Node {
    fn new(content: Content, room: &Room) -> Result<Rc<Node>, Error> {
        room.take(NODE)?;
        Ok(Rc::new(Node { content, modified: Cell::new(now()), room: room.clone() }))
    }

    fn folder(&self) -> Result<&RefCell<BTreeMap<String, Rc<Node>>>, Error> {
        match &self.content {
            Content::Folder(entries) => Ok(entries),
            Content::File(_) => Err(Error::NotAFolder),
        }
    }

    fn is_dir(&self) -> bool {
        matches!(self.content, Content::Folder(_))
    }

    fn metadata(&self) -> Metadata {
        let len = match &self.content {
            Content::File(pages) => pages.borrow().len,
            Content::Folder(_) => 0,
        };
        Metadata { len, is_dir: self.is_dir(), modified: self.modified.get() }
    }

    fn touch(&self) {
        self.modified.set(now());
    }
}

/// The bytes of a file.
#[derive(Default)]
struct Pages {
    len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

/// The pages of a range: the number of each, and the part of it.
fn pages(offset: u64, len: usize) -> impl Iterator<Item = (u64, core::ops::Range<usize>)> {
    let end = offset.saturating_add(len as u64);
    let mut at = offset;
    core::iter::from_fn(move || {
        let (page, from) = (at / PAGE as u64, (at % PAGE as u64) as usize);
        let count = ((end - at) as usize).min(PAGE - from);
        at += count as u64;
        (count > 0).then_some((page, from..from + count))
    })
}

impl Pages {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        let buffer = &mut buffer[..count];
        let mut done = 0;
        for (number, part) in pages(offset, buffer.len()) {
            let to = &mut buffer[done..][..part.len()];
            done += part.len();
            match self.pages.get(&number) {
                Some(page) => to.copy_from_slice(&page[part]),
                None => to.fill(0),
            }
        }
        done
    }

    fn write(&mut self, offset: u64, bytes: &[u8], room: &Room) -> Result<(), Error> {
        offset.checked_add(bytes.len() as u64).ok_or(Error::TooLarge)?;
        let mut done = 0;
        for (number, part) in pages(offset, bytes.len()) {
            let page = match self.pages.entry(number) {
                alloc::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
                alloc::collections::btree_map::Entry::Vacant(place) => {
                    let mut page = Vec::new();
                    page.try_reserve_exact(PAGE).map_err(|_| Error::NoSpace)?;
                    room.take(PAGE as u64)?;
                    page.resize(PAGE, 0);
                    place.insert(page.into_boxed_slice())
                }
            };
            let count = part.len();
            page[part].copy_from_slice(&bytes[done..done + count]);
            done += count;
            self.len = self.len.max(offset + done as u64);
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64, room: &Room) {
        let beyond = self.pages.split_off(&len.div_ceil(PAGE as u64));
        room.give_back((beyond.len() * PAGE) as u64);
        // What is behind the end reads as zeros when the file grows again.
        if let Some(page) = self.pages.get_mut(&(len / PAGE as u64)) {
            page[(len % PAGE as u64) as usize..].fill(0);
        }
        self.len = len;
    }
}

/// A file system in memory.
pub(super) struct Memory {
    root: Rc<Node>,
    room: Room,
}

impl Memory {
    /// One that takes at most so many bytes.
    pub(super) fn new(limit: u64) -> Self {
        let room = Room(Rc::new(Cell::new(limit.saturating_add(NODE))));
        let root = Node::new(Content::Folder(RefCell::default()), &room).expect("room for it was added");
        Memory { root, room }
    }

    fn find(&self, path: &str) -> Result<Rc<Node>, Error> {
        let mut node = self.root.clone();
        for part in components(path)? {
            let next = node.folder()?.borrow().get(part).cloned();
            node = next.ok_or(Error::NotFound)?;
        }
        Ok(node)
    }

    /// The folder that a path is in, and the name.
    fn place(&self, path: &str) -> Result<(Rc<Node>, String), Error> {
        let (folder, name) = split(path)?;
        let folder = self.find(&folder)?;
        folder.folder()?;
        Ok((folder, name))
    }

    /// Adds a name that is not there.
    fn add(&self, folder: &Node, name: String, content: Content) -> Result<Rc<Node>, Error> {
        let entries = folder.folder()?;
        if entries.borrow().contains_key(&name) {
            return Err(Error::Exists);
        }
        let node = Node::new(content, &self.room)?;
        self.room.take(name.len() as u64)?;
        entries.borrow_mut().insert(name, node.clone());
        folder.touch();
        Ok(node)
    }

    fn remove(&self, folder: &Node, name: &str) -> Result<(), Error> {
        if folder.folder()?.borrow_mut().remove(name).is_some() {
            self.room.give_back(name.len() as u64);
            folder.touch();
        }
        Ok(())
    }

    /// What has a name, if it may be removed as this kind.
    fn removable(&self, folder: &Node, name: &str, as_dir: bool) -> Result<Rc<Node>, Error> {
        let node = folder.folder()?.borrow().get(name).cloned().ok_or(Error::NotFound)?;
        match &node.content {
            Content::File(_) if as_dir => Err(Error::NotAFolder),
            Content::Folder(_) if !as_dir => Err(Error::IsAFolder),
            Content::Folder(entries) if !entries.borrow().is_empty() => Err(Error::NotEmpty),
            _ => Ok(node),
        }
    }
}

impl Tree for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        Ok(self.find(path)?.metadata())
    }

    fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let folder = self.find(path)?;
        let entries = folder.folder()?.borrow();
        Ok(entries
            .iter()
            .map(|(name, node)| Entry { name: name.clone(), metadata: node.metadata() })
            .collect())
    }

    fn open(&self, path: &str, options: OpenOptions) -> Result<Source, Error> {
        let node = match self.find(path) {
            Ok(_) if options.create_new => return Err(Error::Exists),
            Ok(node) if node.is_dir() => return Err(Error::IsAFolder),
            Ok(node) => node,
            Err(Error::NotFound) if options.makes() => {
                let (folder, name) = self.place(path)?;
                self.add(&folder, name, Content::File(RefCell::default()))?
            }
            Err(error) => return Err(error),
        };
        let file = MemoryFile(node);
        if options.truncate {
            file.set_len(0)?;
        }
        Ok(Source::Memory(file))
    }

    fn create_dir(&self, path: &str) -> Result<(), Error> {
        if self.find(path).is_ok() {
            return Err(Error::Exists);
        }
        let (folder, name) = self.place(path)?;
        self.add(&folder, name, Content::Folder(RefCell::default())).map(drop)
    }

    fn remove_file(&self, path: &str) -> Result<(), Error> {
        let (folder, name) = self.place(path)?;
        self.removable(&folder, &name, false)?;
        self.remove(&folder, &name)
    }

    fn remove_dir(&self, path: &str) -> Result<(), Error> {
        let (folder, name) = self.place(path)?;
        self.removable(&folder, &name, true)?;
        self.remove(&folder, &name)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (old_folder, old_name) = self.place(from)?;
        let node = old_folder.folder()?.borrow().get(&old_name).cloned().ok_or(Error::NotFound)?;
        let inside = || {
            let mut below = components(to).into_iter().flatten();
            components(from).into_iter().flatten().all(|part| below.next() == Some(part))
        };
        if node.is_dir() && inside() {
            // Onto itself is no change; below itself it cannot go.
            return if components(from)?.eq(components(to)?) { Ok(()) } else { Err(Error::Invalid) };
        }
        let (folder, name) = self.place(to)?;
        match self.removable(&folder, &name, node.is_dir()) {
            Ok(there) if Rc::ptr_eq(&there, &node) => return Ok(()),
            // The old name's room is enough for this one.
            Ok(_) => {}
            Err(Error::NotFound) => self.room.take(name.len() as u64)?,
            Err(error) => return Err(error),
        }
        folder.folder()?.borrow_mut().insert(name, node);
        folder.touch();
        self.remove(&old_folder, &old_name)
    }
}

/// An open file.
pub(super) struct MemoryFile(Rc<Node>);

impl MemoryFile {
    fn pages(&self) -> &RefCell<Pages> {
        match &self.0.content {
            Content::File(pages) => pages,
            Content::Folder(_) => unreachable!("folders are not opened"),
        }
    }

    pub(super) fn metadata(&self) -> Metadata {
        self.0.metadata()
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        self.pages().borrow().read(offset, buffer)
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.0.touch();
        self.pages().borrow_mut().write(offset, bytes, &self.0.room)
    }

    pub(super) fn set_len(&self, len: u64) -> Result<(), Error> {
        self.0.touch();
        self.pages().borrow_mut().set_len(len, &self.0.room);
        Ok(())
    }
}
