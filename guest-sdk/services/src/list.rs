//! Lists of keys.

use crate::call::{Call, Open};
use crate::{Channel, Error, Link};
use alloc::string::String;
use alloc::vec::Vec;
use hv_abi::io::services::{self, Operation};
use zerocopy::FromBytes;

/// Entries that are asked for at once.
const PAGE: u64 = 256;

/// A key of a store, or a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Bytes of its value.
    pub size: u64,
}

/// Up to `most` keys that begin with `prefix` and come after `after`, in ascending order.
pub(crate) async fn list<L: Link>(
    channel: &Channel<L>,
    operation: Operation,
    name: &str,
    prefix: &str,
    after: &str,
    most: usize,
) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::<Entry>::new();
    loop {
        let wanted = ((most - entries.len()) as u64).min(PAGE);
        if wanted == 0 {
            return Ok(entries);
        }
        let after = entries.last().map_or(after, |last| &last.key);
        let open = Open { name, key: prefix, after, first: wanted, ..Open::default() };
        let mut call = Call::open(channel, operation, open, true)?;
        let page = parse(&call.read_to_vec(0).await?).ok_or(Error::Broken)?;
        let count = page.len() as u64;
        entries.extend(page);
        if count < wanted {
            return Ok(entries);
        }
    }
}

/// The entries of a page; `None` if it is none.
fn parse(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (entry, rest) = services::Entry::read_from_prefix(bytes).ok()?;
        let (key, rest) = rest.split_at_checked(entry.key_len as usize)?;
        entries.push(Entry { key: String::from_utf8(key.to_vec()).ok()?, size: entry.size });
        bytes = rest;
    }
    Some(entries)
}
