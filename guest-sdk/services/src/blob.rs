//! Blobs: bytes of any size by their keys, read and written as streams.

use crate::call::{Call, Open};
use crate::list::{Entry, list};
use crate::{Channel, Error, Link};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::ops::{Bound, RangeBounds};
use embedded_io_async::{ErrorType, Read, Write};
use hv_abi::io::services::Operation;

/// Blobs that the function was given. Keys are text of 1 to 512 bytes.
pub struct Blobs<'a, L: Link> {
    channel: &'a Channel<L>,
    name: String,
}

impl<'a, L: Link> Blobs<'a, L> {
    /// The blobs of this name. Whether the function was given them shows when they are used.
    pub fn new(channel: &'a Channel<L>, name: &str) -> Self {
        Blobs { channel, name: name.into() }
    }

    fn call(&self, operation: Operation, open: Open<'_>, finished: bool) -> Result<Call<'a, L>, Error> {
        Call::open(self.channel, operation, Open { name: &self.name, ..open }, finished)
    }

    /// Begins to read a blob.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], and all other [`Error`]s.
    pub async fn read(&self, key: &str) -> Result<Reader<'a, L>, Error> {
        self.read_range(key, ..).await
    }

    /// Begins to read a range of a blob. What of it lies behind the blob's end is left out.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], and all other [`Error`]s.
    pub async fn read_range(&self, key: &str, range: impl RangeBounds<u64>) -> Result<Reader<'a, L>, Error> {
        let first = match range.start_bound() {
            Bound::Included(first) => *first,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let open = Open { key, first, second: end.saturating_sub(first), ..Open::default() };
        let call = self.call(Operation::BlobGet, open, true)?;
        let size = call.answer().await?.size;
        Ok(Reader { call, size })
    }

    /// A blob as a whole; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.read(key).await {
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
            Ok(mut reader) => {
                let size = reader.size;
                reader.call.read_to_vec(size).await.map(Some)
            }
        }
    }

    /// Begins to write a blob of `size` bytes. It takes the place of one that is there when [`Writer::finish`] has ended, and not before.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn write(&self, key: &str, size: u64) -> Result<Writer<'a, L>, Error> {
        let open = Open { key, second: size, ..Open::default() };
        Ok(Writer { call: self.call(Operation::BlobPut, open, false)? })
    }

    /// Writes a blob whose bytes are there.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn put(&self, key: &str, bytes: &[u8]) -> Result<(), Error> {
        let writer = self.write(key, bytes.len() as u64)?;
        writer.call.write_all(bytes).await?;
        writer.finish().await
    }

    /// Removes a blob. Returns whether it was there.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn delete(&self, key: &str) -> Result<bool, Error> {
        let call = self.call(Operation::BlobDelete, Open { key, ..Open::default() }, true)?;
        match call.end().await {
            Err(Error::NotFound) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// All blobs whose keys begin with `prefix`, in ascending order of their keys.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        self.list_after(prefix, "", usize::MAX).await
    }

    /// At most `most` blobs whose keys begin with `prefix` and come after `after`, in ascending order.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn list_after(&self, prefix: &str, after: &str, most: usize) -> Result<Vec<Entry>, Error> {
        list(self.channel, Operation::BlobList, &self.name, prefix, after, most).await
    }
}

impl<L: Link> fmt::Debug for Blobs<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Blobs").field(&self.name).finish()
    }
}

/// A blob that is read.
pub struct Reader<'a, L: Link> {
    call: Call<'a, L>,
    size: u64,
}

impl<L: Link> Reader<'_, L> {
    /// Bytes of the whole blob, whatever is read of it.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl<L: Link> ErrorType for Reader<'_, L> {
    type Error = Error;
}

impl<L: Link> Read for Reader<'_, L> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        self.call.read(bytes).await
    }
}

impl<L: Link> fmt::Debug for Reader<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("size", &self.size).finish_non_exhaustive()
    }
}

/// A blob that is written. One that is dropped is not written.
pub struct Writer<'a, L: Link> {
    call: Call<'a, L>,
}

impl<L: Link> Writer<'_, L> {
    /// Ends when the blob is stored for good.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if other than the announced number of bytes were written; and all other [`Error`]s.
    pub async fn finish(self) -> Result<(), Error> {
        self.call.finish();
        self.call.end().await
    }
}

impl<L: Link> ErrorType for Writer<'_, L> {
    type Error = Error;
}

impl<L: Link> Write for Writer<'_, L> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        if bytes.is_empty() {
            return Ok(0);
        }
        poll_fn(|context| self.call.poll_write(context, bytes, false)).await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl<L: Link> fmt::Debug for Writer<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}
