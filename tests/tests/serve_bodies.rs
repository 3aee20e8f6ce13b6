//! Bodies of requests that nobody reads to their end, and what becomes of the
//! connection then.

use hv_tests::http::{Answer, Client};
use hv_tests::serve::{Serve, probe};
use hv_tests::{Platform, eventually, guest_test};

/// Bytes of a body, and how many are sent before the answer is read.
const LENGTH: usize = 20_000;
const FIRST: usize = 1000;

/// A server of some paths, with further keys of its own and of the function.
fn server(platform: Platform, own: &str, keys: &str) -> Serve {
    let paths =
        "path = [\"/ok\", \"/early\", \"/crash\", \"/echo\", \"/length\"]\nmethods = [\"GET\", \"POST\"]";
    Serve::start(platform, &format!("{own}\n{}", probe(keys).replace("path = \"/*\"", paths)))
}

/// Sends a head and the beginning of a body, and reads the answer.
fn ask_early(client: &mut Client, method: &str, path: &str, fields: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {LENGTH}\r\n{fields}\r\n");
    client.send(head.as_bytes()).unwrap();
    client.send(&[b'x'; FIRST]).unwrap();
    client.answer(method).unwrap()
}

/// Sends the rest of a body and another request, and reads the answer to that.
fn go_on(client: &mut Client, what: &str) {
    client.send(&[b'x'; LENGTH - FIRST]).unwrap();
    let next = client.ask("GET", "/ok", "", b"");
    let next = next.unwrap_or_else(|error| panic!("the next request after {what}: {error}"));
    assert_eq!(next.expect(200).text(), "ok\n");
}

#[guest_test]
fn a_body_that_nobody_reads_does_not_cost_the_next_request(platform: Platform) {
    let serve = server(platform, "", "");
    for (method, path, status) in [
        ("POST", "/early", 200),
        ("POST", "/crash", 502),
        ("POST", "/nowhere", 404),
        ("PUT", "/early", 405),
        ("POST", "/healthz", 405),
    ] {
        let mut client = serve.client();
        for _ in 0..2 {
            let answer = ask_early(&mut client, method, path, "").expect(status);
            assert_eq!(answer.field("connection"), None, "{method} {path}");
            go_on(&mut client, path);
        }
    }
    serve.end();
    let serve = server(platform, "", "body = \"1K\"");
    let mut client = serve.client();
    let answer = ask_early(&mut client, "POST", "/length", "").expect(413);
    assert_eq!(answer.field("connection"), None);
    go_on(&mut client, "a body that is too large");
    serve.end();
}

#[guest_test]
fn an_answer_says_that_it_is_the_last_where_the_body_may_have_no_end(platform: Platform) {
    let serve = server(platform, "", "");
    // The client may send its body now or not: nobody knows.
    for path in ["/nowhere", "/ok"] {
        let mut client = serve.client();
        let answer = ask_early(&mut client, "PUT", path, "Expect: 100-continue\r\n");
        assert_eq!(answer.field("connection"), Some("close"), "{path}: {}", answer.status);
        // Whoever sends it nonetheless is not cut off.
        client.send(&[b'x'; LENGTH - FIRST]).unwrap();
        assert!(client.is_closed());
    }
    let chunked = "Host: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n";
    let mut client = serve.client();
    client.send(format!("POST /nowhere HTTP/1.1\r\n{chunked}").as_bytes()).unwrap();
    let answer = client.answer("POST").unwrap().expect(404);
    assert_eq!(answer.field("connection"), Some("close"));
    client.send(b"0\r\n\r\n").unwrap();
    assert!(client.is_closed());
    // A guest may begin its answer before the front knows that it is a short one.
    let mut client = serve.client();
    client.send(format!("POST /early HTTP/1.1\r\n{chunked}").as_bytes()).unwrap();
    let answer = client.answer("POST").unwrap().expect(200);
    client.send(b"0\r\n\r\n").unwrap();
    match answer.field("connection") {
        Some("close") => assert!(client.is_closed()),
        _ => drop(client.ask("GET", "/ok", "", b"").unwrap().expect(200)),
    }
    // A client that first sends and then reads has its answer, too.
    let mut client = serve.client();
    let answer = client.ask("POST", "/length", "", &vec![b'x'; 30 << 20]).unwrap().expect(413);
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(client.is_closed());
    serve.end();
}

#[guest_test]
fn nobody_waits_for_ever_for_a_body_that_nobody_reads(platform: Platform) {
    let serve = server(platform, "header_time = \"300ms\"", "");
    let mut client = serve.client();
    ask_early(&mut client, "POST", "/early", "").expect(200);
    assert!(client.is_closed());
    eventually("the end of the connection", || (serve.metric("hv_connections") == 1.0).then_some(()));
    serve.end();
}

#[guest_test]
fn a_body_that_grows_too_large_breaks_off_an_answer_that_has_begun(platform: Platform) {
    let serve = server(platform, "", "body = \"1K\"");
    let mut client = serve.client();
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = [b"200\r\n".as_slice(), &[b'x'; 512], b"\r\n"].concat();
    client.send(&chunk).unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    assert_eq!(client.chunk().unwrap().map(|chunk| chunk.len()), Some(512));
    client.send(&[&chunk[..], &chunk[..]].concat()).unwrap();
    while client.chunk().is_ok_and(|chunk| chunk.expect("the answer does not look complete").len() == 512) {}
    assert_eq!(serve.metric("kind=\"too_large\""), 1.0);
    serve.end();
}
