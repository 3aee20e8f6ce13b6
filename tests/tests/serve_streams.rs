//! Answers that go on: WebSockets, server-sent events and gRPC, with real clients.

use hv_tests::serve::{Serve, probe};
use hv_tests::{Finished, Platform, eventually, guest_test, has_tools};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

type Socket = WebSocket<TcpStream>;

fn connect(serve: &Serve) -> Socket {
    let stream = TcpStream::connect(("127.0.0.1", serve.port)).unwrap();
    stream.set_read_timeout(Some(hv_tests::LIMIT)).unwrap();
    let url = format!("ws://127.0.0.1:{}/websocket", serve.port);
    tungstenite::client(url, stream).expect("a handshake").0
}

/// What the server closes with, once all messages before have come.
fn close_code(socket: &mut Socket) -> u16 {
    loop {
        match socket.read() {
            Ok(Message::Close(Some(CloseFrame { code, .. }))) => return code.into(),
            Ok(Message::Close(None)) | Err(_) => return 0,
            Ok(_) => {}
        }
    }
}

#[guest_test]
fn messages_go_both_ways(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut socket = connect(&serve);
    // Around each of the lengths of a frame, and of the rings below.
    for len in [0, 1, 125, 126, 4096, 32_700, 65_535] {
        let bytes: Vec<u8> = (0..len).map(|n| (n * 7 % 251) as u8).collect();
        socket.send(Message::binary(bytes.clone())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::binary(bytes), "{len}");
    }
    socket.send(Message::text("Grüße")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("Grüße"));
    socket.send(Message::Ping(b"there?".to_vec().into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong(b"there?".to_vec().into()));
    // The server sends as much as it likes: more than fits anywhere.
    socket.send(Message::text("flood")).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    for n in 0..1000 {
        assert_eq!(socket.read().unwrap().len(), 4096, "{n}");
    }
    // Either side ends it.
    socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() })).unwrap();
    assert_eq!(close_code(&mut socket), 1001);
    let mut socket = connect(&serve);
    socket.send(Message::text("close")).unwrap();
    assert_eq!(close_code(&mut socket), 1000);
    let line = serve.log_line("/websocket");
    assert!(line.contains(" 101 "), "{line}");
    eventually("nobody", || (serve.metric("hv_guests_live{") == 0.0).then_some(()));
    serve.end();
}

#[guest_test]
fn a_client_that_breaks_the_rules_of_messages_is_told(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    let ask = format!(
        "GET /websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n"
    );
    let code = |frames: &[u8]| {
        let mut client = serve.client();
        client.send(ask.as_bytes()).unwrap();
        let head = client.head().unwrap().expect(101);
        assert_eq!(head.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        client.send(frames).unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..2], [0x88, 2], "a close");
        assert!(client.is_closed());
        u16::from_be_bytes([answer[2], answer[3]])
    };
    let zero = [0; 4];
    for (what, frames, expected) in [
        ("no mask", vec![0x81, 1, b'x'], 1002),
        ("a reserved bit", [&[0xc1, 0x80][..], &zero].concat(), 1002),
        ("a continuation of nothing", [&[0x80, 0x80][..], &zero].concat(), 1002),
        ("a text within a text", [&[1, 0x80][..], &zero, &[0x81, 0x80], &zero].concat(), 1002),
        ("a text that is none", [&[0x81, 0x81][..], &zero, &[0xff]].concat(), 1007),
        ("more than is taken", [&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1][..], &zero].concat(), 1009),
        ("an exabyte", [&[0x82, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0][..], &zero].concat(), 1009),
        ("a close of one byte", [&[0x88, 0x81][..], &zero, &[3]].concat(), 1002),
        ("a close", [&[0x88, 0x82][..], &zero, &[0x0b, 0xb8]].concat(), 3000),
    ] {
        assert_eq!(code(&frames), expected, "{what}");
    }
    // Handshakes that are none.
    let mut client = serve.client();
    for (fields, status) in [
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", 400),
        ("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", 426),
    ] {
        serve.client().ask("GET", "/websocket", fields, b"").unwrap().expect(status);
    }
    // An upgrade to another protocol is ignored; a function that requires a WebSocket answers 426.
    client.ask("GET", "/websocket", "Connection: Upgrade\r\nUpgrade: h2c\r\n", b"").unwrap().expect(426);
    let plain = format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{key}");
    client.ask("GET", "/ok", &plain, b"").unwrap().expect(200);
    client.ask("GET", "/ok", "", b"").unwrap().expect(200);
    serve.end();
}

