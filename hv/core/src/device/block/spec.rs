//! What the command line says about a disk.
#![forbid(unsafe_code)]

use hv_disk::Format;
use hv_host::escape::escape;
use std::path::PathBuf;
use std::str::FromStr;

/// A disk as the command line names it: `FILE[,ro][,direct][,overlay][,sector=512|4096][,format=raw|qcow2][,base=FOLDER]`.
///
/// Only known options at the end are taken as options, so a file name may have
/// commas. A file whose own name ends in one of the options cannot be named;
/// a symbolic link to it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// An image, a block device, or a folder.
    pub path: PathBuf,
    /// The guest may not write. Folders are always read-only.
    pub read_only: bool,
    /// Go past the host's page cache (`O_DIRECT`).
    pub direct: bool,
    /// The guest's writes go to a private overlay that is gone at its end; the file stays as it is.
    pub overlay: bool,
    /// Bytes of a sector: 512 or 4096.
    pub sector_size: u32,
    /// The format of the file (`format=`). `None`: qcow2 if the file is named `*.qcow2`, raw otherwise; refused if its first bytes say
    /// something else, which a guest may have written there.
    pub format: Option<Format>,
    /// Folders, beside the file's own, that backing files and data files may be in (`base=`, repeatable).
    pub bases: Vec<PathBuf>,
}

/// Bytes of a sector unless the command line says otherwise.
pub const DEFAULT_SECTOR_SIZE: u32 = 512;

/// Why the value of `--disk` is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// There is no file name in front of the options.
    #[error("no file name in \"{}\"; write FILE[,ro][,direct][,overlay][,sector=512|4096][,format=raw|qcow2][,base=FOLDER]", escape(.0))]
    NoFile(String),
    /// Sectors of another size.
    #[error("a disk has sectors of 512 or 4096 bytes, not \"{}\"", escape(.0))]
    SectorSize(String),
    /// A format that hv does not have.
    #[error("formats of disks are raw and qcow2, not \"{}\"; convert it, for example with `qemu-img convert -O qcow2`", escape(.0))]
    Format(String),
    /// An option was given more than once.
    #[error("the disk option \"{0}\" is given twice")]
    Repeated(&'static str),
    /// Options that contradict each other.
    #[error("the disk options \"overlay\" and \"{0}\" exclude each other; leave one out")]
    Overlay(&'static str),
}

impl DiskSpec {
    /// The disk at `path`: writable, through the page cache, in sectors of 512 bytes.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        DiskSpec {
            path: path.into(),
            read_only: false,
            direct: false,
            overlay: false,
            sector_size: DEFAULT_SECTOR_SIZE,
            format: None,
            bases: Vec::new(),
        }
    }

    /// Whether a temporary file is made for it after it was named: for an overlay, or for the image of a folder.
    pub fn takes_temporary_file(&self) -> bool {
        self.overlay || self.path.is_dir()
    }
}

impl FromStr for DiskSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (mut file, mut sector_size, mut format, mut bases) = (text, None, None, Vec::new());
        let (mut read_only, mut direct, mut overlay) = (false, false, false);
        while let Some((rest, option)) = file.rsplit_once(',') {
            let (name, repeated) = match option {
                "ro" => ("ro", std::mem::replace(&mut read_only, true)),
                "direct" => ("direct", std::mem::replace(&mut direct, true)),
                "overlay" => ("overlay", std::mem::replace(&mut overlay, true)),
                "format=raw" => ("format=", format.replace(Format::Raw).is_some()),
                "format=qcow2" => ("format=", format.replace(Format::Qcow2).is_some()),
                "sector=512" => ("sector=", sector_size.replace(512).is_some()),
                "sector=4096" => ("sector=", sector_size.replace(4096).is_some()),
                _ => match option.split_once('=') {
                    Some(("sector", size)) => return Err(SpecError::SectorSize(size.into())),
                    Some(("format", format)) => return Err(SpecError::Format(format.into())),
                    Some(("base", folder)) if !folder.is_empty() => {
                        bases.insert(0, folder.into());
                        ("base=", false)
                    }
                    _ => break,
                },
            };
            if repeated {
                return Err(SpecError::Repeated(name));
            }
            file = rest;
        }
        if file.is_empty() {
            return Err(SpecError::NoFile(text.into()));
        }
        match (overlay, read_only, direct) {
            (true, true, _) => return Err(SpecError::Overlay("ro")),
            (true, _, true) => return Err(SpecError::Overlay("direct")),
            _ => {}
        }
        let sector_size = sector_size.unwrap_or(DEFAULT_SECTOR_SIZE);
        Ok(DiskSpec { path: file.into(), read_only, direct, overlay, sector_size, format, bases })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &str, read_only: bool, direct: bool, sector_size: u32) -> Result<DiskSpec, SpecError> {
        Ok(DiskSpec { read_only, direct, sector_size, ..DiskSpec::new(path) })
    }

    #[test]
    fn known_options_at_the_end_are_options_and_the_rest_is_the_file() {
        let parse = str::parse::<DiskSpec>;
        assert_eq!(parse("a.img"), spec("a.img", false, false, 512));
        assert_eq!(parse("a.img,ro"), spec("a.img", true, false, 512));
        assert_eq!(parse("/x/a,b.img,sector=4096,direct"), spec("/x/a,b.img", false, true, 4096));
        assert_eq!(parse("a,ro,b"), spec("a,ro,b", false, false, 512));
        assert_eq!(parse("a,rw"), spec("a,rw", false, false, 512));
        assert_eq!(parse("a,,ro"), spec("a,", true, false, 512));
        assert_eq!(parse("a,format=raw"), Ok(DiskSpec { format: Some(Format::Raw), ..DiskSpec::new("a") }));
        let bases = vec!["/x".into(), "y".into()];
        let qcow2 = DiskSpec { format: Some(Format::Qcow2), bases, ..DiskSpec::new("a") };
        assert_eq!(parse("a,base=/x,format=qcow2,base=y"), Ok(qcow2));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let parse = str::parse::<DiskSpec>;
        assert_eq!(parse(""), Err(SpecError::NoFile("".into())));
        assert_eq!(parse(",ro"), Err(SpecError::NoFile(",ro".into())));
        assert_eq!(parse("a,sector=1024"), Err(SpecError::SectorSize("1024".into())));
        assert_eq!(parse("a,sector="), Err(SpecError::SectorSize("".into())));
        assert_eq!(parse("a,ro,direct,ro"), Err(SpecError::Repeated("ro")));
        assert_eq!(parse("a,sector=512,sector=4096"), Err(SpecError::Repeated("sector=")));
        assert_eq!(parse("a,format=vmdk"), Err(SpecError::Format("vmdk".into())));
        assert_eq!(parse("a,format=raw,format=qcow2"), Err(SpecError::Repeated("format=")));
        assert_eq!(parse("a,format=raw,format=raw"), Err(SpecError::Repeated("format=")));
    }
}
