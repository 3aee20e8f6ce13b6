//! What `hv serve` makes of HTTP/2 (RFC 9113): real clients, and frames that break the rules.

use hv_tests::serve::{Serve, probe};
use hv_tests::{Finished, Platform, eventually, guest_test, has_tools, tool};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

// Frames, by their numbers (section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The bytes of a frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as HPACK has them: literal, without an index (RFC 7541, section 6.2.2).
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/ok"), (":authority", "x")];

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(&GET))
}

/// How a connection, or a stream of it, has ended.
#[derive(Debug, PartialEq)]
enum End {
    /// The stream was answered.
    Answered,
    /// The stream was reset.
    Stream(u32),
    /// The connection was ended, with this error.
    Connection(u32),
    /// The connection was closed without a word.
    Closed,
}

/// Sends these frames behind the preface, and looks what comes of it.
fn end(serve: &Serve, frames: &[u8]) -> End {
    let mut socket = TcpStream::connect(("127.0.0.1", serve.port)).unwrap();
    socket.set_read_timeout(Some(hv_tests::LIMIT)).unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    socket.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    // The other end may have had enough before all is sent.
    let _ = socket.write_all(frames);
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
    loop {
        let mut head = [0; 9];
        if socket.read_exact(&mut head).is_err() {
            return End::Closed;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if socket.read_exact(&mut payload).is_err() {
            return End::Closed;
        }
        match (head[3], head[4]) {
            (RST_STREAM, _) => return End::Stream(number(&payload)),
            (GOAWAY, _) => return End::Connection(number(&payload[4..])),
            (DATA | HEADERS, flags) if flags & END_STREAM != 0 => return End::Answered,
            _ => {}
        }
    }
}

#[guest_test]
fn frames_that_have_to_be_understood(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let block = fields(&GET);
    let padded = [&[3], &block[..], &[0; 3]].concat();
    let prioritized = [&[0, 0, 0, 0, 16], &block[..]].concat();
    let cut = [
        frame(HEADERS, END_STREAM, 1, &block[..10]),
        frame(CONTINUATION, 0, 1, &block[10..20]),
        frame(CONTINUATION, END_HEADERS, 1, &block[20..]),
    ];
    for (what, frames) in [
        ("a request", get(1)),
        ("padding", frame(HEADERS, END_STREAM | END_HEADERS | 8, 1, &padded)),
        ("a priority", frame(HEADERS, END_STREAM | END_HEADERS | 0x20, 1, &prioritized)),
        ("continuations", cut.concat()),
        ("a frame of an unknown kind", [frame(0xfa, 0xff, 0, b"anything"), get(1)].concat()),
        ("an unknown setting", [frame(SETTINGS, 0, 0, &[0xff, 0xff, 0, 0, 0, 1]), get(1)].concat()),
        ("a priority of an idle stream", [frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]), get(1)].concat()),
        ("a ping", [frame(PING, 0, 0, b"12345678"), get(1)].concat()),
        ("a window that grows", [frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), get(1)].concat()),
        ("streams that are left out", get(101)),
    ] {
        assert_eq!(end(&serve, &frames), End::Answered, "{what}");
    }
    serve.end();
}

