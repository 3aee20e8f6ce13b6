//! Clients behind a proxy that passes bytes on as they are, and tells who they are: the PROXY protocol, by HAProxy.

use hv_tests::haproxy::{ADDRESS, Haproxy, connect_from};
use hv_tests::serve::{Serve, probe};
use hv_tests::services::{Authority, refused};
use hv_tests::{Platform, guest_test, has_tools};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

/// HAProxy is at 127.0.0.1 for hv; other addresses of the loopback interface are clients.
const KEYS: &str = "proxy_protocol = \"127.0.0.1\"\nadmin = \"127.0.0.1:0\"\nheader_time = \"3s\"\n";

/// A request to `/headers` on a connection of its own, and all that comes back.
fn ask(mut stream: TcpStream, before: &[u8]) -> String {
    let request = b"GET /headers HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    let mut answer = Vec::new();
    // The other side may close it before it has all.
    let _ = stream.write_all(&[before, request].concat());
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn at(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

#[guest_test]
fn clients_behind_a_proxy_are_known(platform: Platform) {
    if !has_tools(&["curl"]) {
        return;
    }
    let authority = Authority::new();
    let own = authority.identity("test");
    let tables = format!(
        "{KEYS}client_connections = 2\nlisten_tls = \"127.0.0.1:0\"\n[[certificate]]\nchain = {:?}\nkey = {:?}\n",
        own.chain, own.key
    );
    let serve = Serve::start(platform, &(tables + &probe("")));
    let to = |port: u16, how: &str| format!("server hv 127.0.0.1:{port} {how}");
    let (one, two, tls) =
        (to(serve.port, "send-proxy"), to(serve.port, "send-proxy-v2"), to(serve.tls(), "send-proxy-v2"));
    let Some(proxy) = Haproxy::start(&[("", &one), ("", &two), ("", &tls)]) else { return };
    for (number, port) in proxy.ports[..2].iter().enumerate() {
        let last = 10 + number as u8;
        let said = ask(connect_from([127, 0, 0, last], at(ADDRESS, *port)).unwrap(), b"");
        assert!(
            said.starts_with("HTTP/1.1 200") && said.contains(&format!("x-forwarded-for: 127.0.0.{last}\n")),
            "{said}"
        );
        assert!(serve.log_line(&format!("127.0.0.{last} - - ")).contains("GET /headers"));
    }
    // TLS comes behind the header.
    let out = Command::new("curl")
        .args(["-sS", "--interface", "127.0.0.12", "--cacert"])
        .arg(authority.file())
        .args(["--connect-to", &format!("::{ADDRESS}:{}", proxy.ports[2]), "https://test/headers"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        said.contains("x-forwarded-for: 127.0.0.12\n") && said.contains("x-forwarded-proto: https"),
        "{out:?}"
    );
    // Limits are each client's, not the proxy's.
    let open: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = connect_from([127, 0, 0, 13], at(ADDRESS, proxy.ports[1])).unwrap();
            stream.write_all(b"GET /ok HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream
        })
        .collect();
    assert_eq!(ask(connect_from([127, 0, 0, 13], at(ADDRESS, proxy.ports[1])).unwrap(), b""), "");
    let other = ask(connect_from([127, 0, 0, 14], at(ADDRESS, proxy.ports[1])).unwrap(), b"");
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
    assert_eq!(serve.metric("hv_connections_refused_total"), 1.0);
    drop(open);
    serve.end();
}

#[guest_test]
fn nobody_but_a_proxy_says_who_a_client_is(platform: Platform) {
    let serve = Serve::start(platform, &format!("{KEYS}{}", probe("")));
    let here = at("127.0.0.1", serve.port);
    let from = |last: u8| connect_from([127, 0, 0, last], here).unwrap();
    let header = b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n";
    assert!(ask(from(1), header).contains("x-forwarded-for: 192.0.2.7\n"));
    // Others speak HTTP, which this is not.
    let said = ask(from(2), header);
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    assert!(ask(from(2), b"").contains("x-forwarded-for: 127.0.0.2\n"));
    // A proxy that cannot name its client, or asks for itself, is one.
    assert!(ask(from(1), b"PROXY UNKNOWN\r\n").contains("x-forwarded-for: 127.0.0.1\n"));
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    assert!(ask(from(1), local).contains("x-forwarded-for: 127.0.0.1\n"));
    // One that says nothing, or nothing that is a header, gets no answer: hv would not know whose it is.
    let mut endless = b"PROXY TCP4 ".to_vec();
    endless.resize(200, b'1');
    for wrong in [&b""[..], b"PROXY TCP4 1 2 3 4\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", &endless] {
        assert_eq!(ask(from(1), wrong), "");
    }
    assert!(serve.log_line("\"- * ").contains("400"));
    // A header that never ends takes `header_time`; a connection that only looks takes nothing.
    let mut slow = from(1);
    slow.write_all(b"PROXY TCP4 ").unwrap();
    assert_eq!(slow.read(&mut [0]).unwrap(), 0);
    drop(from(1));
    // A reload changes who they are.
    serve.reload(&format!("{}{}", KEYS.replace("127.0.0.1\"\nadmin", "127.0.0.2/31\"\nadmin"), probe("")));
    serve.said("reload", 1);
    hv_tests::eventually("the other proxy", || ask(from(3), header).contains("192.0.2.7").then_some(()));
    assert!(ask(from(1), b"").contains("x-forwarded-for: 127.0.0.1\n"));
    serve.end();
}

#[guest_test]
fn metrics_are_not_shown_through_a_proxy(platform: Platform) {
    let serve = Serve::start(platform, &format!("proxy_protocol = \"127.0.0.1\"\n{}", probe("")));
    let mut stream = connect_from([127, 0, 0, 1], at("127.0.0.1", serve.port)).unwrap();
    stream
        .write_all(b"PROXY UNKNOWN\r\nGET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 403"), "{said}");
    serve.end();
    for wrong in ["example.org", "10.0.0.0/33", "10.0.0.1:80"] {
        let said = refused(platform, &format!("proxy_protocol = {wrong:?}\n{}", probe("")), |_| ());
        assert!(said.contains("hv.toml:1: proxy_protocol = ") && said.contains("10.0.0.0/24"), "{said}");
    }
}
