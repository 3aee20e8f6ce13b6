//! Frames to a file: `--pcap FILE`, classic pcap with Ethernet frames and microseconds.

use hv_host::escape::escape;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, Endianness};
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, IpAddress, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket,
};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Most bytes of a frame that are kept: what tcpdump writes and every reader takes.
const SNAPLEN: u32 = 256 << 10;

/// Why a capture file could not be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write the capture file {}: {source}; give --pcap a path in a folder that you may write",
    escape(path)
)]
pub struct PacketCaptureError {
    path: PathBuf,
    source: io::Error,
}

/// The file, shared with the writer of frames so that it can be flushed:
/// `PcapWriter` does not return its writer.
#[derive(Clone)]
struct SharedWriter(Arc<Mutex<BufWriter<Box<dyn Write + Send>>>>);

impl SharedWriter {
    fn lock(&self) -> MutexGuard<'_, BufWriter<Box<dyn Write + Send>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for SharedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }
}

/// A capture of both directions of a net device.
///
/// A file that cannot be written any more (a full disk) ends the capture, not
/// the guest; it is logged once.
pub struct Capture {
    /// `None` after an error.
    writer: Option<PcapWriter<SharedWriter>>,
    out: SharedWriter,
    fill_checksums: bool,
    scratch: Vec<u8>,
    unflushed: bool,
}

impl Capture {
    /// Creates (or overwrites) the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be created.
    pub fn create(path: &Path) -> Result<Self, PacketCaptureError> {
        let wrap = |source| PacketCaptureError { path: path.to_owned(), source };
        let file = File::create(path).map_err(wrap)?;
        Capture::new(Box::new(file)).map_err(wrap)
    }

    /// A capture into anything, for example memory.
    ///
    /// # Errors
    ///
    /// If the header of the capture cannot be written.
    pub fn new(out: Box<dyn Write + Send>) -> io::Result<Self> {
        let out = SharedWriter(Arc::new(Mutex::new(BufWriter::new(out))));
        let header = PcapHeader {
            snaplen: SNAPLEN,
            datalink: DataLink::ETHERNET,
            endianness: Endianness::native(),
            ..PcapHeader::default()
        };
        let writer = PcapWriter::with_header(out.clone(), header).map_err(io::Error::other)?;
        let mut capture = Capture {
            writer: Some(writer),
            out,
            fill_checksums: false,
            scratch: Vec::new(),
            unflushed: true,
        };
        capture.flush();
        Ok(capture)
    }

    /// Computes the checksums of frames before writing them: for networks
    /// whose frames do without, so that readers do not mark every packet.
    pub fn fill_checksums(&mut self, fill: bool) {
        self.fill_checksums = fill;
    }

    /// Writes a frame, with the present time.
    pub fn frame(&mut self, frame: &[u8]) {
        let Some(writer) = &mut self.writer else { return };
        let data = if self.fill_checksums {
            self.scratch.clear();
            self.scratch.extend_from_slice(frame);
            fill_checksums(&mut self.scratch);
            &self.scratch
        } else {
            frame
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let result = writer.write_packet(&PcapPacket::new(now, data.len() as u32, data));
        self.unflushed = true;
        if let Err(error) = result {
            self.stop(&error);
        }
    }

    /// Writes everything out, so that a reader can follow the file.
    pub fn flush(&mut self) {
        if self.writer.is_some()
            && std::mem::take(&mut self.unflushed)
            && let Err(error) = self.out.flush()
        {
            self.stop(&error);
        }
    }

    fn stop(&mut self, error: &dyn std::fmt::Display) {
        tracing::warn!("the packet capture stops: {error}");
        self.writer = None;
    }
}

/// Fills in the checksums of an Ethernet frame with an IPv4 packet; leaves anything else alone.
fn fill_checksums(frame: &mut [u8]) {
    let Ok(mut frame) = EthernetFrame::new_checked(frame) else { return };
    if frame.ethertype() != EthernetProtocol::Ipv4 {
        return;
    }
    let Ok(mut packet) = Ipv4Packet::new_checked(frame.payload_mut()) else { return };
    if packet.version() != 4 {
        return;
    }
    packet.fill_checksum();
    let (from, to) = (IpAddress::Ipv4(packet.src_addr()), IpAddress::Ipv4(packet.dst_addr()));
    if packet.more_frags() || packet.frag_offset() != 0 {
        return;
    }
    match packet.next_header() {
        IpProtocol::Tcp => {
            if let Ok(mut segment) = TcpPacket::new_checked(packet.payload_mut()) {
                segment.fill_checksum(&from, &to);
            }
        }
        IpProtocol::Udp => {
            if let Ok(mut datagram) = UdpPacket::new_checked(packet.payload_mut()) {
                datagram.fill_checksum(&from, &to);
            }
        }
        IpProtocol::Icmp => {
            if let Ok(mut message) = Icmpv4Packet::new_checked(packet.payload_mut()) {
                message.fill_checksum();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcap::PcapReader;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Ipv4Repr, UdpRepr};
    use std::net::Ipv4Addr;

    /// A datagram without checksums.
    fn datagram() -> Vec<u8> {
        let (from, to) = (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 2));
        let ip = Ipv4Repr {
            src_addr: from,
            dst_addr: to,
            next_header: IpProtocol::Udp,
            payload_len: 13,
            hop_limit: 64,
        };
        let udp = UdpRepr { src_port: 1, dst_port: 2 };
        let none = ChecksumCapabilities::ignored();
        let mut bytes = vec![0; 14 + 33];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        frame.set_ethertype(EthernetProtocol::Ipv4);
        ip.emit(&mut Ipv4Packet::new_unchecked(frame.payload_mut()), &none);
        let mut packet = UdpPacket::new_unchecked(&mut frame.payload_mut()[20..]);
        udp.emit(&mut packet, &from.into(), &to.into(), 5, |b| b.copy_from_slice(b"hello"), &none);
        bytes
    }

    #[test]
    fn the_file_is_read_back_with_valid_checksums() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest.pcap");
        let mut capture = Capture::create(&path).unwrap();
        capture.fill_checksums(true);
        for frame in [&datagram()[..], b"too short", &datagram()] {
            capture.frame(frame);
        }
        capture.flush();
        let mut reader = PcapReader::new(File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.header().datalink, DataLink::ETHERNET);
        let mut frames = Vec::new();
        while let Some(packet) = reader.next_packet() {
            let packet = packet.unwrap();
            assert!(packet.timestamp.as_secs() > 1_000_000_000);
            assert_eq!(packet.orig_len as usize, packet.data.len());
            frames.push(packet.data.to_vec());
        }
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[1], b"too short");
        let frame = EthernetFrame::new_checked(&frames[2][..]).unwrap();
        let ip = Ipv4Packet::new_checked(frame.payload()).unwrap();
        assert!(ip.verify_checksum());
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        assert_ne!(udp.checksum(), 0);
        assert_eq!(udp.payload(), b"hello");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let error = Capture::create(Path::new("/nonexistent/x.pcap")).err().unwrap().to_string();
        assert!(error.contains("/nonexistent/x.pcap"), "{error}");
        // One that fails later only ends the capture.
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut capture = Capture::new(Box::new(Full)).unwrap();
        capture.frame(&[0; 60]);
        capture.flush();
    }
}
