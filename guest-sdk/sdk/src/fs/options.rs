//! How a file is opened.
#![forbid(unsafe_code)]

use super::Error;

/// How a file is opened. The names, and what they mean together, are those of `std::fs::OpenOptions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    pub(super) read: bool,
    write: bool,
    pub(super) append: bool,
    pub(super) truncate: bool,
    create: bool,
    pub(super) create_new: bool,
}

impl OpenOptions {
    /// Nothing is allowed yet.
    pub const fn new() -> Self {
        OpenOptions {
            read: false,
            write: false,
            append: false,
            truncate: false,
            create: false,
            create_new: false,
        }
    }

    /// It can be read.
    pub const fn read(self, read: bool) -> Self {
        OpenOptions { read, ..self }
    }

    /// It can be written.
    pub const fn write(self, write: bool) -> Self {
        OpenOptions { write, ..self }
    }

    /// It can be written, always at its end.
    pub const fn append(self, append: bool) -> Self {
        OpenOptions { append, ..self }
    }

    /// It loses what it has.
    pub const fn truncate(self, truncate: bool) -> Self {
        OpenOptions { truncate, ..self }
    }

    /// It is made if it is not there.
    pub const fn create(self, create: bool) -> Self {
        OpenOptions { create, ..self }
    }

    /// It is made, and must not be there.
    pub const fn create_new(self, create_new: bool) -> Self {
        OpenOptions { create_new, ..self }
    }

    /// Whether the file can be changed.
    pub(super) fn writes(self) -> bool {
        self.write || self.append
    }

    /// Whether the file is made if it is not there.
    pub(super) fn makes(self) -> bool {
        self.create || self.create_new
    }

    /// [`Error::Invalid`] for what `std` refuses: neither read nor written, made or cut without being written, cut and appended to.
    pub(super) fn check(self) -> Result<Self, Error> {
        let changes = self.truncate || self.makes();
        let is_valid = (self.read || self.writes())
            && (!changes || self.writes())
            && !(self.append && self.truncate && !self.create_new);
        if is_valid { Ok(self) } else { Err(Error::Invalid) }
    }
}
