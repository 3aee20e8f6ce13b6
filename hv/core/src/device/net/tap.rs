//! ⚠ `--net tap=NAME`: an existing tap device of the host.
//!
//! The one `unsafe` here is the ioctl that attaches to the device.
#![allow(unsafe_code, reason = "the ioctl that attaches to a tap device")]

use super::Network;
use crate::reactor::Registrar;
use hv_abi::io::net::{ETHERNET_HEADER, NetConfig};
use hv_host::escape::escape;
use mio::Interest;
use mio::unix::SourceFd;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

/// Largest MTU that a frame's length field can carry.
const MAX_MTU: u32 = u16::MAX as u32;
/// `IFF_TAP` in `/sys/class/net/NAME/tun_flags`.
const TAP_FLAG: u32 = libc::IFF_TAP as u32;

/// Why a tap device could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// The name cannot be one of a network interface.
    #[error("--net tap={}: a device name has 1 to 15 characters and no '/', '.' or '..'", escape(name))]
    Name {
        /// As given.
        name: String,
    },
    /// No such interface. It is not created: that is the administrator's decision.
    #[error(
        "--net tap={name}: the host has no such device; create it with: ip tuntap add dev {name} mode tap user $USER"
    )]
    Missing {
        /// As given.
        name: String,
    },
    /// An interface of another kind.
    #[error(
        "--net tap={name}: that device is not a tap device; name one made with: ip tuntap add … mode tap"
    )]
    NotTap {
        /// As given.
        name: String,
    },
    /// No right to it.
    #[error(
        "--net tap={name}: no permission; give the device to this user (ip tuntap add dev {name} mode tap user $USER) and make /dev/net/tun writable"
    )]
    NotAllowed {
        /// As given.
        name: String,
    },
    /// Another program is attached.
    #[error(
        "--net tap={name}: another program is attached to the device; end it or use a tap device of its own"
    )]
    Busy {
        /// As given.
        name: String,
    },
    /// The kernel has no tun driver.
    #[error("--net tap={}: the host has no /dev/net/tun; load the driver with: modprobe tun", escape(name))]
    NoDriver {
        /// As given.
        name: String,
    },
    /// Anything else.
    #[error("--net tap={}: {what} failed: {source}", escape(name))]
    Other {
        /// As given.
        name: String,
        /// What was being done.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// A tap device as a [`Network`].
///
/// Frames are the guest's own: with real checksums, and addresses from
/// whatever DHCP server the network has. Frames for a guest that has lent no
/// buffer stay in the kernel's queue; frames that the kernel does not take are dropped.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    config: NetConfig,
    /// A frame from the device, and how much of the buffer it fills (0: none).
    buffer: Box<[u8]>,
    held: usize,
    readable: bool,
}

impl Tap {
    /// Attaches to the tap device `name`, for a guest with this hardware address.
    ///
    /// # Errors
    ///
    /// If there is no tap device of this name, if this user may not attach to it, or another program has; if the host has no tun driver.
    pub fn open(name: &str, mac: [u8; 6]) -> Result<Self, TapError> {
        let named = || name.to_owned();
        let plain = !matches!(name, "" | "." | "..") && name.len() < libc::IFNAMSIZ;
        if !plain || name.contains(|c: char| c == '/' || c == '%' || c == '\0' || c.is_whitespace()) {
            return Err(TapError::Name { name: named() });
        }
        let sys = Path::new("/sys/class/net").join(name);
        if !sys.exists() {
            return Err(TapError::Missing { name: named() });
        }
        // Only tun and tap devices have this file. Attaching to an unused name would create a device.
        let flags = fs::read_to_string(sys.join("tun_flags")).unwrap_or_default();
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
        if flags & TAP_FLAG == 0 {
            return Err(TapError::NotTap { name: named() });
        }
        let fail = |what| {
            move |source: io::Error| match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => TapError::NotAllowed { name: named() },
                Some(libc::EBUSY) => TapError::Busy { name: named() },
                Some(libc::EINVAL) => TapError::NotTap { name: named() },
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoDriver { name: named() },
                _ => TapError::Other { name: named(), what, source },
            }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(fail("opening /dev/net/tun"))?;
        attach(&file, name).map_err(fail("attaching"))?;
        let mtu = fs::read_to_string(sys.join("mtu")).map_err(fail("reading its MTU"))?;
        let mtu = mtu.trim().parse::<u32>().unwrap_or(1500).clamp(576, MAX_MTU);
        Ok(Tap {
            file,
            name: named(),
            config: NetConfig { mac, mtu: mtu as u16, ..NetConfig::default() },
            buffer: vec![0; (mtu + ETHERNET_HEADER) as usize].into(),
            held: 0,
            readable: true,
        })
    }
}

/// Makes a fresh descriptor of `/dev/net/tun` the other end of the tap device `name`.
fn attach(file: &File, name: &str) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `ifreq`: it holds only integers,
    // addresses and pointers that the kernel does not follow for this request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is, and
    // keeps no pointer to it; the descriptor is open as long as `file`.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Network for Tap {
    fn config(&self) -> NetConfig {
        self.config
    }

    fn start(&mut self, io: Registrar) -> io::Result<()> {
        io.register(&mut SourceFd(&self.file.as_raw_fd()), 0, Interest::READABLE)
    }

    fn send(&mut self, frame: &[u8], _now: Instant) {
        // A full queue or an interface that is down loses frames, as a wire would.
        if let Err(error) = (&self.file).write(frame) {
            tracing::trace!("tap {}: frame dropped: {error}", self.name);
        }
    }

    fn ready(&mut self, _key: u32, _event: &mio::event::Event) {
        self.readable = true;
    }

    fn poll(&mut self, _now: Instant) -> Option<Instant> {
        None
    }

    fn receive(&mut self, deliver: &mut dyn FnMut(&[u8]) -> bool) {
        loop {
            if self.held > 0 {
                if !deliver(&self.buffer[..self.held]) {
                    return;
                }
                self.held = 0;
            }
            if !self.readable {
                return;
            }
            match (&self.file).read(&mut self.buffer) {
                Ok(len) => self.held = len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing there, or the interface is down (EIO) or gone: the
                // descriptor reports when that changes.
                Err(_) => self.readable = false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_are_not_taps_are_refused_with_the_reason() {
        let message = |name: &str| Tap::open(name, [2, 0, 0, 0, 0, 1]).unwrap_err().to_string();
        assert!(message("").contains("1 to 15 characters"));
        assert!(message("a/b").contains("1 to 15 characters"));
        assert!(message("..").contains("1 to 15 characters"));
        assert!(message("tap%d").contains("1 to 15 characters"));
        assert!(message("sixteencharslong").contains("1 to 15 characters"));
        assert!(message("hv-none").contains("ip tuntap add dev hv-none mode tap"));
        assert!(message("lo").contains("not a tap device"));
        assert!(!Path::new("/sys/class/net/hv-none").exists(), "a device was created");
    }
}
