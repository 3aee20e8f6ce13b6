//! The files in the folder `state`. They are written on threads that may do so and nothing else.

use bytes::Bytes;
use crossbeam_channel::bounded;
use hv_host::escape::escape;
use hv_jail as jail;
use hv_jail::Kind;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, fdatasync, fsync, openat, renameat, statat, unlinkat};
use rustix::io::{Errno, write};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};

/// Bytes of an image that wait to be written: so many pieces, as they have come from the client.
const PIECES: usize = 16;

/// A file that is not finished after so long is nobody's any more.
const LEFT: Duration = Duration::from_secs(60 * 60);

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct StateFolder(Arc<Path>);

/// An image that is being received. Dropped before its end, it is removed.
pub(super) struct Receiving {
    /// The name of its file.
    pub(super) name: String,
    pieces: mpsc::Sender<Piece>,
    written: oneshot::Receiver<io::Result<()>>,
}

enum Piece {
    Bytes(Bytes),
    End,
}

impl StateFolder {
    pub(super) fn new(path: &Path) -> Self {
        StateFolder(path.into())
    }

    /// Says what went wrong in this folder.
    pub(super) fn explain(&self, error: &io::Error) -> String {
        format!("{}: {error}; let hv's user write there, and make room", escape(&*self.0))
    }

    /// Writes a file, which is on the disk when this returns, or is as it was. Blocks.
    pub(super) fn replace(&self, name: &'static str, bytes: Vec<u8>) -> io::Result<()> {
        self.work(move |folder| {
            let part = format!("{name}.{}.part", std::process::id());
            let file = create(folder, &part)?;
            let written = write_all(&file, &bytes)
                .and_then(|()| Ok(fdatasync(&file)?))
                .and_then(|()| Ok(renameat(folder, &part, folder, name)?));
            if written.is_err() {
                let _ = unlinkat(folder, &part, AtFlags::empty());
            }
            written?;
            Ok(fsync(folder)?)
        })
    }

    /// Gives a file that was received its name. Blocks.
    pub(super) fn keep(&self, part: String, name: String) -> io::Result<()> {
        self.work(move |folder| {
            renameat(folder, &part, folder, &name)?;
            Ok(fsync(folder)?)
        })
    }

    /// Removes files that are needed no more. Blocks.
    pub(super) fn remove(&self, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let removed = self.work(move |folder| {
            for name in &names {
                let _ = unlinkat(folder, name, AtFlags::empty());
            }
            Ok(())
        });
        if let Err(error) = removed {
            tracing::warn!("old images are not removed: {}", self.explain(&error));
        }
    }

    /// Does something in the folder, on a thread that may.
    fn work(&self, work: impl FnOnce(&OwnedFd) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let (done, wait) = bounded(1);
        let path = self.0.clone();
        jail::spawn(Kind::Files, "hv-state", move || {
            let _ = done.send(open(&path).and_then(|folder| work(&folder)));
        })?;
        wait.recv().map_err(|_| io::Error::other("the thread that writes files has ended"))?
    }

    /// Begins to receive an image; `number` is not used twice at a time.
    pub(super) fn receive(&self, number: u64) -> io::Result<Receiving> {
        let name = format!("upload-{}-{number}.part", std::process::id());
        let (pieces, mut received) = mpsc::channel(PIECES);
        let (done, written) = oneshot::channel();
        let (path, part) = (self.0.clone(), name.clone());
        jail::spawn(Kind::Files, "hv-state", move || {
            let result = open(&path).and_then(|folder| {
                sweep(&folder, SystemTime::now())?;
                let file = create(&folder, &part)?;
                let result = receive(&file, &mut received);
                if result.is_err() {
                    let _ = unlinkat(&folder, &part, AtFlags::empty());
                }
                result
            });
            let _ = done.send(result);
        })?;
        Ok(Receiving { name, pieces, written })
    }
}

impl Receiving {
    /// Takes some bytes. Those after an error are lost; [`finish`](Self::finish) tells it.
    pub(super) async fn write(&self, bytes: Bytes) {
        let _ = self.pieces.send(Piece::Bytes(bytes)).await;
    }

    /// That was all. Returns the name of the file, which is on the disk now.
    pub(super) async fn finish(self) -> io::Result<String> {
        let _ = self.pieces.send(Piece::End).await;
        self.written.await.map_err(|_| io::Error::other("the thread that writes files has ended"))??;
        Ok(self.name)
    }
}

/// Removes what servers have left that were killed while they wrote.
fn sweep(folder: &OwnedFd, now: SystemTime) -> io::Result<()> {
    let old = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(LEFT);
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes().ends_with(b".part")
            && let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            && (stat.st_mtime as u64) < old.as_secs()
        {
            let _ = unlinkat(folder, name, AtFlags::empty());
        }
    }
    Ok(())
}

fn receive(file: &OwnedFd, pieces: &mut mpsc::Receiver<Piece>) -> io::Result<()> {
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => write_all(file, &bytes)?,
            Some(Piece::End) => return Ok(fdatasync(file)?),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A new file. One that a server with this number has left is replaced.
fn create(folder: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let create = || openat(folder, name, flags, Mode::RUSR | Mode::WUSR);
    match create() {
        Err(Errno::EXIST) => {
            unlinkat(folder, name, AtFlags::empty())?;
            Ok(create()?)
        }
        created => Ok(created?),
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_whole_or_not_there() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = StateFolder::new(temporary.path());
        let names = || {
            let entries = std::fs::read_dir(temporary.path()).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        folder.replace("a", b"one".into()).unwrap();
        folder.replace("a", b"two".into()).unwrap();
        assert_eq!(
            (names(), std::fs::read(temporary.path().join("a")).unwrap()),
            (vec!["a".into()], b"two".into())
        );
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let name = runtime.block_on(async {
            let image = folder.receive(1).unwrap();
            image.write(Bytes::from_static(b"image")).await;
            image.finish().await.unwrap()
        });
        folder.keep(name, "f.1.image".into()).unwrap();
        assert_eq!(names(), ["a", "f.1.image"]);
        // A client that goes away leaves nothing.
        let image = folder.receive(2).unwrap();
        runtime.block_on(image.write(Bytes::from_static(b"half")));
        let Receiving { pieces, written, .. } = image;
        drop(pieces);
        assert!(runtime.block_on(written).unwrap().is_err());
        assert_eq!(names(), ["a", "f.1.image"]);
        folder.remove(vec!["f.1.image".into(), "never".into()]);
        assert_eq!(names(), ["a"]);
        // What was left long ago goes.
        std::fs::write(temporary.path().join("upload-1-1.part"), "left").unwrap();
        let opened = open(temporary.path()).unwrap();
        sweep(&opened, SystemTime::now()).unwrap();
        assert_eq!(names(), ["a", "upload-1-1.part"]);
        sweep(&opened, SystemTime::now() + 2 * LEFT).unwrap();
        assert_eq!(names(), ["a"]);
        std::fs::remove_dir_all(temporary.path()).unwrap();
        assert!(folder.replace("a", Vec::new()).is_err());
    }
}
