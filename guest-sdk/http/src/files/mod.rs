//! Serves files.

mod cache;
mod names;
mod range;
#[cfg(test)]
mod tests;

use crate::{Body, Request, Response, Source, decode};
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use cache::Cache;
use core::cell::RefCell;
use core::fmt::Write;
use core::future::Future;
use core::ops::Range;
use names::{content_type, encode, escape};
use range::range;

/// Files up to this size are kept; larger ones are streamed.
const SMALL: u64 = 16 << 10;

/// Where the files come from: a file system, say.
///
/// Paths start with a `/`, and have no `..` in them.
pub trait Root {
    /// An open file.
    type File: File + 'static;
    /// Why something cannot be read.
    type Error: core::fmt::Display;

    /// Whether the error says that there is no such file or folder.
    fn is_absent(error: &Self::Error) -> bool;

    /// Whether there is a folder of this name, rather than a file.
    ///
    /// # Errors
    ///
    /// An absent file or folder; one that cannot be read.
    fn is_folder(&self, path: &str) -> impl Future<Output = Result<bool, Self::Error>>;

    /// The content of a folder, without itself and its parent.
    ///
    /// # Errors
    ///
    /// As [`is_folder`](Self::is_folder).
    fn list(&self, path: &str) -> impl Future<Output = Result<Vec<Entry>, Self::Error>>;

    /// Opens a file. A folder of that name is no file.
    ///
    /// # Errors
    ///
    /// As [`is_folder`](Self::is_folder).
    fn open(&self, path: &str) -> impl Future<Output = Result<Self::File, Self::Error>>;

    /// Fills `bytes` from the start of the file.
    fn read(&self, file: &mut Self::File, bytes: &mut [u8]) -> impl Future<Output = Result<(), Self::Error>>;
}

/// An open file: the source of its bytes, one after the other.
pub trait File: Source {
    /// Its length in bytes.
    fn size(&self) -> u64;

    /// Has the next read start at this offset.
    fn seek(&mut self, offset: u64);
}

/// A file or folder within a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, as it was given.
    pub name: String,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// Bytes of a file.
    pub size: u64,
}

/// Answers requests for the files and folders of a file system.
///
/// A folder is answered with its `index.html`, or else with a list of its
/// content. Small files stay in memory, the least recently used going first.
pub struct Files<R> {
    root: R,
    cache: RefCell<Cache>,
}

impl<R: Root> Files<R> {
    /// Serves these files, with at most this many bytes of files in memory.
    pub fn new(root: R, cache: usize) -> Self {
        Files { root, cache: RefCell::new(Cache::new(cache)) }
    }

    /// Forgets so many bytes of the files in memory, or all of them: memory is short.
    pub fn give_up(&self, bytes: usize) {
        let cache = &mut *self.cache.borrow_mut();
        cache.shrink(cache.bytes().saturating_sub(bytes));
    }

    /// The answer to a request: GET and HEAD, with ranges.
    pub async fn respond(&self, request: &Request<'_>) -> Response {
        if !matches!(request.method(), "GET" | "HEAD") {
            return Response::status(405).header("Allow", "GET, HEAD");
        }
        let Some(path) = decode(request.path()) else { return Response::status(400) };
        if !path.starts_with('/') {
            return Response::status(400);
        }
        if path.split(['/', '\\']).any(|part| part == "..") {
            return Response::status(403);
        }
        match self.find(request, &path).await {
            Ok(response) => response,
            Err(error) if R::is_absent(&error) => Response::status(404),
            Err(error) => {
                log::error!("{path}: {error}");
                Response::status(500)
            }
        }
    }

    async fn find(&self, request: &Request<'_>, path: &str) -> Result<Response, R::Error> {
        let kept = self.cache.borrow_mut().get(path);
        if let Some(bytes) = kept {
            return Ok(whole_or_part(request, path, Content::<R::File>::Kept(bytes)));
        }
        if !self.root.is_folder(path).await? {
            // "file/" names a folder, which it is not.
            return if path.ends_with('/') {
                Ok(Response::status(404))
            } else {
                self.file(request, path, path).await
            };
        }
        if !path.ends_with('/') {
            return Ok(Response::status(301).header("Location", &format!("{}/", request.path())));
        }
        let index = format!("{path}index.html");
        match self.file(request, &index, path).await {
            Err(error) if R::is_absent(&error) => self.list(path).await,
            found => found,
        }
    }

    /// A file; a small one is kept under the name that was asked for.
    async fn file(&self, request: &Request<'_>, path: &str, asked: &str) -> Result<Response, R::Error> {
        let mut file = self.root.open(path).await?;
        let content = if file.size() <= SMALL {
            let mut bytes = alloc::vec![0; file.size() as usize];
            self.root.read(&mut file, &mut bytes).await?;
            let bytes: Rc<[u8]> = bytes.into();
            self.cache.borrow_mut().insert(asked, bytes.clone());
            Content::Kept(bytes)
        } else {
            Content::OnDisk(file)
        };
        Ok(whole_or_part(request, asked, content))
    }

    async fn list(&self, path: &str) -> Result<Response, R::Error> {
        let mut entries = self.root.list(path).await?;
        entries.sort_by(|a, b| (!a.is_folder, &a.name).cmp(&(!b.is_folder, &b.name)));
        let title = escape(path);
        let mut page = format!(
            "<!DOCTYPE html>\n<meta charset=utf-8>\n<title>{title}</title>\n<h1>{title}</h1>\n<ul>\n"
        );
        if path != "/" {
            page.push_str("<li><a href=\"../\">../</a>\n");
        }
        for Entry { name, is_folder, size } in entries {
            let slash = if is_folder { "/" } else { "" };
            let _ = write!(page, "<li><a href=\"./{}{slash}\">{}{slash}</a>", encode(&name), escape(&name));
            let _ = if is_folder { writeln!(page) } else { writeln!(page, " {} bytes", size) };
        }
        page.push_str("</ul>\n");
        let body = Body::Bytes(page.into_bytes().into());
        Ok(Response::new(200, body).header("Content-Type", "text/html; charset=utf-8"))
    }
}

enum Content<F> {
    Kept(Rc<[u8]>),
    OnDisk(F),
}

impl<F: File + 'static> Content<F> {
    fn len(&self) -> u64 {
        match self {
            Content::Kept(bytes) => bytes.len() as u64,
            Content::OnDisk(file) => file.size(),
        }
    }

    fn body(self, range: Range<u64>) -> Body {
        match self {
            Content::Kept(bytes) if range == (0..bytes.len() as u64) => Body::Bytes(bytes),
            Content::Kept(bytes) => Body::Bytes(bytes[range.start as usize..range.end as usize].into()),
            Content::OnDisk(mut file) => {
                file.seek(range.start);
                Body::Stream { len: range.end - range.start, source: Box::new(file) }
            }
        }
    }
}

/// Answers with what the request wants of a file.
fn whole_or_part<F: File + 'static>(request: &Request<'_>, path: &str, content: Content<F>) -> Response {
    let len = content.len();
    let typed = |response: Response| {
        response.header("Content-Type", content_type(path)).header("Accept-Ranges", "bytes")
    };
    match request.header("range").and_then(|value| range(value, len)) {
        None => typed(Response::new(200, content.body(0..len))),
        Some(Ok(range)) => {
            let place = format!("bytes {}-{}/{len}", range.start, range.end - 1);
            typed(Response::new(206, content.body(range))).header("Content-Range", &place)
        }
        Some(Err(())) => Response::status(416).header("Content-Range", &format!("bytes */{len}")),
    }
}
