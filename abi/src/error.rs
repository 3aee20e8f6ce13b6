//! Errors that a guest can get back.

macro_rules! errno {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Why a call or a request was refused.
        ///
        /// A hypercall returns `-(number)` in RAX; a ring response carries
        /// `-(number)` in its status. The numbers are Linux's where Linux has
        /// a matching one, so that they read familiar in a trace.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        #[non_exhaustive]
        pub enum Errno {
            $($(#[$doc])* $name = $number,)*
        }

        impl Errno {
            /// Every error, in the order of the table.
            pub const ALL: &'static [Errno] = &[$(Errno::$name,)*];

            /// What it means, in a few words.
            pub const fn message(self) -> &'static str {
                match self { $(Errno::$name => $text,)* }
            }

            /// The error with this (positive) number.
            pub const fn from_number(number: i32) -> Option<Errno> {
                match number { $($number => Some(Errno::$name),)* _ => None }
            }
        }
    };
}

errno! {
    /// There is no file of this name.
    NotFound = 2, "no such file or folder";
    /// The device or host failed to do it.
    Io = 5, "input/output error";
    /// There is no open handle of this number, or it was not opened for this.
    BadHandle = 9, "no such open file";
    /// The host has no room for it now; trying later may help.
    Again = 11, "try again";
    /// The host does not allow it.
    Denied = 13, "permission denied";
    /// An address is outside the guest's memory, or not writable where it has to be.
    Fault = 14, "bad address";
    /// What was asked for is in use already.
    Busy = 16, "in use";
    /// Something has this name already.
    Exists = 17, "already exists";
    /// A path leads out of the share, or from one file system to another.
    Outside = 18, "leads out of the share or to another file system";
    /// A path leads through a file, or a folder was asked for.
    NotDirectory = 20, "not a folder";
    /// It is a folder, and a file was asked for.
    IsDirectory = 21, "is a folder";
    /// An argument has a value that is never valid.
    Invalid = 22, "invalid argument";
    /// More files are open than may be.
    TooManyOpen = 24, "too many open files";
    /// A file would be larger than the host allows.
    TooLarge = 27, "file too large";
    /// The host's disk is full.
    NoSpace = 28, "no space left on the host's disk";
    /// The disk or share is read-only.
    ReadOnly = 30, "read-only";
    /// A path or a name in it is too long.
    NameTooLong = 36, "name too long";
    /// There is no such hypercall in this version.
    NoSys = 38, "no such hypercall";
    /// The folder has something in it.
    NotEmpty = 39, "folder is not empty";
    /// Symbolic links lead in a circle.
    TooManyLinks = 40, "too many symbolic links";
    /// The device or platform does not do this operation.
    NotSupported = 95, "operation not supported";
    /// A file that was open is gone on the host.
    Stale = 116, "the file is gone on the host";
    /// The quota of hv's user on the host is used up.
    Quota = 122, "quota on the host used up";
}

impl Errno {
    /// The value that stands for this error in RAX or in a response's status.
    pub const fn to_status(self) -> i32 {
        -(self as i32)
    }

    /// Splits a status: `Ok` of a value that is not negative, or the error.
    /// A number that this version does not know is an [`Errno::Io`].
    pub const fn check(status: i32) -> Result<u32, Errno> {
        if status >= 0 {
            return Ok(status as u32);
        }
        match Errno::from_number(status.wrapping_neg()) {
            Some(e) => Err(e),
            None => Err(Errno::Io),
        }
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.message())
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_round_trip_through_a_status() {
        for &e in Errno::ALL {
            assert_eq!(Errno::check(e.to_status()), Err(e));
        }
        assert_eq!(Errno::check(7), Ok(7));
        assert_eq!(Errno::check(-9999), Err(Errno::Io));
        assert_eq!(Errno::check(i32::MIN), Err(Errno::Io));
    }
}
