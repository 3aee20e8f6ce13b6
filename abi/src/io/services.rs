//! The services device: what a guest without a network reaches through its host (ABI 1.6).
//!
//! Key-value stores, blobs, secrets, and connections to elsewhere are *calls*. A call has a number, which the guest
//! chooses, and a stream of bytes each way. Any number of calls, up to [`CALLS_MAX`], are open at a time.
//!
//! The ring is one of bytes, as that of a [function](super::function). Both directions are streams of *frames*: a
//! [`FrameHeader`], then as many bytes as it says. A frame may be larger than what is published at once.
//!
//! ```text
//! guest → host   Open  Data*  End        Credit*  (Close)
//! host → guest                     Answer  Data*  End      Credit*
//! ```
//!
//! - [`FrameKind::Open`] begins a call: `code` is its [`Operation`], `value` is how many bytes of data the guest takes
//!   before it gives more [`Credit`](FrameKind::Credit); [`Parameters`] follow, then the strings that they describe.
//! - The host takes [`WINDOW`] bytes of data of each call before it gives more credit. Neither side sends data for
//!   which it has no credit, so no call that is not read stops another.
//! - [`FrameKind::Answer`] says that the host has done, or has begun, what was asked; an [`Answer`] follows.
//! - The host's [`FrameKind::End`] is the last frame of a call. Its `code` is a [`Status`]; text for people may follow. A
//!   call that fails has one with another status than [`Status::Ok`], at any time, with or without an answer before it.
//! - The guest's [`FrameKind::End`] says that it sends no more data.
//! - [`FrameKind::Close`] says that the guest wants to hear no more: the host drops the call without a further frame.
//!   Frames that are on their way already name a call that is not open any more, and are skipped, on both sides.
//! - Data of [`Operation::UdpConnect`] are datagrams, one a frame.
//!
//! A guest that breaks these rules ends as crashed. When a request of a function is answered by a fresh guest, all of
//! its calls end with its answer.

use crate::device::{self, Config};
use crate::layout::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most calls of a guest that are open at a time.
pub const CALLS_MAX: usize = 64;

/// Most bytes of one data frame, each way. A call has any number of them.
pub const DATA_MAX: u32 = 16 << 10;

/// Bytes of data of a call that the host takes before it gives credit.
pub const WINDOW: u32 = 32 << 10;

/// Most bytes of [`Parameters`] with their strings.
pub const OPEN_MAX: u32 = 2048;

/// Most bytes of the text of an [`FrameKind::End`] of the host.
pub const TEXT_MAX: u32 = 256;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FrameKind {
    /// Guest to host: begins a call.
    Open = 1,
    /// Host to guest: what was asked is done, or has begun.
    Answer = 2,
    /// Some data: 1 to [`DATA_MAX`] bytes; a datagram may be empty.
    Data = 3,
    /// There is no more data.
    End = 4,
    /// `value` more bytes of data are taken. No bytes follow.
    Credit = 5,
    /// Guest to host: the call is of no interest any more. No bytes follow.
    Close = 6,
}

impl FrameKind {
    /// The kind with this number.
    pub const fn from_number(number: u16) -> Option<FrameKind> {
        Some(match number {
            1 => FrameKind::Open,
            2 => FrameKind::Answer,
            3 => FrameKind::Data,
            4 => FrameKind::End,
            5 => FrameKind::Credit,
            6 => FrameKind::Close,
            _ => return None,
        })
    }

    /// Whether a frame of this kind may have this many bytes, from the guest.
    pub const fn allows_from_guest(self, len: u32) -> bool {
        match self {
            FrameKind::Open => len >= PARAMETERS && len <= OPEN_MAX,
            FrameKind::Data => len <= DATA_MAX,
            FrameKind::End | FrameKind::Credit | FrameKind::Close => len == 0,
            FrameKind::Answer => false,
        }
    }

    /// Whether a frame of this kind may have this many bytes, from the host.
    pub const fn allows_from_host(self, len: u32) -> bool {
        match self {
            FrameKind::Answer => len as usize == size_of::<Answer>(),
            FrameKind::Data => len <= DATA_MAX,
            FrameKind::End => len <= TEXT_MAX,
            FrameKind::Credit => len == 0,
            FrameKind::Open | FrameKind::Close => false,
        }
    }
}

const PARAMETERS: u32 = size_of::<Parameters>() as u32;

/// Stands before the bytes of every frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FrameHeader {
    /// A [`FrameKind`].
    pub kind: u16,
    /// Of an `Open`: an [`Operation`]. Of an `End`: a [`Status`], from the guest zero. Else zero.
    pub code: u16,
    /// The call.
    pub call: u32,
    /// Bytes that follow.
    pub len: u32,
    /// Of an `Open` and a `Credit`: how many bytes of data are taken. Else zero.
    pub value: u32,
}

layout!(FrameHeader: 16 { kind @ 0, code @ 2, call @ 4, len @ 8, value @ 12 });

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Operation {
    /// The value of `key` in the store `name`. The answer has its version and size; its data are the value.
    StoreGet = 1,
    /// Makes the data, `second` bytes of them, the value of `key`, if the [`Condition`] holds. Has an answer with the new version.
    StorePut = 2,
    /// Removes `key`, if the condition holds.
    StoreDelete = 3,
    /// The keys that begin with `key` and come after `after`, at most `first` of them, in ascending order. The data are [`Entry`]s, each followed by its key.
    StoreList = 4,
    /// `second` bytes of the blob `key`, from `first` on. The answer has the size of all of it.
    BlobGet = 5,
    /// Makes the data, `second` bytes of them, the blob `key`.
    BlobPut = 6,
    /// Removes the blob `key`.
    BlobDelete = 7,
    /// As [`StoreList`](Operation::StoreList), of blobs.
    BlobList = 8,
    /// The secret `key`, as data.
    Secret = 9,
    /// A TCP connection to port `first` of `name`, a host name or an address. The answer says that it is there.
    TcpConnect = 10,
    /// A UDP socket that sends to port `first` of `name`, and receives what comes from there.
    UdpConnect = 11,
}

