//! Reads files whose place on the disk is known, directly into the reader's buffer.

use super::{Error, Metadata};
use crate::block::Disk;
use alloc::vec;

/// The place of a file's bytes on the disk.
pub(super) trait Layout {
    /// The contiguous bytes from an offset within the file on.
    fn span(&self, offset: u64) -> Result<Span, Error>;
}

/// Contiguous bytes of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Where they start on the disk; `None` for a hole, which reads as zeroes.
    pub(super) at: Option<u64>,
    /// Their number; never 0.
    pub(super) len: u64,
}

/// An open file.
pub(super) struct Laid<L> {
    disk: Disk,
    metadata: Metadata,
    layout: L,
}

/// A piece of a read.
enum Piece {
    /// This many bytes, which are zeroes.
    Zeroes(usize),
    /// This many bytes from this sector on, in whole sectors.
    Sectors(u64, usize),
    /// A part of this sector: how many bytes are skipped, and how many are wanted.
    Part(u64, usize, usize),
}

impl<L: Layout> Laid<L> {
    pub(super) fn new(disk: Disk, metadata: Metadata, layout: L) -> Self {
        Laid { disk, metadata, layout }
    }

    pub(super) fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// What to read next for `len` bytes from `offset` on.
    fn piece(&self, offset: u64, len: usize) -> Result<Piece, Error> {
        let span = self.layout.span(offset)?;
        let len = usize::try_from(span.len).map_or(len, |there| there.min(len));
        let Some(at) = span.at else { return Ok(Piece::Zeroes(len)) };
        let sector_size = self.disk.sector_size();
        let (sector, skip) = (at / sector_size as u64, (at % sector_size as u64) as usize);
        Ok(if skip == 0 && len >= sector_size {
            Piece::Sectors(sector, len - len % sector_size)
        } else {
            Piece::Part(sector, skip, len.min(sector_size - skip))
        })
    }

    /// Fills the buffer. All of it must be within the file.
    pub(super) async fn read(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            let done = match self.piece(offset, buffer.len())? {
                Piece::Zeroes(len) => {
                    buffer[..len].fill(0);
                    len
                }
                Piece::Sectors(sector, len) => {
                    self.disk.read(sector, &mut buffer[..len]).await?;
                    len
                }
                Piece::Part(sector, skip, len) => {
                    let mut bytes = vec![0; self.disk.sector_size()];
                    self.disk.read(sector, &mut bytes).await?;
                    buffer[..len].copy_from_slice(&bytes[skip..][..len]);
                    len
                }
            };
            offset += done as u64;
            buffer = &mut buffer[done..];
        }
        Ok(())
    }

    /// Like `read`, without an executor.
    pub(super) fn read_blocking(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            let done = match self.piece(offset, buffer.len())? {
                Piece::Zeroes(len) => {
                    buffer[..len].fill(0);
                    len
                }
                Piece::Sectors(sector, len) => {
                    self.disk.read_blocking(sector, &mut buffer[..len])?;
                    len
                }
                Piece::Part(sector, skip, len) => {
                    let mut bytes = vec![0; self.disk.sector_size()];
                    self.disk.read_blocking(sector, &mut bytes)?;
                    buffer[..len].copy_from_slice(&bytes[skip..][..len]);
                    len
                }
            };
            offset += done as u64;
            buffer = &mut buffer[done..];
        }
        Ok(())
    }
}
