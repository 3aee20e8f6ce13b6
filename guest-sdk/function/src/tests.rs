//! Requests and answers, over every kind of ring and in every kind of pieces.

use crate::testing::{Outcome, answers, frame, pattern, play, request};
use crate::{Error, IntoResponse, Request, Response, ServeError};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use embassy_futures::join::join;
use hv_abi::io::function::{FrameHeader, FrameKind};
use proptest::prelude::*;
use zerocopy::IntoBytes;

const GET: &str = "GET /a%20path?name=Ada&empty&escaped=%c3%a9+e%21&bad=%zz HTTP/1.1\r\nHost: example\r\nX-Thing:  some value \r\n\r\n";
const TEXT: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n";

fn texts(outcome: &Outcome) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    answers(&outcome.output).into_iter().map(|answer| (text(answer.head), text(answer.body))).collect()
}

#[test]
fn a_short_request_is_answered_with_one_doorbell() {
    let outcome = play(&[&request(GET, &[])], 65_536, async |_| "hello");
    assert_eq!(outcome.result, Ok(()));
    assert_eq!(texts(&outcome), [(TEXT.into(), "hello".into())]);
    assert_eq!(outcome.rings, 1);
}

#[test]
fn a_request_tells_its_parts() {
    let outcome = play(&[&request(GET, &[])], 4096, async |request: Request<'_, _>| {
        assert_eq!(request.method(), "GET");
        assert_eq!(request.path(), "/a%20path");
        assert_eq!(request.query(), Some("name=Ada&empty&escaped=%c3%a9+e%21&bad=%zz"));
        assert_eq!(request.param("name").as_deref(), Some("Ada"));
        assert_eq!(request.param("empty").as_deref(), Some(""));
        assert_eq!(request.param("escaped").as_deref(), Some("é e!"));
        assert_eq!(request.param("bad"), None);
        assert_eq!(request.param("nam"), None);
        assert_eq!(request.header("hOST"), Some("example"));
        assert_eq!(request.header("x-thing"), Some("some value"));
        assert_eq!(request.header("x-other"), None);
        assert_eq!(request.headers().map(|(name, _)| name).collect::<Vec<_>>(), ["Host", "X-Thing"]);
    });
    assert_eq!(texts(&outcome), [("HTTP/1.1 204 No Content\r\n\r\n".into(), String::new())]);
}

#[test]
fn handlers_may_return_many_things() {
    let get = |path: &str| request(&format!("GET {path} HTTP/1.1\r\n\r\n"), &[]);
    let requests = ["/string", "/created", "/bytes", "/error", "/built", "/json", "/other"].map(get).concat();
    let outcome = play(&[&requests], 1024, async |request: Request<'_, _>| -> Result<Response, String> {
        Ok(match request.path() {
            "/string" => "text".to_string().into_response(),
            "/created" => (201, "made").into_response(),
            "/bytes" => vec![b'x'; 3].into_response(),
            "/error" => return Err("the reason".into()),
            "/built" => Response::new(200)
                .header("Content-Type", "image/png")
                .header("X-\r\nInjected: ", "a\r\nb: c")
                .body(b"png".as_slice()),
            "/json" => Response::json(400, "{}"),
            _ => Response::status(404),
        })
    });
    let head =
        |status: &str, content_type: &str| format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n");
    let plain = "text/plain; charset=utf-8";
    let expected = [
        (head("200 OK", plain), "text"),
        (head("201 Created", plain), "made"),
        (head("200 OK", "application/octet-stream"), "xxx"),
        (head("500 Internal Server Error", plain), "500 Internal Server Error\n"),
        (head("200 OK", "image/png") + "X-Injected: ab: c\r\n", "png"),
        (head("400 Bad Request", "application/json"), "{}"),
        (head("404 Not Found", plain), "404 Not Found\n"),
    ];
    let expected = expected.map(|(head, body)| (head + "\r\n", body.to_string()));
    assert_eq!(texts(&outcome), expected);
    assert!(!outcome.output.windows(10).any(|window| window == b"the reason"));
}

#[test]
fn heads_that_are_none_are_refused_and_the_next_is_served() {
    let fields = |count: usize| (0..count).map(|n| format!("F{n}: {n}\r\n")).collect::<String>();
    let heads = [
        format!("GET / HTTP/1.1\r\n{}\r\n", fields(128)),
        format!("GET / HTTP/1.1\r\n{}\r\n", fields(129)),
        "nonsense".into(),
        "GET / HTTP/1.1\r\n".into(),
        "GET / HTTP/1.1\r\n\r\nmore".into(),
        "GET / HTTP/3.1\r\n\r\n".into(),
        GET.into(),
    ];
    let requests = heads.map(|head| request(&head, &[b"body"])).concat();
    let outcome = play(&[&requests], 256, async |_| "served");
    let statuses: Vec<_> = texts(&outcome).iter().map(|(head, _)| head[9..12].to_string()).collect();
    assert_eq!(statuses, ["200", "431", "400", "400", "400", "505", "200"]);
}

