//! Requests as they arrive.

use alloc::string::String;
use alloc::vec::Vec;

/// Most bytes of a request's head, and of its body.
const MAX_HEAD: usize = 8 << 10;
const MAX_BODY: usize = 64 << 10;
/// Most header fields of a request.
const FIELDS: usize = 48;

/// A request with its body, all of which has arrived.
#[derive(Debug)]
pub struct Request<'a> {
    method: &'a str,
    target: &'a str,
    fields: heapless::Vec<(&'a str, &'a [u8]), FIELDS>,
    keep_alive: bool,
    body: &'a [u8],
}

/// What some bytes turned out to be.
#[expect(clippy::large_enum_variant, reason = "taken apart where it is made; a box would be one per request")]
pub(crate) enum Parsed<'a> {
    /// A request, with its length.
    Request(Request<'a>, usize),
    /// The start of one; it takes this many bytes at least.
    Incomplete(usize),
    /// Something to refuse with this status.
    Refused(u16),
}

pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let mut headers = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD => return Parsed::Refused(431),
        Ok(httparse::Status::Partial) => return Parsed::Incomplete(bytes.len() + 1),
        Err(httparse::Error::TooManyHeaders) => return Parsed::Refused(431),
        Err(httparse::Error::Version) => return Parsed::Refused(505),
        Err(_) => return Parsed::Refused(400),
    };
    let mut parsed = Request {
        method: request.method.unwrap_or_default(),
        target: request.path.unwrap_or_default(),
        fields: request.headers.iter().map(|field| (field.name, field.value)).collect(),
        keep_alive: false,
        body: &[],
    };
    // With a length that two sides may understand differently, what follows
    // might be taken for another request.
    if parsed.header("transfer-encoding").is_some() {
        return Parsed::Refused(501);
    }
    let mut lengths = parsed.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let body = match (lengths.next(), lengths.next()) {
        (None, _) => 0,
        (Some((_, length)), None) => match core::str::from_utf8(length).ok().and_then(digits) {
            Some(length) => length,
            None => return Parsed::Refused(400),
        },
        _ => return Parsed::Refused(400),
    };
    let Some(total) = usize::try_from(body).ok().filter(|body| *body <= MAX_BODY).map(|body| head + body)
    else {
        return Parsed::Refused(413);
    };
    if bytes.len() < total {
        return Parsed::Incomplete(total);
    }
    parsed.body = &bytes[head..total];
    let asks = |what: &str| {
        let tokens = parsed.header("connection").unwrap_or_default().split(',');
        tokens.into_iter().any(|token| token.trim().eq_ignore_ascii_case(what))
    };
    parsed.keep_alive = match request.version {
        Some(1) => !asks("close"),
        _ => asks("keep-alive"),
    };
    Parsed::Request(parsed, total)
}

/// A number that consists of digits alone.
pub(crate) fn digits(text: &str) -> Option<u64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

impl<'a> Request<'a> {
    /// Its method: `GET`, say.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The path as it was sent, percent-encoding and all, without the query.
    pub fn path(&self) -> &'a str {
        self.target.split(['?', '#']).next().unwrap_or_default()
    }

    /// What follows the `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// The value of a header field, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name))?;
        core::str::from_utf8(value).ok()
    }

    /// Its body.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Whether the connection goes on after the answer.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }
}

/// Undoes percent-encoding. `None` for what is not encoded properly, is not
/// UTF-8, or has a NUL in it.
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests;
