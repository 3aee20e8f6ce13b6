//! Opening an image with all files that it consists of.
//!
//! A file that an image names is opened only below the folder of the image that was given, or below a folder that the caller names:
//! by `openat2` with `RESOLVE_BENEATH`, so no `..`, no link and no magic link leads elsewhere.
#![forbid(unsafe_code)]

use crate::error::ImageError;
use crate::file::ImageFile;
use crate::format::{Format, HEAD, TAIL, Undecided, container, decide};
use crate::image::{Image, Numbered};
use crate::lock::{LockError, LockMode, lock};
use crate::qcow2::Qcow2;
use crate::raw::RawImage;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Most images behind each other.
pub(crate) const MAX_DEPTH: usize = 64;

/// How long a file that is locked is waited for: the kernel closes files of a process that was killed some time after its end.
const LOCK_WAIT: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// How an image is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// It is written. Its backing files never are.
    pub writable: bool,
    /// Folders, beside that of the image itself, below which backing and data files may lie.
    pub folders: Vec<PathBuf>,
    /// It is opened whoever else has it, and nobody is kept from it: what is read may be of no one moment.
    pub unlocked: bool,
    /// Backing files are left out: what the image itself does not have reads as zeroes.
    pub alone: bool,
    /// It is opened though its refcounts are not up to date, or it is marked as corrupt: to repair it.
    pub repair: bool,
}

/// An image with its files.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The disk.
    pub image: Arc<dyn Image>,
    /// The same, where its format is qcow2.
    pub qcow2: Option<Arc<Qcow2>>,
    /// All files, by the numbers that [runs](crate::Run) name them by. The first is the image's own.
    pub files: Vec<Arc<ImageFile>>,
}

/// Opens the image of this format in a file that is open, with what it names.
///
/// # Errors
///
/// What is wrong with one of its files, by name.
pub fn open(file: File, path: &Path, format: Format, options: &OpenOptions) -> Result<Chain, ImageError> {
    let mut opening =
        Opening { options, folders: folders(path, options)?, files: Vec::new(), seen: Vec::new() };
    opening.admit(&file, path, options.writable)?;
    let (image, qcow2) = opening.image(file, path, format, options.writable)?;
    Ok(Chain { image, qcow2, files: opening.files })
}

/// Opens the image in the file of this name, of the format that is said or, as far as its bytes agree, that its name says.
///
/// # Errors
///
/// As for [`open`]; and if name and bytes disagree.
pub fn open_path(path: &Path, format: Option<Format>, options: &OpenOptions) -> Result<Chain, ImageError> {
    let failed = io_error(path);
    let file = File::options().read(true).write(options.writable).open(path).map_err(&failed)?;
    let kind = file.metadata().map_err(&failed)?.file_type();
    if !kind.is_file() && !std::os::unix::fs::FileTypeExt::is_block_device(&kind) {
        return Err(failed(io::Error::other("neither a file nor a block device")));
    }
    let length = (&file).seek(SeekFrom::End(0)).map_err(&failed)?;
    let (mut head, mut tail) = ([0; HEAD], [0; TAIL]);
    let head = &mut head[..length.min(HEAD as u64) as usize];
    let tail = &mut tail[..length.min(TAIL as u64) as usize];
    file.read_exact_at(head, 0).map_err(&failed)?;
    file.read_exact_at(tail, length - tail.len() as u64).map_err(&failed)?;
    let path_buf = || path.to_owned();
    let format = decide(path, format, container(head, tail)).map_err(|undecided| match undecided {
        Undecided::Unsaid => ImageError::Unsaid { path: path_buf() },
        Undecided::NotQcow2 => ImageError::NotQcow2 { path: path_buf() },
        Undecided::Container(format) => ImageError::Container { path: path_buf(), format },
    })?;
    open(file, path, format, options)
}

