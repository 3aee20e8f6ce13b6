//! The example of two tenants behind a proxy, in docs/proxy: with nginx, and with caddy.

use hv_tests::serve::Serve;
use hv_tests::{Finished, Platform, eventually, guest, guest_test, has_tools, system_tool};
use rcgen::{CertificateParams, KeyPair};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tempfile::TempDir;
use tungstenite::Message;

/// The user `nobody`, as whom proxies run if this is root.
const NOBODY: u32 = 65534;

/// Where proxies listen: nobody else takes their ports before they do.
const ADDRESS: &str = "127.0.78.1";

/// A file of the example.
fn example(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/proxy").join(name)).unwrap()
}

/// The example's server, with ports of its own, and the test guest as both functions.
fn hv(platform: Platform) -> Serve {
    let mut config =
        example("hv.toml").replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9090", "127.0.0.1:0");
    for image in ["fn-hello", "fn-json"] {
        assert!(config.contains(&format!("{image:?}")));
        config = config.replace(&format!("{image:?}"), &format!("{:?}", guest("fn-probe")));
    }
    Serve::start(platform, &config)
}

/// A proxy in a folder of its own.
struct Proxy {
    child: Child,
    folder: TempDir,
    port: u16,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // They end their own children then, too.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        );
        let _ = self.child.wait();
    }
}

/// A certificate for a name, as its file.
fn certificate(folder: &Path, name: &str) {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec![format!("{name}.example.org")]).unwrap().self_signed(&key).unwrap();
    fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

