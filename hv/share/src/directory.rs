//! Entries of folders, as guests get them.

use super::attributes::{attributes, kind};
use super::errno::errno;
use super::handles::Node;
use hv_abi::Errno;
use hv_abi::io::share::{NAME_MAX, ShareAttributes, ShareEntry};
use rustix::fs::{FileType, RawDir, RawDirEntry, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use zerocopy::IntoBytes;

/// Bytes that the kernel fills with entries at a time.
const BUFFER: usize = 8 << 10;

/// The entries of a folder from a cookie on, at most `limit` bytes of them; none at its end.
pub(crate) fn entries(
    folder: &Node,
    cookie: u64,
    with_attributes: bool,
    uid: Option<u32>,
    limit: usize,
) -> Result<Vec<u8>, Errno> {
    let mut position = folder.position.lock().expect("no panic while held");
    let mut bytes = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut at = cookie;
    loop {
        if *position != at {
            rustix::fs::seek(folder, SeekFrom::Start(at)).map_err(errno)?;
            *position = at;
        }
        let mut batch = RawDir::new(folder, &mut buffer);
        let mut any = false;
        // Until what the kernel has filled the buffer with is used up: one call of it.
        while !any || !batch.is_buffer_empty() {
            let entry = match batch.next() {
                // A folder that was removed has none.
                None | Some(Err(rustix::io::Errno::NOENT)) => break,
                Some(entry) => entry.map_err(errno)?,
            };
            any = true;
            let next = entry.next_entry_cookie();
            if let Some((head, attributes)) = described(folder, &entry, with_attributes, uid) {
                if bytes.len() + usize::from(head.len) > limit {
                    // The kernel is further than the guest: the next request goes back.
                    *position = u64::MAX;
                    return Ok(bytes);
                }
                let end = bytes.len() + usize::from(head.len);
                bytes.extend_from_slice(head.as_bytes());
                bytes.extend_from_slice(attributes.as_ref().map_or(&[], IntoBytes::as_bytes));
                bytes.extend_from_slice(entry.file_name().to_bytes());
                bytes.resize(end, 0);
            }
            (at, *position) = (next, next);
        }
        if !any {
            return Ok(bytes);
        }
    }
}

/// The head of an entry, and its attributes if they are asked for. `None` for the folder itself, its parent, and what is gone by now.
fn described(
    folder: &Node,
    entry: &RawDirEntry<'_>,
    with_attributes: bool,
    uid: Option<u32>,
) -> Option<(ShareEntry, Option<ShareAttributes>)> {
    let name = entry.file_name().to_bytes();
    if matches!(name, b"." | b"..") || name.len() > NAME_MAX {
        return None;
    }
    let unknown = entry.file_type() == FileType::Unknown;
    let known = match with_attributes || unknown {
        true => Some(attributes(folder.as_fd(), entry.file_name(), uid).ok()?),
        false => None,
    };
    let mode = if unknown { known?.mode } else { entry.file_type().as_raw_mode() };
    let attributes = known.filter(|_| with_attributes);
    let len = size_of::<ShareEntry>() + attributes.map_or(0, |_| size_of::<ShareAttributes>()) + name.len();
    let head = ShareEntry {
        cookie: entry.next_entry_cookie(),
        inode: entry.ino(),
        len: len.next_multiple_of(8) as u16,
        name_len: name.len() as u16,
        kind: kind(mode),
    };
    Some((head, attributes))
}
