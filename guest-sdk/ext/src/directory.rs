//! Directories. Their indexes are skipped: an index lies in what looks like a deleted entry.

use crate::bytes::{le16, le32};
use crate::checksum::crc32c;
use crate::inode::Inode;
use crate::{Disk, Error, Fault, FileSystem};
use alloc::vec::Vec;
use core::ops::ControlFlow;

/// An entry's bytes before its name.
const HEAD: usize = 8;
/// The last entry of a block, with its checksum.
const TAIL: usize = 12;
const TAIL_KIND: u8 = 0xde;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, which may be any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// Whose it is.
    pub inode: u32,
}

impl<D: Disk> FileSystem<D> {
    /// The entries of a directory but `.` and `..`, in the order in which they lie there.
    ///
    /// # Errors
    ///
    /// [`Error::NotADirectory`] for something else; [`Error::Damaged`] and [`Error::Feature`] for what cannot be read, [`Error::Disk`] if the disk failed.
    pub fn entries(&self, directory: &Inode) -> Result<Vec<DirEntry>, Error<D::Error>> {
        let mut found = Vec::new();
        self.visit(directory, &mut |name, inode| {
            if name != b"." && name != b".." {
                found.push(DirEntry { name: name.to_vec(), inode });
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// The inode of a name in a directory.
    pub(crate) fn find(&self, directory: &Inode, wanted: &[u8]) -> Result<u32, Error<D::Error>> {
        let mut found = None;
        self.visit(directory, &mut |name, inode| {
            if name != wanted {
                return ControlFlow::Continue(());
            }
            found = Some(inode);
            ControlFlow::Break(())
        })?;
        found.ok_or(Error::NotFound)
    }

    fn visit(
        &self,
        directory: &Inode,
        visitor: &mut dyn FnMut(&[u8], u32) -> ControlFlow<()>,
    ) -> Result<(), Error<D::Error>> {
        if !directory.is_directory() {
            return Err(Error::NotADirectory);
        }
        if directory.is_encrypted() {
            return Err(Error::Feature("encrypt"));
        }
        if directory.is_inline() {
            let data = directory.inline();
            // The parent, and then two lists of entries: in the map's place, and beyond.
            let (own, beyond) = data.split_at(directory.blocks().len().min(data.len()));
            for list in [own.get(4..).unwrap_or_default(), beyond] {
                if visit_entries(list, visitor)?.is_break() {
                    break;
                }
            }
            return Ok(());
        }
        let (mut block, end) = (0, directory.size().div_ceil(self.block_size()));
        while block < end {
            let run = self.map(directory, block)?;
            if let Some(first) = run.block {
                for index in 0..run.count.min(end - block) {
                    let bytes = self.block(first + index)?;
                    check_tail(directory, &bytes)?;
                    if visit_entries(&bytes, visitor)?.is_break() {
                        return Ok(());
                    }
                }
            }
            block += run.count;
        }
        Ok(())
    }
}

/// Compares the checksum of a block that has one; blocks of an index have another.
fn check_tail(directory: &Inode, block: &[u8]) -> Result<(), Fault> {
    let (entries, tail) = block.split_at(block.len() - TAIL);
    let is_tail = le32(tail, 0) == 0 && le16(tail, 4) == TAIL as u16 && tail[6] == 0 && tail[7] == TAIL_KIND;
    match directory.seed {
        Some(seed) if is_tail && crc32c(seed, &[entries]) != le32(tail, 8) => {
            Err(Fault::Damaged("the checksum of a directory is wrong"))
        }
        _ => Ok(()),
    }
}

fn visit_entries(
    mut list: &[u8],
    visitor: &mut dyn FnMut(&[u8], u32) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Fault> {
    while list.len() >= HEAD {
        let (inode, name_len) = (le32(list, 0), usize::from(list[6]));
        // In blocks of 64 KiB, the lowest bits, which are zero, are the highest ones.
        let len = usize::from(le16(list, 4));
        let len = match len {
            0 | 0xffff => 1 << 16,
            _ => len & !3 | (len & 3) << 16,
        };
        let entry = list.get(..len).filter(|_| len >= HEAD + name_len && len >= TAIL);
        let Some(entry) = entry else { return Err(Fault::Damaged("an entry of a directory")) };
        if inode != 0 && visitor(&entry[HEAD..HEAD + name_len], inode).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        list = &list[len..];
    }
    Ok(ControlFlow::Continue(()))
}