/// Opens what an image, which was opened alone, names as its backing file.
///
/// # Errors
///
/// As for [`open`]; and if it names none.
pub fn open_backing(chain: &Chain, options: &OpenOptions) -> Result<(PathBuf, Chain), ImageError> {
    let by = chain.files[0].path();
    let header = chain.qcow2.as_ref().map(|image| image.header());
    let Some(name) = header.and_then(|header| header.backing.as_deref()) else {
        return Err(io_error(by)(io::Error::other("it has no backing file")));
    };
    let format = header.and_then(|header| header.backing_format.as_deref());
    let format = backing_format(by, name, format)?;
    let mut opening =
        Opening { options, folders: folders(by, options)?, files: Vec::new(), seen: Vec::new() };
    let (file, path) = opening.named(by, name, options.writable)?;
    let (image, qcow2) = opening.image(file, &path, format, options.writable)?;
    Ok((path, Chain { image, qcow2, files: opening.files }))
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> ImageError {
    move |source| ImageError::Io { path: path.into(), source }
}

/// Locks a file, and waits a little for it. Where the file system has no locks, it says so and goes on.
///
/// # Errors
///
/// If another one has it all that time.
pub fn lock_patiently(file: &File, path: &Path, writable: bool) -> Result<(), ImageError> {
    let mode = if writable { LockMode::Write } else { LockMode::Read };
    let end = Instant::now() + LOCK_WAIT;
    loop {
        match lock(file, mode) {
            Ok(()) => return Ok(()),
            Err(LockError::Taken) if Instant::now() < end => thread::sleep(LOCK_RETRY),
            Err(LockError::Unsupported(error)) => {
                // Some network file systems have no locks; that must not make images on them unusable.
                let path = hv_host::escape::escape(path);
                tracing::warn!("disk {path}: cannot be locked ({error}); do not give it to a second guest");
                return Ok(());
            }
            Err(source) => return Err(ImageError::Locked { path: path.into(), source }),
        }
    }
}

/// Folders that files may be in: an open descriptor, and its path.
struct Folder {
    path: PathBuf,
    descriptor: File,
}

fn folders(path: &Path, options: &OpenOptions) -> Result<Vec<Folder>, ImageError> {
    let own = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folders = Vec::new();
    for folder in std::iter::once(&own).chain(&options.folders) {
        let open = || {
            // Where a jail lets nobody ask for the current folder, paths are absolute already.
            let path = if folder.is_absolute() { folder.clone() } else { std::path::absolute(folder)? };
            Ok(Folder { path: lexical(&path), descriptor: File::open(folder)? })
        };
        match open() {
            Ok(folder) => folders.push(folder),
            // It is opened when something in it is asked for; what was given may be a descriptor in /proc.
            Err(_) if folder == &own => {}
            Err(error) => return Err(io_error(folder)(error)),
        }
    }
    Ok(folders)
}

/// A path without `.` and `..`, by its text.
fn lexical(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

struct Opening<'a> {
    options: &'a OpenOptions,
    folders: Vec<Folder>,
    files: Vec<Arc<ImageFile>>,
    /// Device and inode of the files on the way.
    seen: Vec<(u64, u64)>,
}

/// An image, and the same by its format.
type Opened = (Arc<dyn Image>, Option<Arc<Qcow2>>);

impl Opening<'_> {
    fn image(
        &mut self,
        mut file: File,
        path: &Path,
        format: Format,
        writable: bool,
    ) -> Result<Opened, ImageError> {
        // The end of a block device is not in its metadata.
        let length = file.seek(SeekFrom::End(0)).map_err(io_error(path))?;
        let file = self.number(ImageFile::new(Arc::new(file), path.into(), length));
        match format {
            Format::Raw => Ok((Arc::new(RawImage::new(file, writable)), None)),
            Format::Qcow2 => {
                let image = Arc::new(self.qcow2(file, writable)?);
                Ok((image.clone(), Some(image)))
            }
        }
    }

    fn number(&mut self, file: ImageFile) -> Numbered {
        let file = Arc::new(file);
        self.files.push(file.clone());
        Numbered { file, number: self.files.len() - 1 }
    }

    fn qcow2(&mut self, file: Numbered, writable: bool) -> Result<Qcow2, ImageError> {
        let path = file.path().to_owned();
        let header = Qcow2::read_header(&file)?;
        let data = match (&header.data_file, header.has_data_file()) {
            (_, false) => None,
            (None, true) => return Err(ImageError::NoDataFile { path }),
            (Some(name), true) => {
                let (mut data, name) = self.named(&path, name, writable)?;
                let length = data.seek(SeekFrom::End(0)).map_err(io_error(&name))?;
                Some(self.number(ImageFile::new(Arc::new(data), name, length)))
            }
        };
        let backing = match &header.backing {
            Some(name) if !self.options.alone => {
                let format = backing_format(&path, name, header.backing_format.as_deref())?;
                let (backing, name) = self.named(&path, name, false)?;
                Some(self.image(backing, &name, format, false)?.0)
            }
            _ => None,
        };
        Qcow2::open(header, file, data, backing, writable, self.options.repair)
    }

    /// Opens a file that the image at `by` names.
    fn named(&mut self, by: &Path, name: &[u8], writable: bool) -> Result<(File, PathBuf), ImageError> {
        let name = file_name(by, name)?;
        let beside = by.parent().unwrap_or(Path::new(""));
        let absolute = std::path::absolute(beside.join(&name)).map_err(io_error(by))?;
        let path = lexical(&absolute);
        let found =
            self.folders.iter().find_map(|folder| Some((folder, path.strip_prefix(&folder.path).ok()?)));
        let Some((folder, below)) = found else { return Err(ImageError::Outside { path: by.into(), name }) };
        let mode = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = mode | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = match rustix::fs::openat2(&folder.descriptor, below, flags, Mode::empty(), resolve) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::XDEV) => return Err(ImageError::Outside { path: by.into(), name }),
            Err(error) => return Err(io_error(&path)(error.into())),
        };
        let kind = file.metadata().map_err(io_error(&path))?.file_type();
        if !kind.is_file() && !std::os::unix::fs::FileTypeExt::is_block_device(&kind) {
            return Err(ImageError::NoFile { path: by.into(), name: name.to_string_lossy().into_owned() });
        }
        self.admit(&file, &path, writable)?;
        Ok((file, path))
    }

    /// Takes a file in that is in the chain once only, and locks it.
    fn admit(&mut self, file: &File, path: &Path, writable: bool) -> Result<(), ImageError> {
        let metadata = file.metadata().map_err(io_error(path))?;
        let identity = (metadata.dev(), metadata.ino());
        if self.seen.contains(&identity) {
            return Err(ImageError::Loop { path: path.into() });
        }
        if self.seen.len() > MAX_DEPTH {
            return Err(ImageError::Depth { path: path.into() });
        }
        self.seen.push(identity);
        if self.options.unlocked { Ok(()) } else { lock_patiently(file, path, writable) }
    }
}

