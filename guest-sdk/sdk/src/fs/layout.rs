//! Reading files whose place on the disk is known: straight into the reader's buffer.

use super::{Error, Metadata};
use crate::block::Disk;
use alloc::vec;

/// Where the bytes of a file lie.
pub(super) trait Layout {
    /// The bytes from an offset within the file on that lie one after the other.
    fn span(&self, offset: u64) -> Result<Span, Error>;
}

/// Bytes of a file that lie one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Where they start on the disk; `None` for a hole, which is zeroes.
    pub(super) at: Option<u64>,
    /// How many; never none.
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
    /// So many bytes that are zeroes.
    Zeroes(usize),
    /// So many bytes from this sector on, all of whole sectors.
    Sectors(u64, usize),
    /// Some bytes of this sector: so many are skipped, so many wanted.
    Part(u64, usize, usize),
}

impl<L: Layout> Laid<L> {
    pub(super) fn new(disk: Disk, metadata: Metadata, layout: L) -> Self {
        Laid { disk, metadata, layout }
    }

    pub(super) fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// What to read next, for `len` bytes from `offset` on.
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

    /// Fills the buffer, all of which lies within the file.
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

    /// As `read`, without an executor.
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
