//! How requests of HTTP/1 are framed, checked more strictly than hyper does.
//!
//! hyper takes some messages that other recipients read in another way (lines that end in LF alone, both lengths at
//! once). A proxy in front of hv may have seen other requests in them: that is how requests are smuggled (RFC 9112,
//! sections 2.2, 6.3 and 11.2). So what is ambiguous is made invalid before hyper reads it, by a NUL in the place of
//! the end of the line. hyper refuses that with 400, after the answers that are due before, and closes.
//!
//! Bodies pass unchanged; hyper is strict in the lines between chunks.
#![forbid(unsafe_code)]

/// Bytes of a line that are kept: enough for the names and values that matter here.
const KEPT: usize = 64;

/// The first line of a connection that speaks HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Reads the requests of one connection along with hyper.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    line: Line,
    body: BodyLength,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the first line of a head, or before it.
    RequestLine,
    /// In the lines behind that.
    Fields,
    /// In a body, with so many bytes to come.
    Body(u64),
    /// In the line with the size of a chunk.
    ChunkSize,
    /// In a chunk, with so many bytes to come, and the line end behind it.
    Chunk(u64),
    /// In the lines behind the last chunk.
    Trailers,
    /// Nothing is looked at any more: it is another protocol, or hyper refuses what has come.
    Off,
}

/// What the fields so far say of the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum BodyLength {
    #[default]
    Unsaid,
    Bytes(u64),
    Chunked,
}

/// The line that is being read.
#[derive(Debug)]
struct Line {
    bytes: [u8; KEPT],
    /// Bytes of the line so far, of which the first ones are kept.
    len: usize,
    /// The last of them.
    last: u8,
}

impl Line {
    fn push(&mut self, part: &[u8]) {
        if self.len < KEPT {
            let count = part.len().min(KEPT - self.len);
            self.bytes[self.len..self.len + count].copy_from_slice(&part[..count]);
        }
        self.len = self.len.saturating_add(part.len());
        self.last = part.last().copied().unwrap_or(self.last);
    }

    fn clear(&mut self) {
        self.len = 0;
        self.last = 0;
    }

    /// The line without its CR, as far as it was kept; the second is whether that is all of it.
    fn text(&self) -> (&[u8], bool) {
        let len = self.len.saturating_sub(1);
        (&self.bytes[..len.min(KEPT)], len <= KEPT)
    }
}

impl Framing {
    pub(super) fn new() -> Self {
        Framing {
            state: State::RequestLine,
            line: Line { bytes: [0; KEPT], len: 0, last: 0 },
            body: BodyLength::Unsaid,
        }
    }

    /// From here on the connection has another protocol.
    pub(super) fn stop(&mut self) {
        self.state = State::Off;
    }

    /// Checks what has come, and makes what is ambiguous invalid.
    pub(super) fn check(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let count = match self.state {
                State::Off => return,
                State::Body(left) => self.skip(left, bytes.len(), State::RequestLine, State::Body),
                // Two bytes end a chunk; hyper looks which ones.
                State::Chunk(left) => self.skip(left, bytes.len(), State::ChunkSize, State::Chunk),
                State::RequestLine | State::Fields | State::ChunkSize | State::Trailers => self.lines(bytes),
            };
            bytes = &mut bytes[count..];
        }
    }

    /// Passes bytes of a body, of which so many are to come, and so many are here.
    fn skip(&mut self, left: u64, here: usize, behind: State, within: fn(u64) -> State) -> usize {
        let count = left.min(here as u64);
        self.state = if count == left { behind } else { within(left - count) };
        count as usize
    }

    /// Takes a line, or the part of it that is here. Returns its bytes.
    fn lines(&mut self, bytes: &mut [u8]) -> usize {
        let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
            self.line.push(bytes);
            return bytes.len();
        };
        self.line.push(&bytes[..end]);
        let next = if self.line.last == b'\r' { self.line_ended() } else { None };
        self.line.clear();
        if next.is_none() && self.state != State::ChunkSize {
            bytes[end] = 0;
        }
        self.state = next.unwrap_or(State::Off);
        end + 1
    }

    /// What comes behind this line; `None`: it must not be.
    fn line_ended(&mut self) -> Option<State> {
        let (line, whole) = self.line.text();
        match self.state {
            State::RequestLine if line.is_empty() => Some(State::RequestLine),
            State::RequestLine if line == PREFACE => Some(State::Off),
            State::RequestLine => {
                self.body = BodyLength::Unsaid;
                Some(State::Fields)
            }
            State::Fields if line.is_empty() => Some(match self.body {
                BodyLength::Unsaid | BodyLength::Bytes(0) => State::RequestLine,
                BodyLength::Bytes(count) => State::Body(count),
                BodyLength::Chunked => State::ChunkSize,
            }),
            State::Fields => {
                self.body = field(line, whole, self.body)?;
                Some(State::Fields)
            }
            State::ChunkSize => Some(match chunk_size(line) {
                Some(0) => State::Trailers,
                Some(size) => size.checked_add(2).map_or(State::Off, State::Chunk),
                None => State::Off,
            }),
            State::Trailers if line.is_empty() => Some(State::RequestLine),
            state => Some(state),
        }
    }
}

