//! From paths to inodes, by symbolic links if need be.

use crate::inode::{Inode, ROOT};
use crate::{Disk, Error, FileSystem};
use alloc::vec;
use alloc::vec::Vec;

/// Most links on the way, as in Linux.
const MAX_LINKS: u32 = 40;
/// Most bytes of a link's target, and most names that are left to go.
const MAX_TARGET: u64 = 4096;
const MAX_NAMES: usize = 4096;

impl<D: Disk> FileSystem<D> {
    /// What a path from the root leads to, links followed.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it leads to nothing, [`Error::NotADirectory`] if it leads through a file;
    /// [`Error::Damaged`] and [`Error::Feature`] for what cannot be read, [`Error::Disk`] if the disk failed.
    pub fn find_path(&self, path: &str) -> Result<Inode, Error<D::Error>> {
        self.walk(vec![self.inode(ROOT)?], path.as_bytes())
    }

    /// What an entry of a directory leads to, links followed. `directory` is its path.
    ///
    /// # Errors
    ///
    /// As [`find_path`](Self::find_path).
    pub fn follow(&self, directory: &str, inode: u32) -> Result<Inode, Error<D::Error>> {
        let inode = self.inode(inode)?;
        if !inode.is_link() {
            return Ok(inode);
        }
        let above = self.walk_to(vec![self.inode(ROOT)?], directory.as_bytes())?;
        self.walk(above, &self.target(&inode)?)
    }

    fn walk(&self, above: Vec<Inode>, path: &[u8]) -> Result<Inode, Error<D::Error>> {
        self.walk_to(above, path)?.pop().ok_or(Error::NotFound)
    }

    /// Goes a path from the last of some directories, each in the one before; ends with all that it went through.
    fn walk_to(&self, mut above: Vec<Inode>, path: &[u8]) -> Result<Vec<Inode>, Error<D::Error>> {
        let names =
            |path: &[u8]| path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
        let mut links = 0;
        // What is still to go, the next name last.
        let mut left = names(path);
        while let Some(name) = left.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    above.truncate(above.len().saturating_sub(1).max(1));
                    continue;
                }
                _ => {}
            }
            let directory = above.last().ok_or(Error::NotFound)?;
            let inode = self.inode(self.find(directory, &name)?)?;
            if !inode.is_link() {
                above.push(inode);
                continue;
            }
            links += 1;
            let target = self.target(&inode)?;
            if target.starts_with(b"/") {
                above.truncate(1);
            }
            left.extend(names(&target));
            if links > MAX_LINKS || left.len() > MAX_NAMES {
                return Err(Error::NotFound);
            }
        }
        Ok(above)
    }

    fn target(&self, link: &Inode) -> Result<Vec<u8>, Error<D::Error>> {
        if link.is_encrypted() {
            return Err(Error::Feature("encrypt"));
        }
        // A short target stands where the map would.
        match link.blocks().get(..link.size() as usize) {
            Some(target) if target.len() < link.blocks().len() && !link.is_inline() => Ok(target.to_vec()),
            _ => self.content(link, MAX_TARGET),
        }
    }

    /// A file, by its path; its map has been followed to its end.
    ///
    /// # Errors
    ///
    /// As [`find_path`](Self::find_path); [`Error::IsADirectory`] and [`Error::Special`] for what is no file.
    pub fn open_file(&self, path: &str) -> Result<Inode, Error<D::Error>> {
        let inode = self.find_path(path)?;
        if inode.is_directory() {
            return Err(Error::IsADirectory);
        }
        if !inode.is_file() {
            return Err(Error::Special);
        }
        if inode.is_encrypted() {
            return Err(Error::Feature("encrypt"));
        }
        self.check_map(&inode)?;
        Ok(inode)
    }
}
