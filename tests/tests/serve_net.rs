//! Connections of functions: to real servers on the loopback interface, which the configuration names.

use hv_tests::http::Client;
use hv_tests::serve::Serve;
use hv_tests::{Platform, eventually, free_port, guest, guest_test};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

fn reach(keys: &str) -> String {
    format!("[function.reach]\npath = \"/*\"\nimage = {:?}\n{keys}\n", guest("fn-reach"))
}

/// A server that sends back what it is sent. Counts the connections that are open.
fn echo() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, open) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = open.clone();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let count = count.clone();
            count.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || {
                serve_echo(stream);
                count.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (port, open)
}

fn serve_echo(mut stream: TcpStream) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

fn ask(client: &mut Client, path: &str, body: &[u8], status: u16) -> Vec<u8> {
    client.ask("POST", path, "", body).unwrap().expect(status).body
}

fn text(client: &mut Client, path: &str) -> String {
    String::from_utf8(ask(client, path, b"", 200)).unwrap()
}

#[guest_test]
fn tcp_and_udp_go_both_ways(platform: Platform) {
    let (port, open) = echo();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp_port = udp.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut bytes = [0; 64 << 10];
        while let Ok((count, from)) = udp.recv_from(&mut bytes) {
            let _ = udp.send_to(&bytes[..count], from);
        }
    });
    let keys = format!(
        "net = [\"tcp:127.0.0.1:{port}\", \"udp:127.0.0.1:{udp_port}\"]\nbody = \"8M\"\nmemory = \"32M\""
    );
    let serve = Serve::start(platform, &reach(&keys));
    let mut client = serve.client();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at * 7 + at / 251 + at / 65_521) as u8).collect();
    for body in [&bytes[..], b"short", b""] {
        assert!(ask(&mut client, &format!("/tcp?to=127.0.0.1:{port}"), body, 200) == body);
    }
    for body in [&bytes[..9000], b"short"] {
        assert!(ask(&mut client, &format!("/udp?to=127.0.0.1:{udp_port}"), body, 200) == body);
    }
    let moved = serve.metric("hv_service_connection_bytes_total{direction=\"out\"");
    assert!((3_009_010.0..4_000_000.0).contains(&moved), "{moved}");
    assert_eq!(serve.metric("result=\"ok\",service=\"tcp\""), 3.0);
    eventually("the end of the connections", || (open.load(Ordering::SeqCst) == 0).then_some(()));
    serve.end();
}

#[guest_test]
fn what_is_not_named_is_not_reached(platform: Platform) {
    let (port, _) = echo();
    let closed = free_port();
    let all = "\"tcp:0.0.0.0/0:*\", \"tcp:[::]/0:*\", \"tcp:localhost:*\", \"udp:0.0.0.0/0:*\"";
    let serve = Serve::start(platform, &reach(&format!("net = [{all}]")));
    let mut client = serve.client();
    // The host's loopback by all its names, and the services of clouds.
    for host in [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "[fe80::1]",
        "255.255.255.255",
        "224.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "127.1",
    ] {
        let said = text(&mut client, &format!("/connect?to={host}:{port}"));
        assert!(said.starts_with("Denied("), "{host}: {said}");
    }
    ask(&mut client, &format!("/udp?to=127.0.0.1:{port}"), b"x", 500);
    serve.end();

    let keys =
        format!("net = [\"tcp:127.0.0.1:{port}\", \"tcp:127.0.0.1:{closed}\", \"tcp:localhost:{port}\"]");
    let serve = Serve::start(platform, &reach(&keys));
    let mut client = serve.client();
    assert_eq!(text(&mut client, &format!("/connect?to=127.0.0.1:{port}")), "connected");
    // What the name leads to is named, too.
    assert_eq!(text(&mut client, &format!("/connect?to=localhost:{port}")), "connected");
    for other in [format!("127.0.0.2:{port}"), format!("127.0.0.1:{}", port ^ 1), "example.org:80".into()] {
        let said = text(&mut client, &format!("/connect?to={other}"));
        assert!(said.starts_with("Denied("), "{other}: {said}");
    }
    let said = text(&mut client, &format!("/connect?to=127.0.0.1:{closed}"));
    assert!(said.starts_with("Unreachable("), "{said}");
    serve.end();

    let serve = Serve::start(platform, &reach("secrets = {}"));
    let said = text(&mut serve.client(), &format!("/connect?to=127.0.0.1:{port}"));
    assert!(said == "NoDevice", "{said}");
    serve.end();
}

#[guest_test]
fn connections_are_limited_and_end_with_their_request(platform: Platform) {
    let (port, open) = echo();
    let keys = format!(
        "net = \"tcp:127.0.0.1:{port}\"\nnet_connections = 3\nnet_bytes = \"10K\"\nwall_time = \"3s\"\ncpu_time = \"2s\""
    );
    let serve = Serve::start(platform, &reach(&keys));
    let mut client = serve.client();
    let said = text(&mut client, &format!("/seats?n=5&to=127.0.0.1:{port}"));
    assert!(said.starts_with("3 Limited("), "{said}");
    eventually("the end of the connections", || (open.load(Ordering::SeqCst) == 0).then_some(()));
    assert_eq!(ask(&mut client, &format!("/tcp?to=127.0.0.1:{port}"), &[1; 5000], 200).len(), 5000);
    ask(&mut client, &format!("/tcp?to=127.0.0.1:{port}"), &[1; 9000], 500);
    // Another request has bytes of its own.
    assert_eq!(ask(&mut client, &format!("/tcp?to=127.0.0.1:{port}"), &[1; 5000], 200).len(), 5000);
    // A guest that is ended from outside.
    ask(&mut client, &format!("/hold?to=127.0.0.1:{port}"), b"", 504);
    eventually("the end of the connection", || (open.load(Ordering::SeqCst) == 0).then_some(()));
    serve.end();
}

#[guest_test]
fn a_rate_holds_for_all_connections_together(platform: Platform) {
    let (port, _) = echo();
    let keys =
        format!("net = [\"tcp:127.0.0.1:{port}\"]\nnet_rate = \"1M\"\nbody = \"1M\"\nmemory = \"32M\"");
    let serve = Serve::start(platform, &reach(&keys));
    let path = format!("/tcp?to=127.0.0.1:{port}");
    let begin = std::time::Instant::now();
    // Each of them moves as much both ways.
    thread::scope(|scope| {
        for _ in 0..3 {
            scope
                .spawn(|| assert_eq!(ask(&mut serve.client(), &path, &[7; 512 << 10], 200).len(), 512 << 10));
        }
    });
    // The last operation of each may end before its bytes have had their time.
    let least = std::time::Duration::from_secs(2);
    assert!(begin.elapsed() >= least, "3 MiB in {:?}", begin.elapsed());
    serve.end();
}

#[guest_test]
fn operations_that_nobody_waits_for_cost_the_host_no_more_than_others(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let tables = format!("[store.kv]\nfolder = {:?}\n", folder.path());
    let serve =
        Serve::start(platform, &(tables + &reach("store = \"kv\"\nwall_time = \"1m\"\ncpu_time = \"1m\"")));
    let mut client = serve.client();
    ask(&mut client, "/flood?name=kv&key=a&n=2000", b"", 200);
    let before = serve.resident();
    for _ in 0..3 {
        assert_eq!(ask(&mut client, "/flood?name=kv&key=a&n=20000", b"", 200), b"flooded");
        // The next guest is another one.
        client.ask("PUT", "/store?name=kv&key=a", "", b"1").unwrap().expect(200);
    }
    let grown = serve.resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    serve.end();
}