impl Operation {
    /// The operation with this number.
    pub const fn from_number(number: u16) -> Option<Operation> {
        Some(match number {
            1 => Operation::StoreGet,
            2 => Operation::StorePut,
            3 => Operation::StoreDelete,
            4 => Operation::StoreList,
            5 => Operation::BlobGet,
            6 => Operation::BlobPut,
            7 => Operation::BlobDelete,
            8 => Operation::BlobList,
            9 => Operation::Secret,
            10 => Operation::TcpConnect,
            11 => Operation::UdpConnect,
            _ => return None,
        })
    }
}

/// When a change of a store is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Condition {
    /// Always.
    Always = 0,
    /// If there is no such key.
    Absent = 1,
    /// If the value has the version `first`.
    Version = 2,
}

impl Condition {
    /// The condition with this number.
    pub const fn from_number(number: u16) -> Option<Condition> {
        Some(match number {
            0 => Condition::Always,
            1 => Condition::Absent,
            2 => Condition::Version,
            _ => return None,
        })
    }
}

/// What an operation is asked for. Behind it stand the strings, in this order: name, key, after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Parameters {
    /// Bytes of the name: that of a binding, or of a host.
    pub name_len: u16,
    /// Bytes of the key.
    pub key_len: u16,
    /// Bytes of the key after which a list begins.
    pub after_len: u16,
    /// A [`Condition`].
    pub condition: u16,
    /// See [`Operation`].
    pub first: u64,
    /// See [`Operation`].
    pub second: u64,
}

layout!(Parameters: 24 {
    name_len @ 0, key_len @ 2, after_len @ 4, condition @ 6, first @ 8, second @ 16
});

/// What the host knows of what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Answer {
    /// The version of a value; else zero. Equal values have equal versions.
    pub version: u64,
    /// Bytes of a value, or of all of a blob; else zero.
    pub size: u64,
}

layout!(Answer: 16 { version @ 0, size @ 8 });

/// Stands before each key of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entry {
    /// Bytes of the value, or of the blob.
    pub size: u64,
    /// Bytes of the key.
    pub key_len: u32,
    /// Zero.
    pub reserved: u32,
}

layout!(Entry: 16 { size @ 0, key_len @ 8, reserved @ 12 });

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Status {
    /// All is well.
    Ok = 0,
    /// There is no such key, blob or secret.
    NotFound = 1,
    /// The condition of a change does not hold.
    Conflict = 2,
    /// The guest was given nothing of this name, or may not go there.
    Denied = 3,
    /// A parameter has a value that is never valid.
    Invalid = 4,
    /// More bytes than allowed.
    TooLarge = 5,
    /// More operations, connections or bytes than allowed; trying later may help.
    Limited = 6,
    /// What is behind it does not answer.
    Unreachable = 7,
    /// What is behind it has failed.
    Failed = 8,
    /// There is no request that this could be for: not before the first one.
    NoRequest = 9,
}

impl Status {
    /// The status with this number.
    pub const fn from_number(number: u16) -> Option<Status> {
        Some(match number {
            0 => Status::Ok,
            1 => Status::NotFound,
            2 => Status::Conflict,
            3 => Status::Denied,
            4 => Status::Invalid,
            5 => Status::TooLarge,
            6 => Status::Limited,
            7 => Status::Unreachable,
            8 => Status::Failed,
            9 => Status::NoRequest,
            _ => return None,
        })
    }
}

/// Configuration of a services device.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServicesConfig {
    /// Zero.
    pub reserved: u64,
}

layout!(ServicesConfig: 8 { reserved @ 0 });

impl Config for ServicesConfig {
    const KIND: u32 = device::SERVICES;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_each_others() {
        for number in 0..=u16::MAX {
            assert!(FrameKind::from_number(number).is_none_or(|kind| kind as u16 == number));
            assert!(Operation::from_number(number).is_none_or(|operation| operation as u16 == number));
            assert!(Status::from_number(number).is_none_or(|status| status as u16 == number));
            assert!(Condition::from_number(number).is_none_or(|condition| condition as u16 == number));
        }
    }

    #[test]
    fn frames_have_the_lengths_and_directions_of_their_kinds() {
        assert!(FrameKind::Open.allows_from_guest(24) && !FrameKind::Open.allows_from_guest(23));
        assert!(!FrameKind::Open.allows_from_guest(OPEN_MAX + 1) && !FrameKind::Open.allows_from_host(24));
        assert!(!FrameKind::Answer.allows_from_guest(16) && FrameKind::Answer.allows_from_host(16));
        assert!(FrameKind::Data.allows_from_guest(DATA_MAX) && !FrameKind::Data.allows_from_guest(u32::MAX));
        assert!(FrameKind::End.allows_from_host(TEXT_MAX) && !FrameKind::End.allows_from_guest(1));
        assert!(FrameKind::Close.allows_from_guest(0) && !FrameKind::Close.allows_from_host(0));
        assert!(FrameKind::Credit.allows_from_guest(0) && !FrameKind::Credit.allows_from_host(1));
    }
}