#[test]
fn a_head_that_would_be_too_long_becomes_an_error() {
    let outcome = play(&[&request(GET, &[])], 1024, async |_| {
        Response::new(200).header("X", &"x".repeat(17_000)).body(b"b".as_slice())
    });
    assert_eq!(texts(&outcome)[0].0, "HTTP/1.1 500 Internal Server Error\r\n\r\n");
}

#[test]
fn a_body_is_read_up_to_a_limit() {
    let body = pattern(1000);
    for (limit, status) in [(999, "413"), (1000, "200")] {
        let requests = [request(GET, &[&body[..600], &body[600..]]), request(GET, &[])].concat();
        let outcome = play(&[&requests], 128, async |mut request: Request<'_, _>| {
            match request.read_to_vec(limit).await {
                Ok(bytes) => Response::new(200).body(bytes),
                Err(error) => (413, error.to_string()).into_response(),
            }
        });
        let answers = answers(&outcome.output);
        assert_eq!(&answers[0].head[9..12], status.as_bytes());
        assert!(status != "200" || answers[0].body == body);
        assert_eq!(answers.len(), 2, "what was not read is dropped");
    }
}

/// Streams a request's body back, reading and writing in turn.
async fn echo<L: crate::Link>(mut request: Request<'_, L>) -> Result<Response, Error> {
    let mut stream = request.stream(Response::new(200).header("Content-Type", "a/b"));
    let mut bytes = [0; 100];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return Ok(stream.finish()),
            count => stream.write_all(&bytes[..count]).await?,
        }
    }
}

/// The same, reading and writing at once.
async fn echo_joined<L: crate::Link>(mut request: Request<'_, L>) -> Result<Response, Error> {
    let mut stream = request.stream(Response::new(200).header("Content-Type", "a/b"));
    let (body, writer) = stream.split();
    let queue = core::cell::RefCell::new(Vec::new());
    let read = async {
        let mut bytes = [0; 64];
        while let count @ 1.. = body.read(&mut bytes).await? {
            queue.borrow_mut().extend_from_slice(&bytes[..count]);
        }
        Ok::<_, Error>(())
    };
    let written = async {
        let zeroes = [0; 3000];
        writer.write_all(&zeroes).await?;
        writer.flush().await
    };
    let (read, written) = join(read, written).await;
    read?;
    written?;
    stream.write_all(&queue.take()).await?;
    Ok(stream.finish())
}

#[test]
fn reading_and_writing_at_once_loses_no_wake_up() {
    let body = pattern(5000);
    for size in [16, 64, 1024] {
        let outcome = play(&[&request(GET, &[&body])], size, async |request| echo_joined(request).await);
        let answer = answers(&outcome.output).remove(0);
        assert_eq!(answer.body[..3000], [0; 3000]);
        assert_eq!(answer.body[3000..], body);
    }
}

#[test]
fn an_answer_may_come_before_its_request_has_ended() {
    let body = pattern(10_000);
    let requests = [request(GET, &[&body]), request(GET, &[])].concat();
    let cut = 300;
    let outcome = play(&[&requests[..cut], &requests[cut..]], 256, async |_| "early");
    assert_eq!(texts(&outcome).len(), 2);
}

#[test]
fn a_cancelled_request_fails_to_read_and_is_ended_all_the_same() {
    let mut bytes = frame(FrameKind::Head, GET.as_bytes());
    bytes.extend(frame(FrameKind::Body, b"some"));
    bytes.extend(frame(FrameKind::Cancel, &[]));
    let requests = [bytes, request(GET, &[b"whole"])].concat();
    let seen = core::cell::RefCell::new(Vec::new());
    for streamed in [false, true] {
        let outcome = play(&[&requests], 256, async |mut request: Request<'_, _>| {
            if streamed {
                return echo(request).await;
            }
            let read = request.read_to_vec(100).await;
            seen.borrow_mut().push(read.clone());
            Ok(Response::new(200).body(read?))
        });
        assert_eq!(outcome.result, Ok(()));
        let answers = answers(&outcome.output);
        assert_eq!((answers.len(), &answers[1].body[..]), (2, &b"whole"[..]));
    }
    assert_eq!(seen.take(), [Err(Error::Cancelled), Ok(b"whole".to_vec())]);
}

#[test]
fn half_an_answer_is_never_made_to_look_whole() {
    let outcome = play(&[&request(GET, &[])], 256, async |mut request: Request<'_, _>| {
        request.stream(Response::new(200)).write_all(b"half").await.unwrap();
        Err::<(), _>("the other half is missing")
    });
    assert_eq!(outcome.result, Err(ServeError::Abandoned("the other half is missing".into())));
    assert!(!outcome.output.ends_with(FrameHeader::new(FrameKind::End, 0).as_bytes()));
    let outcome = play(&[&request(GET, &[])], 256, async |mut request: Request<'_, _>| {
        request.stream(Response::new(200)).write_all(b"half").await.unwrap();
        "another"
    });
    assert!(matches!(outcome.result, Err(ServeError::Abandoned(_))));
}