#[guest_test]
fn frames_that_have_to_be_refused(platform: Platform) {
    const PROTOCOL: u32 = 1;
    const FLOW_CONTROL: u32 = 3;
    const CLOSED: u32 = 5;
    const FRAME_SIZE: u32 = 6;
    const COMPRESSION: u32 = 9;
    let serve = Serve::start(platform, &probe(""));
    let block = fields(&GET);
    let with = |more: &[(&str, &str)]| {
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &[&block[..], &fields(more)].concat())
    };
    let only = |these: &[(&str, &str)]| frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(these));
    let open = frame(HEADERS, END_HEADERS, 1, &block);
    let post = [fields(&[(":method", "POST")]), fields(&GET[1..])].concat();
    let with_length = [&post[..], &fields(&[("content-length", "3")])].concat();
    // Where an error of its own is named in the RFC, the library says "protocol error" in places.
    for (what, frames, errors) in [
        ("5.1 DATA of an idle stream", frame(DATA, 0, 1, b"x"), &[PROTOCOL][..]),
        ("5.1 RST_STREAM of an idle stream", frame(RST_STREAM, 0, 1, &[0; 4]), &[PROTOCOL]),
        ("5.1 WINDOW_UPDATE of an idle stream", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), &[PROTOCOL]),
        ("5.1 CONTINUATION of an idle stream", frame(CONTINUATION, 4, 1, &block), &[PROTOCOL]),
        ("5.1.1 an even stream", get(2), &[PROTOCOL]),
        ("5.1.1 a stream that goes back", [get(5), get(3)].concat(), &[PROTOCOL, CLOSED]),
        ("4.2 a frame that is too large", frame(HEADERS, 5, 1, &[0; 20_000]), &[FRAME_SIZE, PROTOCOL]),
        ("4.3 fields that are none", frame(HEADERS, 5, 1, &[0xff; 30]), &[COMPRESSION, PROTOCOL]),
        ("6.1 DATA of no stream", frame(DATA, 0, 0, b"x"), &[PROTOCOL]),
        (
            "6.1 padding as long as the frame",
            [open.clone(), frame(DATA, 8, 1, &[5, 0, 0])].concat(),
            &[PROTOCOL],
        ),
        ("6.2 HEADERS of no stream", frame(HEADERS, 5, 0, &block), &[PROTOCOL]),
        (
            "6.2 another frame between fields",
            [frame(HEADERS, 1, 1, &block), frame(PING, 0, 0, &[0; 8])].concat(),
            &[PROTOCOL],
        ),
        ("6.3 PRIORITY of no stream", frame(PRIORITY, 0, 0, &[0; 5]), &[PROTOCOL]),
        (
            "6.4 a RST_STREAM of 3 bytes",
            [open.clone(), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            &[FRAME_SIZE, PROTOCOL],
        ),
        ("6.5 SETTINGS of a stream", frame(SETTINGS, 0, 1, &[]), &[PROTOCOL]),
        ("6.5 SETTINGS of 3 bytes", frame(SETTINGS, 0, 0, &[0; 3]), &[FRAME_SIZE, PROTOCOL]),
        ("6.5 an acknowledgement with bytes", frame(SETTINGS, 1, 0, &[0; 6]), &[FRAME_SIZE, PROTOCOL]),
        ("6.5.2 a push that is neither on nor off", frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2]), &[PROTOCOL]),
        ("6.5.2 a window of 2 GiB", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]), &[FLOW_CONTROL, PROTOCOL]),
        ("6.5.2 frames of 1 byte", frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]), &[PROTOCOL]),
        (
            "6.6 a push by a client",
            [open.clone(), frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2])].concat(),
            &[PROTOCOL],
        ),
        ("6.7 a PING of a stream", frame(PING, 0, 1, &[0; 8]), &[PROTOCOL]),
        ("6.7 a PING of 6 bytes", frame(PING, 0, 0, &[0; 6]), &[FRAME_SIZE, PROTOCOL]),
        ("6.8 GOAWAY of a stream", frame(GOAWAY, 0, 1, &[0; 8]), &[PROTOCOL]),
        ("6.9 a window that grows by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), &[PROTOCOL]),
        ("6.9 a WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), &[FRAME_SIZE, PROTOCOL]),
        (
            "6.9.1 a window beyond 2 GiB",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            &[FLOW_CONTROL, PROTOCOL],
        ),
        (
            "6.10 CONTINUATION behind the end",
            [get(1), frame(CONTINUATION, 4, 1, &block)].concat(),
            &[PROTOCOL, CLOSED],
        ),
        ("8.2 a name in capitals", with(&[("X-A", "b")]), &[PROTOCOL]),
        ("8.2.2 a field of the connection", with(&[("connection", "close")]), &[PROTOCOL]),
        ("8.2.2 TE with more than trailers", with(&[("te", "gzip")]), &[PROTOCOL]),
        ("8.3 an unknown pseudo-field", with(&[(":odd", "x")]), &[PROTOCOL]),
        ("8.3 a pseudo-field of answers", only(&[GET[0], GET[1], GET[2], (":status", "200")]), &[PROTOCOL]),
        ("8.3 a pseudo-field behind others", only(&[GET[0], GET[1], ("a", "b"), GET[2]]), &[PROTOCOL]),
        ("8.3.1 no method", only(&GET[1..]), &[PROTOCOL]),
        ("8.3.1 no scheme", only(&[GET[0], GET[2], GET[3]]), &[PROTOCOL]),
        ("8.3.1 no path", only(&[GET[0], GET[1], GET[3]]), &[PROTOCOL]),
        ("8.3.1 an empty path", only(&[GET[0], GET[1], (":path", ""), GET[3]]), &[PROTOCOL]),
        ("8.3.1 two methods", only(&[GET[0], GET[0], GET[1], GET[2]]), &[PROTOCOL]),
        (
            "8.1.1 more than the length",
            [frame(HEADERS, 4, 1, &with_length), frame(DATA, 1, 1, b"abcd")].concat(),
            &[PROTOCOL],
        ),
        (
            "8.1.1 less than the length",
            [frame(HEADERS, 4, 1, &with_length), frame(DATA, 1, 1, b"a")].concat(),
            &[PROTOCOL],
        ),
    ] {
        let end = end(&serve, &frames);
        let matches = match end {
            End::Connection(error) | End::Stream(error) => errors.contains(&error),
            // An end without a word is one, too (section 5.4.1).
            End::Closed => true,
            End::Answered => false,
        };
        assert!(matches, "{what}: {end:?}");
    }
    // Another preface is no HTTP/2, and no HTTP/1.
    let client = serve.client();
    let mut socket = client.socket();
    socket.write_all(b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut said = Vec::new();
    socket.read_to_end(&mut said).unwrap();
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    serve.end();
}

#[guest_test]
fn floods_are_ended(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    // Streams that are opened and reset at once ("rapid reset").
    let resets: Vec<u8> = (0..5000)
        .flat_map(|n| [get(2 * n + 1), frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat())
        .collect();
    assert_ne!(end(&serve, &resets), End::Answered);
    // Fields without an end.
    let mut endless = frame(HEADERS, END_STREAM, 1, &fields(&GET));
    let more = fields(&[("a", &"b".repeat(100))]).repeat(100);
    (0..100).for_each(|_| endless.extend(frame(CONTINUATION, 0, 1, &more)));
    assert_ne!(end(&serve, &endless), End::Answered);
    let before = serve.resident();
    // Settings that want an answer each, of which none is read.
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(50_000);
    let mut socket = TcpStream::connect(("127.0.0.1", serve.port)).unwrap();
    socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let _ = socket.write_all(&settings);
    drop(socket);
    assert!(serve.resident() < before + (16 << 20));
    assert_eq!(serve.get("/ok").expect(200).text(), "ok\n");
    serve.end();
}

#[guest_test]
fn curl_and_h2load_are_answered(platform: Platform) {
    if !has_tools(&["curl", "h2load"]) {
        return;
    }
    let serve = Serve::start(platform, &probe(""));
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", serve.port);
    let curl = |arguments: &[&str], path: &str| {
        let mut command = Command::new("curl");
        let version = "\n%{http_version} %{response_code}";
        tool(command.args(["-s", "--http2-prior-knowledge", "-w", version]).args(arguments).arg(url(path)))
            .text()
    };
    assert_eq!(curl(&[], "/ok"), "ok\n\n2 200");
    assert_eq!(curl(&["-d", "12345"], "/length"), "5\n\n2 200");
    let text = curl(&["-H", "Cookie: a=1", "-H", "X-B: c"], "/headers");
    assert!(text.contains(&format!("host: 127.0.0.1:{}\n", serve.port)), "{text}");
    assert!(text.contains("cookie: a=1\n") && text.contains("x-b: c\n"), "{text}");
    assert!(curl(&["-I"], "/whole?n=5000").contains("content-length: 5000"));
    // A megabyte each way, through windows of 64 KiB.
    let folder = serve.folder().join("sent");
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
    std::fs::write(&folder, &sent[..1_000_000]).unwrap();
    let echo = tool(
        Command::new("curl")
            .args(["-s", "--http2-prior-knowledge", "--data-binary"])
            .arg(format!("@{}", folder.display()))
            .arg(url("/echo")),
    );
    assert!(echo.out == sent[..1_000_000], "{} bytes", echo.out.len());
    // An answer that breaks off is an error of its stream alone.
    let mut both = Command::new("nghttp");
    let both = Finished::of(both.arg("-v").args([url("/half"), url("/sleep?ms=300")])).text();
    assert!(both.contains("error_code=INTERNAL_ERROR") || both.contains(":status: 502"), "{both}");
    assert!(both.contains("slept"), "{both}");
    let text = tool(Command::new("h2load").args(["-n2000", "-c4", "-m8", &url("/ok")])).text();
    assert!(text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    serve.end();
}

#[guest_test]
fn a_websocket_goes_over_a_stream(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut socket = TcpStream::connect(("127.0.0.1", serve.port)).unwrap();
    socket.set_read_timeout(Some(hv_tests::LIMIT)).unwrap();
    // RFC 8441. Other protocols have no place here.
    let connect = |stream, protocol| {
        let all = [
            (":method", "CONNECT"),
            (":protocol", protocol),
            (":scheme", "http"),
            (":path", "/websocket"),
            (":authority", "x"),
            ("sec-websocket-version", "13"),
        ];
        frame(HEADERS, END_HEADERS, stream, &fields(&all))
    };
    // "hi" behind a mask of zeros, and a close.
    let said = [&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'][..], &[0x88, 0x80, 0, 0, 0, 0]].concat();
    let all = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        connect(1, "other"),
        connect(3, "websocket"),
        frame(DATA, 0, 3, &said),
    ];
    socket.write_all(&all.concat()).unwrap();
    let (mut data, mut refused) = (Vec::new(), false);
    let mut head = [0; 9];
    loop {
        socket.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        socket.read_exact(&mut payload).unwrap();
        match (head[3], head[8]) {
            (DATA, 3) => data.extend(payload),
            (DATA | RST_STREAM, 1) => refused = true,
            _ => {}
        }
        if head[3] == DATA && head[8] == 3 && head[4] & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(data, [&[0x81, 2, b'h', b'i'][..], &[0x88, 2, 3, 0xe8]].concat());
    assert!(refused, "the other protocol");
    // The server would wait for its goodbye to be answered.
    drop(socket);
    serve.end();
}

#[guest_test]
fn a_connection_without_requests_ends(platform: Platform) {
    let serve = Serve::start(platform, &("header_time = \"300ms\"\n".to_owned() + &probe("")));
    // One without a request at all, and one whose request is longer than that.
    assert_eq!(end(&serve, &[]), End::Connection(0));
    let path = [GET[0], GET[1], (":path", "/sleep?ms=1500"), GET[3]];
    assert_eq!(end(&serve, &frame(HEADERS, 5, 1, &fields(&path))), End::Answered);
    // One that says nothing of the kind.
    let mut client = serve.client();
    client.send(b"PR").unwrap();
    assert!(client.is_closed());
    serve.end();
}

#[guest_test]
fn a_server_that_drains_says_goodbye(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut socket = TcpStream::connect(("127.0.0.1", serve.port)).unwrap();
    let path = [GET[0], GET[1], (":path", "/sleep?ms=1000"), GET[3]];
    let request = frame(HEADERS, 5, 1, &fields(&path));
    let all = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[]), request];
    socket.write_all(&all.concat()).unwrap();
    eventually("the guest", || (serve.metric("hv_guests_live{") == 1.0).then_some(()));
    serve.signal(libc::SIGTERM);
    let mut kinds = Vec::new();
    let mut head = [0; 9];
    while socket.read_exact(&mut head).is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        socket.read_exact(&mut payload).unwrap();
        // The server waits for this answer: until then a request may be on its way that it has to take.
        if head[3] == PING {
            socket.write_all(&frame(PING, 1, 0, &payload)).unwrap();
        }
        kinds.push(head[3]);
    }
    assert!(kinds.contains(&GOAWAY) && kinds.contains(&DATA), "{kinds:?}");
    serve.finish().expect(0);
}
