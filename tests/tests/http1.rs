//! What `hv serve` makes of HTTP/1: RFC 9110 and RFC 9112, by what is on the connection.

use hv_tests::http::Client;
use hv_tests::serve::{Serve, probe};
use hv_tests::{Platform, guest_test};
use std::io::Read;

/// Sends these bytes on a connection of their own, and returns the status of each answer, and whether the connection
/// was closed behind them. What comes behind the last answer is asked with another request.
fn say(serve: &Serve, text: &str) -> (Vec<u16>, bool) {
    let mut client = serve.client();
    client.send(text.as_bytes()).unwrap();
    // The last one is known, so that it is seen whether there is an answer too many.
    let last = "GET /status?code=299 HTTP/1.1\r\nHost: x\r\n\r\n";
    // A connection that was closed may refuse it.
    let _ = client.send(last.as_bytes());
    let mut statuses = Vec::new();
    loop {
        match client.answer("GET") {
            Ok(answer) if answer.status == 299 => return (statuses, false),
            Ok(answer) => statuses.push(answer.status),
            Err(_) => return (statuses, true),
        }
    }
}

#[guest_test]
fn messages_that_have_to_be_understood(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    for (what, text, expected) in [
        ("a request", "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n", &[200][..]),
        ("empty lines before it", "\r\n\r\nGET /ok HTTP/1.1\r\nHost: x\r\n\r\n", &[200]),
        ("a Host without a name", "GET /ok HTTP/1.1\r\nHost:\r\n\r\n", &[200]),
        ("spaces around a value", "GET /ok HTTP/1.1\r\nHost: \t x \t \r\n\r\n", &[200]),
        ("names in any case", "GET /ok HTTP/1.1\r\nhOsT: x\r\n\r\n", &[200]),
        ("an absolute target", "GET http://y/ok HTTP/1.1\r\nHost: x\r\n\r\n", &[200]),
        (
            "two in a row",
            "GET /ok HTTP/1.1\r\nHost: x\r\n\r\nGET /status?code=404 HTTP/1.1\r\nHost: x\r\n\r\n",
            &[200, 404],
        ),
        ("a body behind GET", "GET /ok HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", &[200]),
        (
            "a body that looks like a request",
            "POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 19\r\n\r\nGET / HTTP/1.1\n\r\n\r\n",
            &[200],
        ),
        (
            "chunks with extensions and trailers",
            "POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
            &[200],
        ),
        (
            "chunked in capitals",
            "POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n",
            &[200],
        ),
        ("an empty body", "POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", &[200]),
        ("OPTIONS for the server", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", &[204]),
        ("a method of its own", "BREW /method HTTP/1.1\r\nHost: x\r\n\r\n", &[200]),
    ] {
        assert_eq!(say(&serve, text), (expected.to_vec(), false), "{what}");
    }
    serve.end();
}

#[guest_test]
fn messages_that_have_to_be_refused(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let post = |fields: &str, body: &str| format!("POST /length HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}");
    let get = |fields: &str| format!("GET /ok HTTP/1.1\r\n{fields}\r\n");
    for (what, text, status) in [
        ("no Host", get(""), 400),
        ("two Hosts", get("Host: x\r\nHost: x\r\n"), 400),
        ("no name as Host", get("Host: a b\r\n"), 400),
        ("a user in the Host", get("Host: u@x\r\n"), 400),
        ("a path as Host", get("Host: x/y\r\n"), 400),
        ("CONNECT", "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n".into(), 501),
        ("no target", "GET x HTTP/1.1\r\nHost: x\r\n\r\n".into(), 400),
        ("GET for the server", "GET * HTTP/1.1\r\nHost: x\r\n\r\n".into(), 400),
        ("LF behind the first line", "GET /ok HTTP/1.1\nHost: x\r\n\r\n".into(), 400),
        ("LF behind a field", "GET /ok HTTP/1.1\r\nHost: x\n\r\n".into(), 400),
        ("LF as the empty line", "GET /ok HTTP/1.1\r\nHost: x\r\n\n".into(), 400),
        ("CR in a value", get("Host: x\r\nA: b\rc\r\n"), 400),
        ("NUL in a value", get("Host: x\r\nA: b\0c\r\n"), 400),
        ("a folded line", get("Host: x\r\nA: b\r\n c\r\n"), 400),
        ("a space before the colon", get("Host: x\r\nA : b\r\n"), 400),
        ("no colon", get("Host: x\r\nA\r\n"), 400),
        ("no name", get("Host: x\r\n: b\r\n"), 400),
        ("both lengths", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400),
        (
            "both, the other way round",
            post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
            400,
        ),
        ("two lengths", post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"), 400),
        ("a list of lengths", post("Content-Length: 3, 3\r\n", "abc"), 400),
        ("a length with a sign", post("Content-Length: +3\r\n", "abc"), 400),
        ("a hexadecimal length", post("Content-Length: 0x3\r\n", "abc"), 400),
        ("a length of nothing", post("Content-Length:\r\n", "abc"), 400),
        ("a length beyond 64 bits", post("Content-Length: 18446744073709551616\r\n", "abc"), 400),
        (
            "chunked twice",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            400,
        ),
        ("another coding below", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501),
        ("another coding alone", post("Transfer-Encoding: gzip\r\n", "abc"), 400),
        ("chunked in disguise", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 400),
        ("chunked below another", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), 400),
        (
            "chunks in HTTP/1.0",
            "POST /length HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            400,
        ),
        ("an expectation", post("Expect: wonders\r\n", ""), 417),
        ("a version to come", "GET /ok HTTP/3.0\r\nHost: x\r\n\r\n".into(), 400),
        ("no version", "GET /ok\r\n\r\n".into(), 400),
        ("a method that is none", "G@T /ok HTTP/1.1\r\nHost: x\r\n\r\n".into(), 400),
    ] {
        // The connection is closed: what comes behind may have been meant as a body.
        assert_eq!(say(&serve, &text), (vec![status], true), "{what}");
    }
    // Bodies that are none are seen when the guest asks for them; nothing behind them is taken for a request.
    for (what, body) in [
        ("no size", "x\r\nabc\r\n0\r\n\r\n"),
        ("LF behind the size", "3\nabc\r\n0\r\n\r\n"),
        ("LF in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
        ("more than the size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("a size beyond 64 bits", "10000000000000000\r\nabc\r\n0\r\n\r\n"),
        ("a size with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
    ] {
        let (statuses, closed) = say(&serve, &post("Transfer-Encoding: chunked\r\n", body));
        assert!(closed && statuses.iter().all(|status| *status == 400), "{what}: {statuses:?}");
    }
    serve.end();
}

#[guest_test]
fn a_function_sees_what_the_target_names(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut client = serve.client();
    client
        .send(b"GET http://target.example/headers HTTP/1.1\r\nHost: field.example\r\nX-Case: Kept\r\n\r\n")
        .unwrap();
    let text = client.answer("GET").unwrap().expect(200).text();
    assert!(text.contains("host: target.example\n") && !text.contains("field.example"), "{text}");
    assert!(text.starts_with("GET /headers\n") && text.contains("x-case: Kept\n"), "{text}");
    serve.end();
}

#[guest_test]
fn an_answer_that_is_complete_says_how_long_it_is(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut client = serve.client();
    for count in [1, 10, 2047, 2048, 100_000, 1 << 20] {
        // Never in chunks, however the threads of hv happen to meet.
        for _ in 0..20 {
            let answer = client.ask("GET", &format!("/whole?n={count}"), "", b"").unwrap().expect(200);
            assert_eq!((answer.chunked, answer.body.len()), (false, count));
            if count > 100_000 {
                break;
            }
        }
        let head = client.ask("HEAD", &format!("/whole?n={count}"), "", b"").unwrap().expect(200);
        assert_eq!(head.field("content-length"), Some(&*count.to_string()));
    }
    // A stream says it if it knows.
    let answer = client.ask("GET", "/declared?n=7&sent=7", "", b"").unwrap().expect(200);
    assert_eq!((answer.chunked, answer.text().as_str()), (false, "ddddddd"));
    let answer = client.ask("GET", "/slow?ms=1&n=3", "", b"").unwrap().expect(200);
    assert!(answer.chunked);
    serve.end();
}

#[guest_test]
fn an_answer_of_another_length_than_declared_is_none(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    for sent in [3, 9] {
        let mut client = serve.client();
        let answer = client.ask("GET", &format!("/declared?n=6&sent={sent}"), "", b"");
        // Whichever comes first: a refusal, or the end in the middle.
        assert!(answer.map_or(true, |answer| answer.status == 502));
        // It is seen at the end at the latest.
        serve.said(
            &format!("it declared 6 bytes of an answer, and sent {}", if sent < 6 { "3" } else { "" }),
            1,
        );
    }
    serve.end();
}

#[guest_test]
fn a_cut_answer_ends_in_a_reset(platform: Platform) {
    let serve = Serve::start(platform, &probe("wall_time = \"700ms\""));
    // Without chunks or a length, only the way in which the connection ends tells whether it was all.
    let end = |path: &str| {
        let client = serve.client();
        let mut socket = client.socket();
        std::io::Write::write_all(&mut socket, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut text = Vec::new();
        let end = socket.read_to_end(&mut text).map_err(|error| error.kind());
        (String::from_utf8_lossy(&text).into_owned(), end.map(drop))
    };
    let (text, whole) = end("/slow?ms=1&n=3");
    assert!(whole.is_ok() && text.ends_with("line 2\n") && !text.contains("chunked"), "{whole:?} {text}");
    // The first line is with the client long before the guest's time is over.
    let (text, cut) = end("/slow?ms=100&n=1000");
    assert_eq!(cut, Err(std::io::ErrorKind::ConnectionReset), "{text}");
    assert!(text.contains("line 0\n"), "{text}");
    serve.end();
}

#[guest_test]
fn who_does_not_read_is_to_blame_and_nobody_else(platform: Platform) {
    let serve = Serve::start(platform, &probe("wall_time = \"300ms\"\nbody = \"4M\""));
    // The guest never reads; the client has sent all that it can.
    let mut client = serve.client();
    let sent = format!("POST /hang HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 1 << 20);
    client.send(sent.as_bytes()).unwrap();
    client.send(&vec![b'x'; 1 << 20]).unwrap();
    client.answer("POST").unwrap().expect(504);
    // The guest reads, and the client does not send.
    let mut client = serve.client();
    client.send(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").unwrap();
    client.answer("POST").unwrap().expect(408);
    serve.end();
}

#[guest_test]
fn a_server_that_drains_answers_who_did_not_know(platform: Platform) {
    let serve = Serve::start(platform, &("admin = \"127.0.0.1:0\"\n".to_owned() + &probe("")));
    let mut clients = [serve.client(), serve.client()];
    for client in &mut clients {
        client.ask("GET", "/ok", "", b"").unwrap().expect(200);
    }
    let admin = serve.admin.unwrap();
    let mut busy = serve.client();
    busy.send(b"GET /sleep?ms=1500 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    hv_tests::eventually("the guest", || (serve.metric("hv_guests_live{") == 1.0).then_some(()));
    serve.signal(libc::SIGTERM);
    serve.said("draining", 1);
    // A request that was on its way is answered, and is the last one of its connection.
    let answer = clients[0].ask("GET", "/ok", "", b"").unwrap().expect(200);
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(clients[0].is_closed());
    // So is one on a new connection.
    let answer = Client::connect(serve.port).and_then(|mut new| new.ask("GET", "/ok", "", b""));
    assert_eq!(answer.unwrap().expect(200).field("connection"), Some("close"));
    // hv's own pages are there until the end.
    let health = Client::connect(admin).and_then(|mut client| client.ask("GET", "/healthz", "", b""));
    assert_eq!(health.unwrap().expect(503).text(), "draining\n");
    assert!(clients[1].is_closed());
    assert_eq!(busy.answer("GET").unwrap().expect(200).text(), "slept\n");
    serve.finish().expect(0);
}
