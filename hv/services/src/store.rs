//! Stores: values by their keys.

use crate::binding::{OpenError, folder};
use crate::files::Files;
use crate::folder::Folder;
use crate::list::Page;
use crate::names::Names;
use crate::rate::Rate;
use crate::redis_store::RedisStore;
use crate::refusal::Refusal;
use crate::spec::{Limits, StorePlace, StoreSpec};
use hv_abi::io::services::{Answer, Operation, Status};
use hv_core::device::services::{Call, ServiceRequest};
use sha1::{Digest, Sha1};
use std::sync::Arc;
use std::time::Instant;

/// Longest key.
const KEY: usize = 512;

/// The version of a value: the first 8 bytes of its SHA-1, which a service of the Redis kind can compute as well. It tells whether a
/// value is still the same, to guests that trust each other with the store; it is no protection against forged values.
pub(crate) fn version(value: &[u8]) -> u64 {
    let digest = Sha1::digest(value);
    digest.iter().take(8).fold(0, |version, byte| version << 8 | u64::from(*byte))
}

/// A store, for all functions that were given it.
pub(crate) struct Store {
    place: Place,
    files: Files,
    limits: Limits,
    rate: Rate,
}

enum Place {
    Folder(Arc<Folder>),
    Redis(Box<RedisStore>),
}

/// Whether this can be the key of a value.
pub(crate) fn is_key(key: &str) -> bool {
    (1..=KEY).contains(&key.len())
}

/// Whether an operation of a binding may begin.
pub(crate) fn admit(request: &ServiceRequest, limits: &Limits, rate: &Rate) -> Result<(), Refusal> {
    let is_list = matches!(request.operation, Operation::StoreList | Operation::BlobList);
    let is_right = is_key(&request.key) || request.key.is_empty() && is_list;
    if !is_right || request.after.len() > KEY {
        return Err(Refusal::new(Status::Invalid, "a key has 1 to 512 bytes"));
    }
    let is_put = matches!(request.operation, Operation::StorePut | Operation::BlobPut);
    if is_put && request.second > limits.value {
        let text = format!(
            "it has {} bytes, of {} that binding {} allows",
            request.second, limits.value, request.name
        );
        return Err(Refusal::new(Status::TooLarge, text));
    }
    if !rate.admit(Instant::now()) {
        let text =
            format!("binding {} takes {} operations a second", request.name, limits.operations.unwrap_or(0));
        return Err(Refusal::new(Status::Limited, text));
    }
    Ok(())
}

impl Store {
    pub(crate) fn open(spec: &StoreSpec, files: &Files, names: &Names) -> Result<Store, OpenError> {
        let place = match &spec.place {
            StorePlace::Folder(path) => Place::Folder(folder(files, path, spec.limits.bytes)?),
            StorePlace::Redis(redis) => Place::Redis(Box::new(RedisStore::new(&spec.name, redis, names)?)),
        };
        let rate = Rate::new(spec.limits.operations);
        Ok(Store { place, files: files.clone(), limits: spec.limits.clone(), rate })
    }

    /// Carries out a call of one of the operations of stores.
    pub(crate) async fn carry_out(&self, call: &Call) -> Result<(), Refusal> {
        let request = call.request();
        admit(request, &self.limits, &self.rate)?;
        match request.operation {
            Operation::StoreGet => {
                let value = self.get(&request.key).await?;
                call.answer(Answer { version: version(&value), size: value.len() as u64 });
                call.send(&value).await?;
            }
            Operation::StorePut => {
                let value = receive(call, request.second).await?;
                let version = version(&value);
                self.put(request, value).await?;
                call.answer(Answer { version, size: 0 });
            }
            Operation::StoreDelete => self.delete(request).await?,
            _ => {
                let page = self.list(request).await?;
                call.send(&page.to_bytes()).await?;
            }
        }
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Vec<u8>, Refusal> {
        let most = self.limits.value;
        match &self.place {
            Place::Folder(folder) => {
                let (folder, key) = (folder.clone(), key.to_owned());
                self.files.run(move || folder.get(&key, most)).await
            }
            Place::Redis(redis) => redis.get(key, most).await,
        }
    }

    async fn put(&self, request: &ServiceRequest, value: Vec<u8>) -> Result<(), Refusal> {
        match &self.place {
            Place::Folder(folder) => {
                let (folder, key) = (folder.clone(), request.key.clone());
                let (condition, version) = (request.condition, request.first);
                let put = move || {
                    let mut file = folder.begin(&key, value.len() as u64)?;
                    file.write(&value)?;
                    file.finish(condition, version)
                };
                self.files.run(put).await
            }
            Place::Redis(redis) => redis.put(request, &value).await,
        }
    }

    async fn delete(&self, request: &ServiceRequest) -> Result<(), Refusal> {
        match &self.place {
            Place::Folder(folder) => {
                let (folder, key) = (folder.clone(), request.key.clone());
                let (condition, version) = (request.condition, request.first);
                self.files.run(move || folder.delete(&key, condition, version)).await
            }
            Place::Redis(redis) => redis.delete(request).await,
        }
    }

    async fn list(&self, request: &ServiceRequest) -> Result<Page, Refusal> {
        let page = Page::new(request.first, &request.after);
        match &self.place {
            Place::Folder(folder) => {
                let (folder, prefix) = (folder.clone(), request.key.clone());
                self.files.run(move || folder.list(&prefix, page)).await
            }
            Place::Redis(redis) => redis.list(&request.key, page).await,
        }
    }
}

/// All data of a call, which has announced so many bytes.
pub(crate) async fn receive(call: &Call, size: u64) -> Result<Vec<u8>, Refusal> {
    let mut value = Vec::new();
    while let Some(frame) = call.data().await? {
        value.extend_from_slice(&frame);
        if value.len() as u64 > size {
            break;
        }
    }
    match value.len() as u64 == size {
        true => Ok(value),
        false => Err(Refusal::new(Status::Invalid, "it has not as many bytes as were announced")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_that_a_script_of_redis_computes() {
        // printf abc | sha1sum
        assert_eq!(version(b"abc"), 0xa999_3e36_4706_816a);
        assert_ne!(version(b""), 0);
    }
}
