//! Changes of an image that no guest has: its size, its backing file, compressed clusters, and what is its own.
#![forbid(unsafe_code)]

use super::Qcow2;
use super::entry::{Content, Entry};
use super::header::Header;
use super::map::Own;
use super::packed::pack;
use super::refcounts::corrupt;
use crate::format::Format;
use crate::image::Access;
use std::io::{self, ErrorKind};

/// What an image itself says of a run, whatever is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// It has the data, compressed or not.
    Data,
    /// It says that there are zeroes.
    Zeroes,
    /// It says nothing: what is behind it is seen.
    Behind,
}

impl Qcow2 {
    /// What the image itself has at an offset, and for how many of the next `len` bytes that is so.
    ///
    /// # Errors
    ///
    /// If a table cannot be read, or is wrong.
    pub fn layer(&self, offset: u64, len: u64) -> io::Result<(Layer, u64)> {
        crate::image::within(self.header.size, offset, len)?;
        Ok(match self.own_known(offset, len, Access::Read)?.0 {
            Own::Data(_, len) | Own::Packed(_, _, len) => (Layer::Data, len),
            Own::Zeroes(len) => (Layer::Zeroes, len),
            Own::Backing(len) => (Layer::Behind, len),
            Own::Unplaced(_) | Own::Missing(_) | Own::Invalid => unreachable!("of reads that are known"),
        })
    }

