//! Net devices: Ethernet frames, one ring to send and one to receive.
//!
//! *Transmit* (ring 0): a request names a frame in guest memory, its response
//! gives the memory back. *Receive* (ring 1): a request lends an empty buffer,
//! its response says how much of it a frame filled.

use crate::device::{self, Config};
use crate::{GuestAddr, layout::layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of an Ethernet header; a frame is at most `mtu` plus this.
pub const ETHERNET_HEADER: u32 = 14;

bitflags::bitflags! {
    /// What a net device does for its guest.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NetFeatures: u32 {
        /// IPv4, TCP, UDP and ICMP checksums are neither needed in frames that the
        /// guest sends nor worth checking in those it receives: frames do not
        /// leave the host's memory.
        const CHECKSUM_FREE = 1 << 0;
        /// `address`, `prefix`, `gateway` and `dns` are valid: the guest may use
        /// them without asking DHCP.
        const ADDRESS = 1 << 1;
    }
}

/// Configuration of a net device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetConfig {
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// Most bytes of an IP packet: a frame's payload.
    pub mtu: u16,
    /// [`NetFeatures`] bits.
    pub features: u32,
    /// The guest's IPv4 address, or zero.
    pub address: [u8; 4],
    /// The gateway's IPv4 address, or zero.
    pub gateway: [u8; 4],
    /// The name server's IPv4 address, or zero.
    pub dns: [u8; 4],
    /// Length of the network prefix of `address`, in bits.
    pub prefix: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

layout!(NetConfig: 28 {
    mac @ 0, mtu @ 6, features @ 8, address @ 12, gateway @ 16, dns @ 20, prefix @ 24, reserved @ 25,
});

impl Config for NetConfig {
    const KIND: u32 = device::NET;
}

/// A transmit or receive request: a piece of guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetRequest {
    /// Where the frame or the empty buffer is.
    pub address: GuestAddr,
    /// Its length in bytes.
    pub len: u32,
    /// Comes back in the response.
    pub id: u32,
}

layout!(NetRequest: 16 { address @ 0, len @ 8, id @ 12 });

/// The answer to a [`NetRequest`]. Responses may come in another order than the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetResponse {
    /// The request's `id`.
    pub id: u32,
    /// Bytes of the received frame, 0 for a sent one, or `-errno`.
    pub status: i32,
}

layout!(NetResponse: 8 { id @ 0, status @ 4 });
