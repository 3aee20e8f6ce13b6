//! What every format can do.
#![forbid(unsafe_code)]

use crate::file::ImageFile;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To be read.
    Read,
    /// To be written in place.
    Write,
}

/// Held while bytes of a run are moved: what is freed meanwhile is not used for anything else.
#[derive(Clone, Debug, Default)]
pub struct Guard(#[expect(dead_code, reason = "counted, never looked at")] pub(crate) Option<Arc<()>>);

/// Where the bytes from an offset on are.
#[derive(Clone, Debug)]
pub enum Run {
    /// In one of [`Chain::files`](crate::Chain::files), by its number there.
    Data {
        /// The number of the file.
        file: usize,
        /// Byte offset in it.
        offset: u64,
        /// Bytes, 1 at least.
        len: u64,
        /// To be held until they were moved.
        guard: Guard,
    },
    /// They read as zeroes, so many of them, 1 at least.
    Zeroes(u64),
    /// They are compressed, so many of them, in the file of this number. Only [`Image::map`] says that.
    Packed(usize, u64),
    /// It takes more than to move bytes: [`Image::read`] or [`Image::write`] does it.
    Other,
}

/// The disk that one or more files hold.
///
/// Offsets and lengths are within [`size`](Self::size), or calls fail with `InvalidInput`. All calls may be made by
/// many threads at a time; calls about the same bytes at the same time leave one or the other there.
pub trait Image: Debug + Send + Sync {
    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// Where the bytes are, from memory alone: neither blocks nor asks the host.
    fn find(&self, offset: u64, len: u64, access: Access) -> Run;

    /// Where the bytes are, to be read; never [`Run::Other`].
    ///
    /// # Errors
    ///
    /// If tables cannot be read, or are wrong.
    fn map(&self, offset: u64, len: u64) -> io::Result<Run>;

    /// Fills `bytes`.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, has become shorter, or its tables are wrong.
    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes`. They are safe from a crash of the host once [`flush`](Self::flush) has returned.
    ///
    /// # Errors
    ///
    /// If the image is read-only, the host's disk is full, or tables are wrong.
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes a part read as zeroes, and gives its space back as far as the format can.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    fn zero(&self, offset: u64, len: u64) -> io::Result<()>;

    /// The content of a part is no longer needed. It reads as before or as zeroes.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Brings everything that was written to the host's disk, in an order that leaves the image whole whenever that ends.
    ///
    /// # Errors
    ///
    /// What the host says. After a failed sync nothing is known of what was written before: all further calls fail.
    fn flush(&self) -> io::Result<()>;

    /// Whether all that [`flush`](Self::flush) would do is to sync the first of [its files](crate::Chain::files).
    fn is_clean(&self) -> bool;

    /// Writes what would be lost with this process, and gives freed space back.
    ///
    /// # Errors
    ///
    /// As for [`flush`](Self::flush).
    fn close(&self) -> io::Result<()>;
}

/// Whether a part lies within a disk.
pub(crate) fn within(size: u64, offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// A file that a chain consists of, with its number.
#[derive(Clone, Debug)]
pub(crate) struct Numbered {
    pub(crate) file: Arc<ImageFile>,
    pub(crate) number: usize,
}

impl std::ops::Deref for Numbered {
    type Target = ImageFile;

    fn deref(&self) -> &ImageFile {
        &self.file
    }
}