    /// Forgets all that the image itself has: what is behind it is seen everywhere.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn make_empty(&self) -> io::Result<()> {
        self.check_writable(0, 0)?;
        for cluster in 0..self.header.size.div_ceil(self.header.cluster_size()) {
            if self.entry(cluster)? != Entry::default() {
                self.replace(cluster, Entry::default())?;
            }
            self.relieve()?;
        }
        self.commit()?;
        self.finish()
    }

    /// Writes a whole cluster compressed, if it becomes smaller; returns whether it did. Of a cluster that has no place yet.
    ///
    /// # Errors
    ///
    /// As for [`write`](crate::Image::write).
    pub fn write_packed(&self, cluster: u64, bytes: &[u8]) -> io::Result<bool> {
        self.check_writable(self.start_of(cluster), 0)?;
        if self.data.is_some() || self.entry(cluster)?.content(0, &self.header) != Content::Backing {
            return Ok(false);
        }
        let Some(packed) = pack(self.header.compression, bytes) else { return Ok(false) };
        let place = self.place_packed(packed.len() as u64)?;
        self.file.write(&packed, place)?;
        self.replace(cluster, Entry::packed(place, packed.len() as u64, &self.header))?;
        Ok(true)
    }

    /// A place for some bytes, behind those that were placed last if the refcount of that cluster has room.
    fn place_packed(&self, len: u64) -> io::Result<u64> {
        let size = self.header.cluster_size();
        let mut next = self.next_packed.lock().expect("no panic while held");
        let mut refcounts = self.refcounts();
        if !next.is_multiple_of(size) {
            let shared = refcounts.add(&self.file, self.cluster_of(*next), 1);
            if shared.is_ok() {
                let place = *next;
                if place % size + len <= size {
                    *next = place + len;
                    return Ok(place);
                }
                let (cluster, _) = refcounts.allocate(&self.file, 1, 1)?;
                if self.start_of(cluster) == place.next_multiple_of(size) {
                    *next = place + len;
                    return Ok(place);
                }
                refcounts.add(&self.file, self.cluster_of(place), -1)?;
                *next = self.start_of(cluster) + len;
                return Ok(self.start_of(cluster));
            }
        }
        let (cluster, _) = refcounts.allocate(&self.file, 1, 1)?;
        *next = self.start_of(cluster) + len;
        Ok(self.start_of(cluster))
    }

    /// Writes the header again, with other names. Offsets and sizes of tables stay as they are in the file.
    fn write_header(&self, header: &Header) -> io::Result<()> {
        let bytes = header.encode().map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
        let mut first = vec![0; self.header.cluster_size() as usize];
        first[..bytes.len()].copy_from_slice(&bytes);
        self.commit()?;
        self.file.write(&first, 0)?;
        self.file.sync()
    }

    /// The header as it is in the file now.
    fn current_header(&self) -> io::Result<Header> {
        Qcow2::read_header(&self.file).map_err(|error| corrupt(&error.to_string()))
    }

    /// Names another backing file, or none, whatever is in it. The image is to be opened again to see it.
    ///
    /// # Errors
    ///
    /// If the name does not fit into the header, or the file cannot be written.
    pub fn set_backing(&self, backing: Option<(&[u8], Format)>) -> io::Result<()> {
        self.check_writable(0, 0)?;
        self.commit()?;
        let mut header = self.current_header()?;
        header.backing = backing.map(|(name, _)| name.to_vec());
        header.backing_format = backing.map(|(_, format)| format.name().into());
        self.write_header(&header)
    }

    /// Makes the disk larger or smaller. The image is to be opened again to see it.
    ///
    /// # Errors
    ///
    /// If the size is no multiple of 512 or beyond all limits, the image has internal snapshots, or the file cannot be written.
    pub fn resize(&self, size: u64) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(ErrorKind::InvalidInput, what.to_owned());
        self.check_writable(0, 0)?;
        if !size.is_multiple_of(512) {
            return Err(invalid("the size is no multiple of 512"));
        }
        if self.header.snapshots > 0 {
            return Err(invalid("it has internal snapshots, which have the old size; delete them first"));
        }
        let entries = self.header.l1_entries_for(size);
        let entries = entries.ok_or_else(|| invalid("more than clusters of this size can map"))?;
        if size < self.header.size {
            let first = size.div_ceil(self.header.cluster_size());
            for cluster in first..self.header.size.div_ceil(self.header.cluster_size()) {
                if self.entry(cluster)? != Entry::default() {
                    self.replace(cluster, Entry::default())?;
                }
            }
        } else if self.backing.is_some() {
            // What the backing file has there must not be seen.
            let behind = self.backing.as_ref().map_or(0, |backing| backing.size());
            if behind > self.header.size {
                return Err(invalid("its backing file is larger, and would be seen; rebase it first"));
            }
        }
        self.commit()?;
        if entries > self.header.l1_entries.into() {
            self.move_l1(entries)?;
        }
        if let Some(data) = &self.data {
            data.shared().set_len(size)?;
        }
        self.file.write(&size.to_be_bytes(), 24)?;
        self.file.sync()?;
        self.finish()
    }

    /// A longer L1 table, in another place.
    fn move_l1(&self, entries: u64) -> io::Result<()> {
        let size = self.header.cluster_size();
        let clusters = (entries * 8).div_ceil(size);
        let mut l1 = self.active().tables.l1.clone();
        l1.resize(entries as usize, 0);
        let bytes: Vec<u8> = l1.iter().flat_map(|word| word.to_be_bytes()).collect();
        let place = {
            let mut refcounts = self.refcounts();
            let (first, _) = refcounts.allocate(&self.file, clusters, clusters)?;
            self.file.write(&bytes, self.start_of(first))?;
            // Up to the end of its last cluster.
            self.file.write(
                &vec![0; (clusters * size) as usize - bytes.len()],
                self.start_of(first) + bytes.len() as u64,
            )?;
            refcounts.write_out(&self.file)?;
            self.start_of(first)
        };
        self.file.sync()?;
        let mut fields = [0; 12];
        fields[..4].copy_from_slice(&(entries as u32).to_be_bytes());
        fields[4..].copy_from_slice(&place.to_be_bytes());
        self.file.write(&fields, 36)?;
        self.file.sync()?;
        let old = self.cluster_of(self.header.l1_offset);
        let count = (u64::from(self.header.l1_entries) * 8).div_ceil(size).max(1);
        let mut refcounts = self.refcounts();
        for cluster in old..old + count {
            if refcounts.get(&self.file, cluster)? > 0 {
                refcounts.add(&self.file, cluster, -1)?;
            }
        }
        refcounts.write_out(&self.file)
    }
}
