//! What was found in a share in which nothing changes.
#![forbid(unsafe_code)]

use super::shared::SharedFile;
use super::{Error, Metadata};
use alloc::collections::BTreeMap;
use alloc::string::String;
use core::cell::RefCell;

/// Most names that are kept: with their metadata some 100 bytes each. When there are more, all are forgotten.
const NAMES: usize = 4096;
/// Most files that are kept open, of the 512 handles that a share has.
const FILES: usize = 64;

/// Names with their metadata, and files that are open, by paths relative to the root.
#[derive(Default)]
pub(super) struct Found {
    /// `None`: there is nothing of this name.
    names: RefCell<BTreeMap<String, Option<Metadata>>>,
    files: RefCell<BTreeMap<String, SharedFile>>,
}

impl Found {
    /// What is known of a name.
    pub(super) fn metadata(&self, path: &str) -> Option<Result<Metadata, Error>> {
        self.names.borrow().get(path).map(|known| known.ok_or(Error::NotFound))
    }

    /// Keeps what the host has said of a name, unless something is known of it: that stays as it is.
    pub(super) fn note(&self, path: &str, answer: &Result<Metadata, Error>) {
        let known = match answer {
            Ok(metadata) => Some(*metadata),
            Err(Error::NotFound) => None,
            // It may be another error the next time.
            Err(_) => return,
        };
        let names = &mut *self.names.borrow_mut();
        if !names.contains_key(path) {
            keep(names, NAMES, path, known);
        }
    }

    /// A file that is open, or known not to be there.
    pub(super) fn file(&self, path: &str) -> Option<Result<SharedFile, Error>> {
        if let Some(file) = self.files.borrow().get(path) {
            return Some(Ok(file.clone()));
        }
        let missing = self.names.borrow().get(path) == Some(&None);
        missing.then_some(Err(Error::NotFound))
    }

    /// Keeps a file that the host has opened, or that it has none.
    pub(super) fn note_file(&self, path: &str, opened: &Result<SharedFile, Error>) {
        match opened {
            Ok(file) => {
                self.note(path, &Ok(file.metadata()));
                keep(&mut self.files.borrow_mut(), FILES, path, file.clone());
            }
            Err(error) => self.note(path, &Err(*error)),
        }
    }
}

fn keep<T>(all: &mut BTreeMap<String, T>, most: usize, path: &str, value: T) {
    if all.len() >= most {
        all.clear();
    }
    all.insert(path.into(), value);
}
