//! `hv serve` over TLS: certificates by name, their reloads and their ends, with curl and openssl.

use hv_tests::serve::{Serve, checked, probe};
use hv_tests::{Finished, Platform, eventually, guest_test, has_tools};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes a certificate for these names, and its key, in two files of the folder.
fn make(folder: &Path, name: &str, hosts: &[&str], years: (i32, i32)) {
    let key = KeyPair::generate().unwrap();
    let mut parameters =
        CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
    parameters.not_before = date_time_ymd(years.0, 1, 1);
    parameters.not_after = date_time_ymd(years.1, 1, 1);
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    let certificate = parameters.self_signed(&key).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

const VALID: (i32, i32) = (2020, 2200);

fn section(name: &str) -> String {
    format!("[[certificate]]\nchain = \"{name}.pem\"\nkey = \"{name}.key\"\n")
}

/// A server over TLS with these certificates, each for the host of its name.
fn start(platform: Platform, own: &str, names: &[&str]) -> Serve {
    let sections: String = names.iter().map(|name| section(name)).collect();
    let config = format!("listen_tls = \"127.0.0.1:0\"\n{own}\n{sections}{}", probe(""));
    Serve::prepared(platform, &config, |_, folder| {
        names.iter().for_each(|name| make(folder, name, &[name], VALID));
    })
}

/// Asks by curl, which trusts this certificate alone.
fn curl(serve: &Serve, host: &str, trusted: &str, arguments: &[&str], path: &str) -> Finished {
    let mut command = Command::new("curl");
    let trusted = serve.folder().join(format!("{trusted}.pem"));
    command.args(["-sS", "-w", "\n%{http_version}", "--cacert"]).arg(trusted);
    command.arg("--resolve").arg(format!("{host}:{}:127.0.0.1", serve.tls()));
    command.args(arguments).arg(format!("https://{host}:{}{path}", serve.tls()));
    Finished::of(&mut command)
}

/// What openssl shows of the certificate for this name.
fn shown(serve: &Serve, host: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{}", serve.tls()), "-servername", host]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find(|line| line.starts_with("subject=")).unwrap_or(&text).to_owned()
}

#[guest_test]
fn clients_choose_their_protocol(platform: Platform) {
    if !has_tools(&["curl", "h2load"]) {
        return;
    }
    let serve = start(platform, "", &["a.example"]);
    for (arguments, version) in [(&["--http2"][..], "2"), (&["--http1.1"], "1.1"), (&["--no-alpn"], "1.1")] {
        let text = curl(&serve, "a.example", "a.example", arguments, "/headers").expect(0).text();
        assert!(text.ends_with(&format!("\n{version}")), "{text}");
        assert!(text.contains("x-forwarded-proto: https\n"), "{text}");
        assert!(text.contains(&format!("host: a.example:{}\n", serve.tls())), "{text}");
    }
    // A claim to the contrary is not believed.
    let lie = ["-H", "X-Forwarded-Proto: http"];
    let text = curl(&serve, "a.example", "a.example", &lie, "/headers").expect(0).text();
    assert!(text.contains("x-forwarded-proto: https\n") && !text.contains("proto: http\n"), "{text}");
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        curl(&serve, "a.example", "a.example", &version.split('=').collect::<Vec<_>>(), "/ok").expect(0);
    }
    let old = curl(&serve, "a.example", "a.example", &["--tls-max", "1.1"], "/ok");
    assert_ne!(old.code(), Some(0), "TLS 1.1 is no protection");
    let url = format!("https://127.0.0.1:{}/ok", serve.tls());
    let text = hv_tests::tool(Command::new("h2load").args(["-n500", "-c4", "-m4", &url])).text();
    assert!(text.contains("500 succeeded, 0 failed"), "{text}");
    serve.end();
}

#[guest_test]
fn certificates_are_chosen_by_name_and_replaced_by_a_reload(platform: Platform) {
    if !has_tools(&["curl", "openssl"]) {
        return;
    }
    let serve = start(platform, "", &["a.example", "b.example"]);
    assert!(shown(&serve, "a.example").contains("a.example"));
    assert!(shown(&serve, "b.example").contains("b.example"));
    assert!(shown(&serve, "other.example").contains("a.example"), "the first one is for the rest");
    curl(&serve, "b.example", "b.example", &[], "/ok").expect(0);
    let wrong = curl(&serve, "b.example", "a.example", &[], "/ok");
    assert_ne!(wrong.code(), Some(0), "curl trusts only a's");

    // The same names, new files.
    let old = std::fs::read(serve.folder().join("b.example.pem")).unwrap();
    make(serve.folder(), "b.example", &["b.example"], VALID);
    serve.signal(libc::SIGHUP);
    serve.said("reloaded", 1);
    curl(&serve, "b.example", "b.example", &[], "/ok").expect(0);
    // A key that belongs to another one: the old ones stay.
    std::fs::write(serve.folder().join("b.example.pem"), old).unwrap();
    serve.signal(libc::SIGHUP);
    let errors = serve.said("not reloaded", 1);
    assert!(errors.contains("is not that of the certificate"), "{errors}");
    assert!(shown(&serve, "b.example").contains("b.example"));
    serve.end();
}