fn start(name: &str, serve: &Serve) -> Proxy {
    let folder = TempDir::new().unwrap();
    ["shop", "blog"].iter().for_each(|name| certificate(folder.path(), name));
    let place = TcpListener::bind((ADDRESS, 0)).unwrap();
    let port = place.local_addr().unwrap().port();
    let file = if name == "nginx" { "nginx.conf" } else { "Caddyfile" };
    let config = example(file).replace("127.0.0.1:8080", &format!("127.0.0.1:{}", serve.port));
    let listens = [
        ("127.0.0.1:8443", format!("{ADDRESS}:8443")),
        ("default_bind 127.0.0.1", format!("default_bind {ADDRESS}")),
    ];
    assert!(listens.iter().any(|(old, _)| config.contains(old)));
    let config = listens.iter().fold(config, |config, (old, new)| config.replace(old, new));
    let config = config.replace(":8443", &format!(":{port}"));
    fs::write(folder.path().join(file), config).unwrap();
    fs::create_dir(folder.path().join("temporary")).unwrap();
    let mut command = system_tool(name);
    if rustix::process::getuid().is_root() {
        for entry in fs::read_dir(folder.path()).unwrap() {
            chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let path = folder.path();
    match name {
        "nginx" => command.arg("-p").arg(path).arg("-c").arg(path.join(file)).args([
            "-e",
            "stderr",
            "-g",
            "daemon off;",
        ]),
        _ => command.args(["run", "--config", file]),
    };
    command.current_dir(path).env("HOME", path).env("XDG_DATA_HOME", path).env("XDG_CONFIG_HOME", path);
    let output = fs::File::create(path.join("output")).unwrap();
    command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
    drop(place);
    let mut proxy = Proxy { child: command.spawn().unwrap(), folder, port };
    eventually("the proxy", || {
        if proxy.child.try_wait().unwrap().is_some() {
            panic!("{name} ended: {}", fs::read_to_string(proxy.folder.path().join("output")).unwrap());
        }
        TcpStream::connect((ADDRESS, port)).ok()
    });
    proxy
}

impl Proxy {
    fn curl(&self, tenant: &str, path: &str, arguments: &[&str]) -> Command {
        let host = format!("{tenant}.example.org");
        let mut command = Command::new("curl");
        command.args(["-sS", "--resolve", &format!("{host}:{}:{ADDRESS}", self.port), "--cacert"]);
        command.arg(self.folder.path().join(format!("{tenant}.pem"))).args(arguments);
        command.arg(format!("https://{host}:{}{path}", self.port));
        command
    }

    #[track_caller]
    fn text(&self, tenant: &str, path: &str, arguments: &[&str]) -> String {
        Finished::of(&mut self.curl(tenant, path, arguments)).expect(0).text()
    }
}

/// A connection over TLS, by openssl.
struct Tls {
    _child: Reaped,
    to: ChildStdin,
    from: ChildStdout,
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Tls {
    fn connect(proxy: &Proxy) -> Tls {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-verify_quiet", "-verify_return_error", "-alpn", "http/1.1"]);
        command.args([
            "-connect",
            &format!("{ADDRESS}:{}", proxy.port),
            "-servername",
            "shop.example.org",
            "-CAfile",
        ]);
        command.arg(proxy.folder.path().join("shop.pem"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Tls { _child: Reaped(child), to, from }
    }
}

impl Read for Tls {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.from.read(bytes)
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn check(platform: Platform, name: &str) {
    let serve = hv(platform);
    let proxy = start(name, &serve);

    // Each tenant by its name, over HTTP/2, and nobody else.
    for tenant in ["shop", "blog"] {
        let seen = proxy.text(tenant, "/ok", &["-w", "%{http_version} %{http_code}"]);
        assert!(seen.ends_with("2 200"), "{seen}");
        serve.log_line(&format!("/{tenant}/ok"));
    }
    assert_eq!(serve.metric("hv_requests_total{function=\"shop\",status=\"200\"}"), 1.0);
    let mut other = proxy.curl("shop", "/", &["-k"]);
    other.args(["--resolve", &format!("other.example.org:{}:{ADDRESS}", proxy.port)]);
    other.arg(format!("https://other.example.org:{}/", proxy.port));
    assert_ne!(Finished::of(&mut other).status.code(), Some(0), "names that are nobody's");

    // hv's own pages are not there, and no way leads out of a tenant's paths.
    for path in ["/metrics", "/healthz", "/v1/functions"] {
        assert!(!proxy.text("shop", path, &[]).contains("hv_"), "{path}");
    }
    for path in ["/../blog/ok", "/%2e%2e/blog/ok", "//blog/ok"] {
        proxy.text("shop", path, &["--path-as-is"]);
    }
    assert_eq!(serve.metric("hv_requests_total{function=\"blog\""), 1.0, "they were the shop's");

    // Who the client is comes from the proxy alone.
    let claims =
        ["-H", "X-Forwarded-For: 192.0.2.1", "-H", "X-Forwarded-Proto: gopher", "-H", "X-Request-Id: mine"];
    let seen = proxy.text("shop", "/headers", &[&["--interface", "127.0.0.2"][..], &claims].concat());
    for line in ["x-forwarded-for: 127.0.0.2, 127.0.0.1\n", "x-forwarded-proto: https\n"] {
        assert!(seen.contains(line), "{line:?} in: {seen}");
    }
    assert!(!seen.contains("192.0.2.1") && !seen.contains("gopher") && !seen.contains("mine"), "{seen}");

    // Bodies go through both ways, larger ones than the proxy would keep.
    let body = proxy.folder.path().join("body");
    fs::write(&body, vec![b'x'; 5_000_000]).unwrap();
    let data = format!("@{}", body.display());
    assert_eq!(proxy.text("shop", "/length", &["--data-binary", &data]), "5000000\n");
    let big = Finished::of(&mut proxy.curl("shop", "/big?n=5000000", &[])).expect(0);
    assert_eq!(big.out.len(), 5_000_000);

    // A stream comes piece by piece: its first line is here long before the last is sent.
    let mut stream = proxy.curl("shop", "/slow?ms=100&n=50", &["-N"]);
    let mut child = Reaped(stream.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap());
    assert!(lines.read_line(&mut String::new()).unwrap() > 0);
    assert!(child.0.try_wait().unwrap().is_none(), "it goes on");
    assert_eq!(lines.lines().map(Result::unwrap).count(), 49);

    // A WebSocket goes through.
    let url = "ws://shop.example.org/websocket";
    let (mut socket, answer) = tungstenite::client(url, Tls::connect(&proxy)).expect("a handshake");
    assert_eq!(answer.status(), 101);
    for len in [1, 1000, 60_000] {
        socket.send(Message::binary(vec![7; len])).unwrap();
        assert_eq!(socket.read().unwrap(), Message::binary(vec![7; len]));
    }
    socket.send(Message::text("close")).unwrap();
    while socket.read().is_ok() {}

    // What a guest fails at is told, once: the proxy does not ask again.
    let seen = proxy.text("shop", "/exit", &["-w", "%{http_code}"]);
    assert!(seen.ends_with("502"), "{seen}");
    assert_eq!(serve.metric("hv_failures_total{function=\"shop\",kind=\"exited\"}"), 1.0);
    drop(proxy);
    serve.end();
}

#[guest_test]
fn two_tenants_behind_nginx(platform: Platform) {
    if has_tools(&["nginx", "curl", "openssl"]) {
        check(platform, "nginx");
    }
}

#[guest_test]
fn two_tenants_behind_caddy(platform: Platform) {
    if has_tools(&["caddy", "curl", "openssl"]) {
        check(platform, "caddy");
    }
}