#[guest_test]
fn websockets_end_with_their_guest_their_client_and_their_time(platform: Platform) {
    let serve = Serve::start(platform, &probe("wall_time = \"2s\""));
    let mut socket = connect(&serve);
    socket.send(Message::text("panic")).unwrap();
    assert_eq!(close_code(&mut socket), 0, "no close in good order");
    serve.said("asked to", 1);
    // A client that is gone.
    drop(connect(&serve));
    eventually("nobody", || (serve.metric("hv_guests_live{") == 0.0).then_some(()));
    // One that does not read.
    let mut socket = connect(&serve);
    for _ in 0..4 {
        socket.send(Message::text("flood")).unwrap();
    }
    eventually("nobody", || (serve.metric("hv_guests_live{") == 0.0).then_some(()));
    // One that says nothing.
    let mut socket = connect(&serve);
    assert_eq!(close_code(&mut socket), 0);
    assert!(serve.metric("hv_failures_total{function=\"probe\",kind=\"wall_time\"}") >= 1.0);
    assert_eq!(serve.get("/ok").expect(200).text(), "ok\n");
    serve.end();
}

#[guest_test]
fn events_come_when_they_are_sent(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut client = serve.client();
    client.send(b"GET /slow?ms=200&n=3 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n").unwrap();
    client.head().unwrap().expect(200);
    let mut times = Vec::new();
    let begin = std::time::Instant::now();
    while let Some(chunk) = client.chunk().unwrap() {
        assert!(chunk.starts_with(b"line "), "one at a time");
        times.push(begin.elapsed());
    }
    assert_eq!(times.len(), 3);
    assert!(times[2] - times[0] > Duration::from_millis(300), "{times:?}");
    serve.end();
}

/// A client of gRPC: one call, a stream of three, and one that fails.
const GRPC: &str = r#"
import sys, grpc
same = dict(request_serializer=lambda message: message, response_deserializer=lambda message: message)
with grpc.insecure_channel("127.0.0.1:" + sys.argv[1]) as channel:
    one = channel.unary_unary("/probe.Probe/Echo", **same)
    assert one(b"hello", timeout=20) == b"hello"
    assert one(b"x" * 100_000, timeout=20) == b"x" * 100_000
    stream = channel.stream_stream("/probe.Probe/Echo", **same)
    assert list(stream(iter([b"a", b"", b"ccc"]), timeout=20)) == [b"a", b"", b"ccc"]
    try:
        one(b"fail", timeout=20)
        assert False, "it does not fail"
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "asked to", error
    crash = channel.unary_unary("/crash", **same)
    try:
        crash(b"", timeout=20)
        assert False, "it does not fail"
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
print("done")
"#;

/// The Python that the distribution's modules are for, also where another one comes first in the path.
const PYTHON: &str = "/usr/bin/python3";

#[guest_test]
fn grpc_calls_and_streams(platform: Platform) {
    if !has_tools(&[PYTHON]) {
        return;
    }
    if Finished::of(Command::new(PYTHON).args(["-c", "import grpc"])).code() != Some(0) {
        return hv_tests::skip("needs python3 with its module grpc");
    }
    let serve = Serve::start(platform, &probe(""));
    let client = Finished::of(Command::new(PYTHON).args(["-c", GRPC, &serve.port.to_string()]));
    assert_eq!(client.expect(0).text(), "done\n");
    serve.end();
}

#[guest_test]
fn fields_behind_an_answer_come_in_http1_to_who_asks(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let ask = |te: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", serve.port)).unwrap();
        let head = format!("GET /trailers HTTP/1.1\r\nHost: x\r\n{te}Connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let text = ask("TE: trailers\r\n");
    assert!(text.ends_with("\r\n0\r\nx-sum: 7\r\n\r\n"), "{text}");
    let text = ask("");
    assert!(text.contains("part") && !text.contains("x-sum: 7"), "{text}");
    serve.end();
}
