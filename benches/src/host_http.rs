//! The guests' HTTP server as a program of the host: the very same connections
//! and responses, each connection in a thread that blocks.

use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use hv_guest_http::{Entry, File, Request, Response, Root, Source, Unlimited, connection};
use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// A socket whose futures block instead of waiting.
struct Blocking(TcpStream);

impl ErrorType for Blocking {
    type Error = ErrorKind;
}

impl Read for Blocking {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        self.0.read(buffer).map_err(|_| ErrorKind::Other)
    }
}

impl Write for Blocking {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.0.write(bytes).map_err(|_| ErrorKind::Other)
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

/// Runs a future that blocks instead of waiting.
fn run<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("sockets and files here block"),
    }
}

/// Serves HTTP for good, with a handler for each connection.
///
/// # Errors
///
/// What accepting connections fails with.
pub fn serve<H>(listener: &TcpListener, handler: impl Fn() -> H + Clone + Send + 'static) -> io::Result<()>
where
    H: AsyncFn(&Request<'_>) -> Response,
{
    loop {
        let (socket, _) = listener.accept()?;
        // As in a guest: answers are written whole.
        socket.set_nodelay(true)?;
        let handler = handler.clone();
        std::thread::spawn(move || {
            // An error means that the client has disconnected.
            let _ = run(connection(&mut Blocking(socket), &handler(), &Unlimited));
        });
    }
}

/// Files in memory.
#[derive(Clone)]
pub struct InMemory(Arc<BTreeMap<String, Arc<[u8]>>>);

impl InMemory {
    /// The files of a folder, without those of the folders in it.
    ///
    /// # Errors
    ///
    /// What reading them fails with.
    pub fn read(folder: &Path) -> io::Result<InMemory> {
        let mut files = BTreeMap::new();
        for entry in folder.read_dir()? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let path = format!("/{}", entry.file_name().display());
                files.insert(path, std::fs::read(entry.path())?.into());
            }
        }
        Ok(InMemory(Arc::new(files)))
    }
}

/// A file in memory, being read.
pub struct Opened {
    bytes: Arc<[u8]>,
    position: usize,
}

impl Source for Opened {
    fn read<'a>(&'a mut self, buffer: &'a mut [u8]) -> Pin<Box<dyn Future<Output = Option<usize>> + 'a>> {
        let rest = &self.bytes[self.position..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Box::pin(ready(Some(count)))
    }
}

impl File for Opened {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn seek(&mut self, offset: u64) {
        self.position = offset as usize;
    }
}

impl Root for InMemory {
    type File = Opened;
    type Error = &'static str;

    fn is_absent(_: &Self::Error) -> bool {
        true
    }

    async fn is_folder(&self, path: &str) -> Result<bool, Self::Error> {
        Ok(path == "/")
    }

    async fn list(&self, _: &str) -> Result<Vec<Entry>, Self::Error> {
        let entry = |(path, bytes): (&String, &Arc<[u8]>)| Entry {
            name: path[1..].to_owned(),
            is_folder: false,
            size: bytes.len() as u64,
        };
        Ok(self.0.iter().map(entry).collect())
    }

    async fn open(&self, path: &str) -> Result<Opened, Self::Error> {
        let bytes = self.0.get(path).ok_or("no such file")?.clone();
        Ok(Opened { bytes, position: 0 })
    }

    async fn read(&self, file: &mut Opened, bytes: &mut [u8]) -> Result<(), Self::Error> {
        bytes.copy_from_slice(&file.bytes[..bytes.len()]);
        Ok(())
    }
}