/// What is known of the body's length behind this field; `None`: the field is in conflict with one before it.
fn field(line: &[u8], whole: bool, before: BodyLength) -> Option<BodyLength> {
    let Some(colon) = line.iter().position(|&byte| byte == b':') else { return Some(before) };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.eq_ignore_ascii_case(b"content-length") {
        let digits =
            std::str::from_utf8(value).ok().filter(|_| whole && value.iter().all(u8::is_ascii_digit));
        let count = digits?.parse().ok()?;
        return (before == BodyLength::Unsaid).then_some(BodyLength::Bytes(count));
    }
    if name.eq_ignore_ascii_case(b"transfer-encoding") {
        return (before == BodyLength::Unsaid).then_some(BodyLength::Chunked);
    }
    Some(before)
}

/// The size in the first line of a chunk, if it has one.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let size = line.split(|byte| *byte == b';').next()?.trim_ascii();
    if size.is_empty() || !size.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What hyper gets to see of this, cut in pieces of so many bytes.
    fn seen(text: &[u8], piece: usize) -> Vec<u8> {
        let (mut framing, mut bytes) = (Framing::new(), text.to_vec());
        bytes.chunks_mut(piece.max(1)).for_each(|piece| framing.check(piece));
        bytes
    }

    #[test]
    fn requests_with_and_without_bodies_pass_unchanged() {
        let texts: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\n\n\n\nGET / HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\n\na\n\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"PUT / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\n\n\n",
            // hyper refuses these: nothing is to be done.
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nb\r\n\n\n",
        ];
        for text in texts {
            for piece in [1, 2, 3, 7, text.len()] {
                assert_eq!(seen(text, piece), text, "{}", String::from_utf8_lossy(text));
            }
        }
    }

    #[test]
    fn what_others_read_in_another_way_is_made_invalid_at_the_end_of_its_line() {
        for (text, at) in [
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", 14),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", 23),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", 25),
            ("\nGET / HTTP/1.1\r\n", 0),
            ("A / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 60),
            ("A / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nCONTENT-length: 1\r\n\r\n", 60),
            ("A / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 51),
            ("A / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 33),
            ("A / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", 35),
            ("A / HTTP/1.1\r\nContent-Length:\r\n\r\n", 30),
            ("A / HTTP/1.1\r\nTransfer-Encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n", 70),
            ("A / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n", 51),
        ] {
            for piece in [1, 2, 5, text.len()] {
                let mut expected = text.as_bytes().to_vec();
                expected[at] = 0;
                let seen = seen(text.as_bytes(), piece);
                assert_eq!(seen, expected, "{text:?}: {:?}", String::from_utf8_lossy(&seen));
            }
        }
    }

    #[test]
    fn lines_of_any_length_are_read() {
        let long = "x".repeat(1000);
        let text = format!("GET /{long} HTTP/1.1\r\n{long}: {long}\r\nContent-Length: 3\r\n\r\n\n\n\n");
        assert_eq!(seen(text.as_bytes(), 10), text.as_bytes());
        let zeros = "0".repeat(100);
        let text = format!("GET / HTTP/1.1\r\nContent-Length: {zeros}3\r\n\r\n");
        assert_ne!(seen(text.as_bytes(), 10), text.as_bytes(), "of which the end is not known");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            parts in prop::collection::vec(prop::sample::select(vec![
                "\r\n", "\n", "\r", "GET / HTTP/1.1\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n",
                "5\r\nabcde\r\n", "0\r\n\r\n", "abcde", "Host: a\r\n", ":", "ffffffffffffffff\r\n",
            ]), 0..20),
            piece in 1usize..40,
        ) {
            let text = parts.concat().into_bytes();
            prop_assert_eq!(seen(&text, piece), seen(&text, text.len()));
        }
    }
}