#[guest_test]
fn one_that_has_expired_is_served_and_told(platform: Platform) {
    if !has_tools(&["curl"]) {
        return;
    }
    let config = format!("listen_tls = \"127.0.0.1:0\"\n{}{}", section("old"), probe(""));
    let serve = Serve::prepared(platform, &config, |_, folder| make(folder, "old", &["old"], (2020, 2021)));
    serve.said("has expired at 2021-01-01T00:00:00Z; replace the file, and reload (SIGHUP)", 1);
    curl(&serve, "old", "old", &["-k"], "/ok").expect(0);
    assert_ne!(curl(&serve, "old", "old", &[], "/ok").code(), Some(0));
    let end = serve.metric("hv_certificate_end_seconds{");
    assert_eq!(end, 1_609_459_200.0);
    serve.end();
}

#[guest_test]
fn what_is_no_tls_holds_up_nobody(platform: Platform) {
    if !has_tools(&["curl"]) {
        return;
    }
    let serve = start(platform, "header_time = \"500ms\"", &["a.example"]);
    let connect = || TcpStream::connect(("127.0.0.1", serve.tls())).unwrap();
    // Plain HTTP, garbage, silence, and the first half of a greeting.
    for bytes in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 1000], b"", b"\x16\x03\x01\x02\x00\x01"]
    {
        let mut socket = connect();
        socket.write_all(bytes).unwrap();
        socket.set_read_timeout(Some(hv_tests::LIMIT)).unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    eventually("four failures", || (serve.metric("hv_tls_failures_total") == 4.0).then_some(()));
    curl(&serve, "a.example", "a.example", &[], "/ok").expect(0);
    // An answer that breaks off is not taken for all of it.
    let cut = curl(&serve, "a.example", "a.example", &["--http1.1"], "/half");
    assert!(cut.code() != Some(0) || cut.text().contains("no answer"), "{}", cut.text());
    serve.end();
}

#[guest_test]
fn certificates_that_cannot_be_used(platform: Platform) {
    let probe = probe("");
    for (config, line, parts) in [
        ("listen_tls = \"127.0.0.1:0\"\n".to_owned(), 1, &["needs a certificate", "[[certificate]]"][..]),
        (section("a"), 1, &["a server without TLS", "listen_tls"]),
        (
            "listen_tls = \"x\"\n".to_owned() + &section("a"),
            1,
            &["listen_tls = \"x\"", "an IP address and a port"],
        ),
        ("listen_tls = \"127.0.0.1:0\"\n[[certificate]]\nchain = \"a.pem\"\n".into(), 2, &["has no `key`"]),
        ("listen_tls = \"127.0.0.1:0\"\n[[certificate]]\nkey = \"a.key\"\n".into(), 2, &["has no `chain`"]),
        (
            format!("listen_tls = \"127.0.0.1:0\"\n{}names = \"a b\"\n", section("a")),
            2,
            &["names = \"a b\"", "the name of a host"],
        ),
        (format!("listen_tls = \"127.0.0.1:0\"\n{}", section("none")), 2, &["cannot read", "none.pem"]),
        (format!("listen_tls = \"127.0.0.1:0\"\n{}", section("empty")), 2, &["empty.pem has no certificate"]),
        (
            format!("listen_tls = \"127.0.0.1:0\"\n{}", section("broken")),
            2,
            &["broken.pem has no certificate"],
        ),
        (format!("listen_tls = \"127.0.0.1:0\"\n{}", section("nokey")), 2, &["nokey.key has no private key"]),
        (
            format!("listen_tls = \"127.0.0.1:0\"\n{}", section("mixed")),
            2,
            &["is not that of the certificate"],
        ),
    ] {
        let (mut command, folder) = checked(platform, &(config + &probe), &["--check"]);
        make(folder.path(), "a", &["a"], VALID);
        make(folder.path(), "mixed", &["a"], VALID);
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        put("mixed.key", &read("a.key"));
        put("empty.pem", "");
        put("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        put("nokey.pem", &read("a.pem"));
        put("nokey.key", &read("a.pem"));
        let end = Finished::of(&mut command).expect(2);
        let place = format!("hv.toml:{line}: ");
        assert!(end.err.contains(&place), "{place}: {}", end.err);
        assert_eq!(end.err.lines().count(), 1, "{}", end.err);
        parts.iter().for_each(|part| assert!(end.err.contains(part), "{part}: {}", end.err));
    }
}
