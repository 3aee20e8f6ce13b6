use super::*;
use crate::Unlimited;
use crate::testing::{Bytes, play, play_with};
use alloc::format;
use alloc::string::String;
use core::cell::Cell;
use proptest::prelude::*;

/// Answers with the method, the path and the body.
fn echo(request: &Request<'_>) -> Response {
    let body = String::from_utf8_lossy(request.body());
    Response::text(200, &format!("{} {} {body}", request.method(), request.path()))
}

const GET: &str = "GET /a HTTP/1.1\r\n\r\n";
const POST: &str = "POST /b HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody";
const LAST: &str = "GET /c HTTP/1.1\r\nConnection: close\r\n\r\n";

#[test]
fn requests_that_arrive_together_are_answered_together() {
    let three = [GET, POST, LAST].concat();
    let socket = play([three.as_bytes()], echo);
    assert_eq!(socket.writes.len(), 1);
    let text = socket.text();
    let places = ["GET /a ", "POST /b body", "GET /c "].map(|answer| text.find(answer).unwrap());
    assert!(places.is_sorted());
    assert_eq!(text.matches("Connection: keep-alive").count(), 2);
    assert_eq!(text.matches("Connection: close").count(), 1);
}

#[test]
fn requests_in_two_pieces_cut_anywhere() {
    let three = [GET, POST, LAST].concat();
    let expected = play([three.as_bytes()], echo).text();
    for at in 0..three.len() {
        let (first, second) = three.as_bytes().split_at(at);
        assert_eq!(play([first, second], echo).text(), expected, "cut at {at}");
    }
    assert_eq!(play(three.as_bytes().chunks(1), echo).text(), expected);
}

#[test]
fn connections_end_when_they_should() {
    let answers = |text: &str| play([text.as_bytes()], echo).text().matches("HTTP/1.1 200").count();
    assert_eq!(answers(""), 0);
    assert_eq!(answers(&GET[..10]), 0);
    assert_eq!(answers(&[GET, GET].concat()), 2);
    // Nothing is answered behind the last request, or behind what is none.
    assert_eq!(answers(&[LAST, GET].concat()), 1);
    assert_eq!(answers("GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n"), 1);
    assert_eq!(answers(&[GET, "nonsense(\r\n\r\n", GET].concat()), 1);
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let text = play([[GET, chunked, GET].concat().as_bytes()], echo).text();
    assert_eq!(text.matches("HTTP/1.1").count(), 2);
    assert!(text.contains("HTTP/1.1 501 ") && text.contains("Connection: close"));
}

#[test]
fn a_head_without_a_body() {
    let heads = ["HEAD /a HTTP/1.1\r\n\r\n", "HEAD /c HTTP/1.1\r\nConnection: close\r\n\r\n"].concat();
    let socket = play([heads.as_bytes()], echo);
    assert_eq!(socket.writes.len(), 1);
    assert_eq!(socket.text().matches("Content-Length: 8\r\n").count(), 2);
    assert!(!socket.text().contains("HEAD"));
}

#[test]
fn large_answers_go_out_from_where_they_are() {
    let large = "x".repeat(GATHER + 1);
    let socket = play([[GET, LAST].concat().as_bytes()], |_| Response::text(200, &large));
    assert_eq!(socket.writes.len(), 4);
    assert_eq!(socket.writes[1], large.as_bytes());
    assert_eq!(socket.writes[3], large.as_bytes());
}

/// Answers with a stream of `len` bytes, of which `there` are there.
fn streams(len: usize, there: usize) -> impl Fn(&Request<'_>) -> Response {
    move |_| {
        let bytes: Vec<u8> = (0..there).map(|n| b'a' + (n % 26) as u8).collect();
        let source = Box::new(Bytes::new(&bytes, 10_000));
        Response::new(200, Body::Stream { len: len as u64, source })
    }
}

#[test]
fn streamed_bodies() {
    for len in [0, 1, 9_999, 10_000, 10_001, 100_000] {
        // A source may have more to give than is asked for.
        let socket = play([[GET, LAST].concat().as_bytes()], streams(len, len + 5));
        let text = socket.text();
        assert_eq!(text.matches(&format!("Content-Length: {len}\r\n")).count(), 2);
        let (head, rest) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"));
        assert!(rest[len..].starts_with("HTTP/1.1 200 OK"), "{len}");
        assert!(rest.as_bytes()[..len].iter().enumerate().all(|(n, byte)| *byte == b'a' + (n % 26) as u8));
    }
}

#[test]
fn a_stream_that_ends_early_ends_the_connection() {
    let (socket, end) = play_with([[GET, LAST].concat().as_bytes()], &Unlimited, streams(30_000, 20_000));
    assert_eq!(end, Err(Error::Source));
    assert_eq!(socket.text().split_once("\r\n\r\n").unwrap().1.len(), 20_000);
}

#[test]
fn a_stream_of_which_nothing_can_be_read_is_answered_with_500() {
    let (socket, end) = play_with([[GET, LAST].concat().as_bytes()], &Unlimited, streams(30_000, 0));
    assert_eq!(end, Ok(()));
    let text = socket.text();
    assert_eq!(text.matches("HTTP/1.1 500 ").count(), 2, "{text}");
    assert_eq!(text.matches("HTTP/1.1 ").count(), 2, "{text}");
}

/// So many bytes, for all.
struct Bounded(Cell<usize>);

struct Part<'a>(&'a Bounded, usize);

impl Memory for Bounded {
    type Share<'a> = Part<'a>;

    fn left(&self) -> usize {
        self.0.get()
    }

    fn share(&self) -> Part<'_> {
        Part(self, 0)
    }
}

impl Share for Part<'_> {
    fn grow(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.1);
        let Some(left) = self.0.left().checked_sub(more) else { return false };
        self.0.0.set(left);
        self.1 += more;
        true
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.0.0.set(self.0.left() + self.1);
    }
}

#[test]
fn memory_is_asked_for_and_given_back() {
    let large = format!("POST / HTTP/1.1\r\nContent-Length: 30000\r\n\r\n{}", "x".repeat(30_000));
    for (bytes, status) in [(0, 503), (30_000, 503), (31_000, 200)] {
        let memory = Bounded(Cell::new(bytes));
        let (socket, end) = play_with([large.as_bytes()], &memory, echo);
        assert_eq!(end, Ok(()));
        assert!(socket.text().starts_with(&format!("HTTP/1.1 {status} ")), "{bytes}");
        assert_eq!(memory.left(), bytes);
    }
    // Small requests and streams are served even when there is none.
    let memory = Bounded(Cell::new(0));
    let (socket, end) = play_with([LAST.as_bytes()], &memory, streams(20_000, 20_000));
    assert_eq!(end, Ok(()));
    assert!(socket.writes.iter().all(|write| write.len() <= SMALL_CHUNK));
    assert_eq!(socket.text().split_once("\r\n\r\n").unwrap().1.len(), 20_000);
}

proptest! {
    #[test]
    fn any_bytes_are_answered_with_responses(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..8),
        start in 0usize..3,
    ) {
        let start = [GET, &POST[..POST.len() - 3], ""][start].as_bytes();
        let mut all = alloc::vec![start];
        all.extend(pieces.iter().map(Vec::as_slice));
        let socket = play(all, echo);
        let written = socket.writes.concat();
        prop_assert!(written.is_empty() || written.starts_with(b"HTTP/1.1 "));
    }
}
