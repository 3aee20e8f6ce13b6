//! Key-value stores.

use crate::call::{Call, Open};
use crate::list::{Entry, list};
use crate::{Channel, Error, Link};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use hv_abi::io::services::{self, Operation};

/// Identifies the content of a value: equal values have equal versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(u64);

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its version, for [`Condition::Version`].
    pub version: Version,
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// When a change is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// In any case.
    #[default]
    Always,
    /// If there is no such key.
    Absent,
    /// If the value still has this version.
    Version(Version),
}

impl Condition {
    fn parameters(self) -> (u16, u64) {
        match self {
            Condition::Always => (services::Condition::Always as u16, 0),
            Condition::Absent => (services::Condition::Absent as u16, 0),
            Condition::Version(Version(version)) => (services::Condition::Version as u16, version),
        }
    }
}

/// A store that the function was given: values by their keys, which are text of 1 to 512 bytes.
///
/// A value that was put survives the guest and its host: the operation ends when it is stored for good. What other guests
/// put is seen at once.
pub struct Store<'a, L: Link> {
    channel: &'a Channel<L>,
    name: String,
}

impl<'a, L: Link> Store<'a, L> {
    /// The store of this name. Whether the function was given it shows when it is used.
    pub fn new(channel: &'a Channel<L>, name: &str) -> Self {
        Store { channel, name: name.into() }
    }

    fn call(&self, operation: Operation, open: Open<'_>, finished: bool) -> Result<Call<'a, L>, Error> {
        Call::open(self.channel, operation, Open { name: &self.name, ..open }, finished)
    }

    /// The value of a key; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn get(&self, key: &str) -> Result<Option<Value>, Error> {
        let mut call = self.call(Operation::StoreGet, Open { key, ..Open::default() }, true)?;
        let answer = match call.answer().await {
            Err(Error::NotFound) => return Ok(None),
            answer => answer?,
        };
        let bytes = call.read_to_vec(answer.size).await?;
        Ok(Some(Value { bytes, version: Version(answer.version) }))
    }

    /// Gives a key this value.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn put(&self, key: &str, value: &[u8]) -> Result<Version, Error> {
        self.put_if(key, value, Condition::Always).await
    }

    /// Gives a key this value if the condition holds: nobody can change the value between the look and the change.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the condition does not hold; as well as all other [`Error`]s.
    pub async fn put_if(&self, key: &str, value: &[u8], condition: Condition) -> Result<Version, Error> {
        let (condition, first) = condition.parameters();
        let open = Open { key, condition, first, second: value.len() as u64, ..Open::default() };
        let call = self.call(Operation::StorePut, open, false)?;
        call.write_all(value).await?;
        call.finish();
        let version = Version(call.answer().await?.version);
        call.end().await?;
        Ok(version)
    }

    /// Changes a value as `change` says, which is called again if somebody else has changed it meanwhile. Returns the new value.
    ///
    /// # Errors
    ///
    /// [`Error`]; never [`Error::Conflict`].
    pub async fn update(
        &self,
        key: &str,
        mut change: impl FnMut(Option<&[u8]>) -> Vec<u8>,
    ) -> Result<Vec<u8>, Error> {
        loop {
            let old = self.get(key).await?;
            let new = change(old.as_deref());
            let condition = old.map_or(Condition::Absent, |old| Condition::Version(old.version));
            match self.put_if(key, &new, condition).await {
                Err(Error::Conflict) => {}
                result => return result.map(|_| new),
            }
        }
    }

    /// Removes a key. Returns whether it was there.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn delete(&self, key: &str) -> Result<bool, Error> {
        self.delete_if(key, Condition::Always).await
    }

    /// Removes a key if the condition holds. Returns whether it was there.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the condition does not hold; as well as all other [`Error`]s.
    pub async fn delete_if(&self, key: &str, condition: Condition) -> Result<bool, Error> {
        let (condition, first) = condition.parameters();
        let open = Open { key, condition, first, ..Open::default() };
        let call = self.call(Operation::StoreDelete, open, true)?;
        match call.end().await {
            Err(Error::NotFound) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// All keys that begin with `prefix`, in ascending order.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        self.list_after(prefix, "", usize::MAX).await
    }

    /// At most `most` keys that begin with `prefix` and come after `after`, in ascending order.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn list_after(&self, prefix: &str, after: &str, most: usize) -> Result<Vec<Entry>, Error> {
        list(self.channel, Operation::StoreList, &self.name, prefix, after, most).await
    }
}

impl<L: Link> fmt::Debug for Store<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.name).finish()
    }
}
