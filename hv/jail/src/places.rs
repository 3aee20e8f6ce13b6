//! Landlock: what of the file system a jailed process can still open.

use hv_host::escape::escape;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::path::PathBuf;

/// What may be done with a file, or with everything below a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Files are read, folders listed.
    Read,
    /// Files are made and written, such as a log that is rotated.
    Write,
    /// Files without a name, or with one that is removed at once, are written and read again.
    Temporary,
    /// Files and folders are made, renamed and removed, such as those of a snapshot.
    All,
    /// The same, and symbolic links: a folder that a guest works on.
    Share,
}

/// A place in the file system that is opened after the process is jailed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A file, or a folder with all that is below it.
    pub path: PathBuf,
    /// What for.
    pub usage: Use,
}

/// Why Landlock could not be set up, beyond the kernel's not having it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// A place that cannot be opened.
    #[error("{}: {error}", escape(path))]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        error: PathFdError,
    },
    /// The kernel does not take the rules.
    #[error("Landlock: {0}")]
    Rules(#[from] RulesetError),
}

/// The newest version whose rights hv knows; of an older kernel it uses what there is.
const NEWEST: ABI = ABI::V6;

impl Use {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Use::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            Use::Write => AccessFs::WriteFile | AccessFs::MakeReg,
            Use::Temporary => {
                AccessFs::ReadFile
                    | AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::MakeReg
                    | AccessFs::RemoveFile
            }
            Use::Share => Use::All.rights() | AccessFs::MakeSym,
            Use::All => {
                AccessFs::from_read(NEWEST) & !AccessFs::Execute
                    | AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::MakeReg
                    | AccessFs::MakeDir
                    | AccessFs::RemoveFile
                    | AccessFs::RemoveDir
                    | AccessFs::Refer
            }
        }
    }
}

/// Restricts the calling thread, and those that it makes from now on, to these places.
/// Also, they may no longer signal, nor reach by abstract Unix sockets, any process that is not restricted as well.
/// Returns false if the kernel has no Landlock.
pub(super) fn restrict(places: &[Place], signals: bool) -> Result<bool, PlaceError> {
    let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let mut rules = rules.handle_access(AccessFs::from_all(NEWEST))?.scope(Scope::AbstractUnixSocket)?;
    if signals {
        rules = rules.scope(Scope::Signal)?;
    }
    let mut rules = rules.create()?;
    for place in places {
        let descriptor =
            PathFd::new(&place.path).map_err(|error| PlaceError::Open { path: place.path.clone(), error })?;
        rules = rules.add_rule(PathBeneath::new(descriptor, place.usage.rights()))?;
    }
    Ok(rules.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}
