//! Serves the files of a disk.

use super::request::digits;
use super::{Body, Request, Response, Source, decode};
use crate::fs::{Entry, Error, File, FileSystem};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::RefCell;
use core::fmt::Write;
use core::future::Future;
use core::ops::Range;
use core::pin::Pin;

/// Files up to this size are kept; larger ones are streamed.
const SMALL: u64 = 16 << 10;

/// Answers requests for the files and folders of a file system.
///
/// A folder is answered with its `index.html`, or else with a list of its
/// content. Small files stay in memory, the least recently used going first.
pub struct Files {
    root: FileSystem,
    cache: RefCell<Cache>,
}

impl Files {
    /// Serves this file system, with at most this many bytes of files in memory.
    pub fn new(root: FileSystem, cache: usize) -> Self {
        Files { root, cache: RefCell::new(Cache { limit: cache, ..Cache::default() }) }
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
            Err(Error::NotFound | Error::NotAFolder | Error::IsAFolder) => Response::status(404),
            Err(error) => {
                log::error!("{path}: {error}");
                Response::status(500)
            }
        }
    }

    async fn find(&self, request: &Request<'_>, path: &str) -> Result<Response, Error> {
        let kept = self.cache.borrow_mut().get(path);
        if let Some(bytes) = kept {
            return Ok(whole_or_part(request, path, Content::Kept(bytes)));
        }
        if !self.root.metadata(path)?.is_dir {
            // "file/" names a folder, which it is not.
            return if path.ends_with('/') {
                Err(Error::NotFound)
            } else {
                self.file(request, path, path).await
            };
        }
        if !path.ends_with('/') {
            return Ok(Response::status(301).header("Location", &format!("{}/", request.path())));
        }
        let index = format!("{path}index.html");
        match self.file(request, &index, path).await {
            Err(Error::NotFound | Error::IsAFolder) => self.list(path),
            found => found,
        }
    }

    /// A file; a small one is kept under the name that was asked for.
    async fn file(&self, request: &Request<'_>, path: &str, asked: &str) -> Result<Response, Error> {
        let mut file = self.root.open(path)?;
        let content = if file.len() <= SMALL {
            let mut bytes = alloc::vec![0; file.len() as usize];
            file.read_exact_at(0, &mut bytes).await?;
            let bytes: Rc<[u8]> = bytes.into();
            self.cache.borrow_mut().insert(asked, bytes.clone());
            Content::Kept(bytes)
        } else {
            Content::OnDisk(file)
        };
        Ok(whole_or_part(request, asked, content))
    }

    fn list(&self, path: &str) -> Result<Response, Error> {
        let mut entries = self.root.read_dir(path)?;
        entries.sort_by(|a, b| (!a.metadata.is_dir, &a.name).cmp(&(!b.metadata.is_dir, &b.name)));
        let title = escape(path);
        let mut page = format!(
            "<!DOCTYPE html>\n<meta charset=utf-8>\n<title>{title}</title>\n<h1>{title}</h1>\n<ul>\n"
        );
        if path != "/" {
            page.push_str("<li><a href=\"../\">../</a>\n");
        }
        for Entry { name, metadata } in entries {
            let slash = if metadata.is_dir { "/" } else { "" };
            let _ = write!(page, "<li><a href=\"./{}{slash}\">{}{slash}</a>", encode(&name), escape(&name));
            let _ = if metadata.is_dir { writeln!(page) } else { writeln!(page, " {} bytes", metadata.len) };
        }
        page.push_str("</ul>\n");
        let body = Body::Bytes(page.into_bytes().into());
        Ok(Response::new(200, body).header("Content-Type", "text/html; charset=utf-8"))
    }
}

enum Content {
    Kept(Rc<[u8]>),
    OnDisk(File),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Content::Kept(bytes) => bytes.len() as u64,
            Content::OnDisk(file) => file.len(),
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

impl Source for File {
    fn read<'a>(&'a mut self, buffer: &'a mut [u8]) -> Pin<Box<dyn Future<Output = Option<usize>> + 'a>> {
        Box::pin(async move { File::read(self, buffer).await.ok() })
    }
}

/// Answers with what the request wants of a file.
fn whole_or_part(request: &Request<'_>, path: &str, content: Content) -> Response {
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

/// The bytes that a Range field asks for; an error if there are none such.
/// `None` for what a server may ignore: other units, several ranges, nonsense.
fn range(value: &str, len: u64) -> Option<Result<Range<u64>, ()>> {
    let (first, last) = value.strip_prefix("bytes=")?.trim().split_once('-')?;
    let range = match (first, last) {
        ("", "") => return None,
        ("", suffix) => len.saturating_sub(digits(suffix)?)..len,
        (first, "") => digits(first)?..len,
        (first, last) => {
            let (first, last) = (digits(first)?, digits(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(len)
        }
    };
    Some(if range.start < range.end { Ok(range) } else { Err(()) })
}

/// The type that a name's ending stands for.
fn content_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
    match ending.as_str() {
        // A folder, answered with its index.
        _ if name.is_empty() => "text/html; charset=utf-8",
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "txt" | "md" | "rs" | "toml" | "log" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/vnd.microsoft.icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        _ => "application/octet-stream",
    }
}

/// Text for a page.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            char => escaped.push(char),
        }
    }
    escaped
}

/// A name for a URL.
fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            byte => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// Files by the path they were asked for, up to a number of bytes.
#[derive(Default)]
struct Cache {
    files: BTreeMap<String, (u64, Rc<[u8]>)>,
    /// The paths by their last use.
    uses: BTreeMap<u64, String>,
    clock: u64,
    bytes: usize,
    limit: usize,
}

impl Cache {
    fn get(&mut self, path: &str) -> Option<Rc<[u8]>> {
        let (used, bytes) = self.files.get_mut(path)?;
        self.clock += 1;
        if let Some(path) = self.uses.remove(used) {
            self.uses.insert(self.clock, path);
        }
        *used = self.clock;
        Some(bytes.clone())
    }

    fn insert(&mut self, path: &str, bytes: Rc<[u8]>) {
        // Also what keeping track of a file takes.
        let cost = |path: &str, bytes: &[u8]| bytes.len() + 2 * path.len() + 128;
        let size = cost(path, &bytes);
        if size > self.limit || self.files.contains_key(path) {
            return;
        }
        while self.bytes + size > self.limit {
            let Some((_, oldest)) = self.uses.pop_first() else { break };
            if let Some((_, bytes)) = self.files.remove(&oldest) {
                self.bytes -= cost(&oldest, &bytes);
            }
        }
        self.clock += 1;
        self.bytes += size;
        self.uses.insert(self.clock, path.to_owned());
        self.files.insert(path.to_owned(), (self.clock, bytes));
    }
}