#[test]
fn a_host_that_breaks_the_protocol_is_left() {
    let head = frame(FrameKind::Head, GET.as_bytes());
    let broken = [
        frame(FrameKind::Body, b"first"),
        frame(FrameKind::End, b""),
        [&head[..], &head].concat(),
        FrameHeader { kind: 9, len: 0 }.as_bytes().to_vec(),
        FrameHeader { kind: 1, len: u32::MAX }.as_bytes().to_vec(),
        FrameHeader { kind: 1, len: 0 }.as_bytes().to_vec(),
        [&head[..], FrameHeader { kind: 3, len: 1 }.as_bytes()].concat(),
    ];
    for bytes in broken {
        let outcome = play(&[&bytes], 256, async |mut request: Request<'_, _>| request.read_to_vec(9).await);
        assert_eq!(outcome.result, Err(ServeError::Broken), "{bytes:?}");
    }
}

#[test]
fn every_split_of_the_stream_means_the_same() {
    let requests = [
        request(GET, &[b"abc", b"d"]),
        request("POST / HTTP/1.1\r\n\r\n", &[]),
        request("PUT /x HTTP/1.1\r\nA: b\r\n\r\n", &[b"the end"]),
    ]
    .concat();
    for size in [32, 1024] {
        let whole = play(&[&requests], size, async |request| echo(request).await);
        assert_eq!(
            answers(&whole.output).iter().map(|answer| answer.body.len()).collect::<Vec<_>>(),
            [4, 0, 7]
        );
        for cut in 0..requests.len() {
            let (first, second) = requests.split_at(cut);
            let outcome = play(&[first, second], size, async |request| echo(request).await);
            assert_eq!(outcome.result, Ok(()));
            let same = |outcome: &Outcome| {
                answers(&outcome.output)
                    .into_iter()
                    .map(|answer| (answer.head, answer.body))
                    .collect::<Vec<_>>()
            };
            assert_eq!(same(&outcome), same(&whole), "cut at {cut}, ring of {size}");
        }
    }
}

proptest! {
    #[test]
    fn bodies_of_any_size_pass_rings_of_any_size_in_any_pieces(
        frames in proptest::collection::vec(1usize..3000, 0..6),
        cuts in proptest::collection::vec(1usize..2000, 0..20),
        bits in 4u32..14,
        back in 0usize..5000,
    ) {
        let body = pattern(frames.iter().sum());
        let mut rest = &body[..];
        let parts: Vec<&[u8]> = frames.iter().map(|len| rest.split_off(..*len).unwrap()).collect();
        let stream = [request(GET, &parts), request(GET, &[])].concat();
        let mut rest = &stream[..];
        let mut pieces = Vec::new();
        for cut in cuts {
            pieces.push(rest.split_off(..cut.min(rest.len())).unwrap());
        }
        pieces.push(rest);
        let outcome = play(&pieces, 1 << bits, async |mut request: Request<'_, _>| {
            let read = request.read_to_vec(1 << 20).await.unwrap();
            let mut answer = read;
            answer.extend(pattern(back));
            answer
        });
        prop_assert_eq!(outcome.result, Ok(()));
        let answers = answers(&outcome.output);
        prop_assert_eq!(answers.len(), 2);
        prop_assert_eq!(&answers[0].body[..body.len()], &body[..]);
        prop_assert_eq!(&answers[0].body[body.len()..], &pattern(back)[..]);
        prop_assert_eq!(&answers[1].body, &pattern(back));
    }

    #[test]
    fn fields_are_those_that_httparse_finds(
        fields in proptest::collection::vec(("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", "[ \t]{0,3}[ -~\u{a1}-\u{ff}]{0,20}[ \t]{0,2}"), 0..40),
        bare in any::<bool>(),
    ) {
        let end = if bare { "\n" } else { "\r\n" };
        let mut head = format!("GET /x HTTP/1.1{end}");
        fields.iter().for_each(|(name, value)| head += &format!("{name}:{value}{end}"));
        head += end;
        let mut table = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut table);
        prop_assert!(parsed.parse(head.as_bytes()).is_ok_and(|status| status.is_complete()));
        let expected: Vec<_> = parsed.headers.iter().map(|field| (field.name, field.value)).collect();
        let ours = crate::head::Head::parse(head.as_bytes()).unwrap();
        prop_assert_eq!(ours.fields().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn no_head_makes_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(head) = crate::head::Head::parse(&bytes) {
            head.fields().for_each(drop);
        }
    }
}