/// The path in a name of a file: QEMU's may have a protocol in front, or be an object of JSON.
pub(crate) fn file_name(by: &Path, name: &[u8]) -> Result<PathBuf, ImageError> {
    let name = name.strip_prefix(b"file:").unwrap_or(name);
    let before_slash = name.split(|byte| *byte == b'/').next().unwrap_or_default();
    if name.is_empty() || name.contains(&0) || before_slash.contains(&b':') {
        return Err(ImageError::NoFile { path: by.into(), name: String::from_utf8_lossy(name).into_owned() });
    }
    Ok(PathBuf::from(OsStr::from_bytes(name)))
}

/// The format of a backing file: what the image says; where it says nothing, what the name ends in. Never what is in the file.
pub(crate) fn backing_format(by: &Path, name: &[u8], said: Option<&[u8]>) -> Result<Format, ImageError> {
    match said {
        Some(b"raw" | b"file" | b"host_device") => Ok(Format::Raw),
        Some(b"qcow2") => Ok(Format::Qcow2),
        Some(other) => Err(ImageError::BackingFormat {
            path: by.into(),
            format: String::from_utf8_lossy(other).into_owned(),
        }),
        None if name.ends_with(b".qcow2") => Ok(Format::Qcow2),
        None if name.ends_with(b".raw") => Ok(Format::Raw),
        None => {
            Err(ImageError::NoBackingFormat { path: by.into(), name: PathBuf::from(OsStr::from_bytes(name)) })
        }
    }
}
