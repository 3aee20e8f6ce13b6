//! Names that functions connect to are looked up by hv, with the name servers of the host, and only those that `net` has: in a
//! network of its own, where dnsmasq knows more names than a function may.

use hv_tests::http::Client;
use hv_tests::serve::Serve;
use hv_tests::services::{reach, text};
use hv_tests::{Platform, eventually, guest, guest_test, has_tools, system_tool, tool};
use std::fs;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Where the name server is, and where services are.
const NAME_SERVER: &str = "10.9.0.53";
const SERVICE: &str = "10.9.0.80";

/// dnsmasq, which writes down what it is asked.
struct NameServer {
    child: Child,
    log: std::path::PathBuf,
}

impl NameServer {
    fn start(folder: &Path) -> NameServer {
        let log = folder.join("questions");
        let mut command = system_tool("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
        ]);
        command.args(["--bind-interfaces", "--log-queries", "--local=/test/"]);
        // Two that write the usual one at the same time are in each other's way, and one of them ends.
        command.arg(format!("--pid-file={}", folder.join("pid").display()));
        command
            .arg(format!("--listen-address={NAME_SERVER}"))
            .arg(format!("--log-facility={}", log.display()));
        for (name, address) in [
            ("service.test", SERVICE),
            ("below.test", SERVICE),
            ("secret.test", SERVICE),
            ("rebind.test", "127.0.0.1"),
            ("metadata.test", "169.254.169.254"),
        ] {
            command.arg(format!("--address=/{name}/{address}"));
        }
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        eventually("dnsmasq", || {
            assert!(child.try_wait().unwrap().is_none(), "dnsmasq ended");
            answers_a_question().ok()
        });
        NameServer { child, log }
    }

    /// What it was asked.
    fn questions(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// That the kernel has a port for it does not say that it answers by now.
fn answers_a_question() -> io::Result<()> {
    // The address of `probe.test`, by a question with the number 1 that asks for recursion (RFC 1035, 4.1).
    let question = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x05probe\x04test\0\0\x01\0\x01";
    let socket = UdpSocket::bind((NAME_SERVER, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    socket.connect((NAME_SERVER, 53))?;
    socket.send(question)?;
    socket.recv(&mut [0; 512]).map(drop)
}

/// Moves this thread, and what it starts, into a network with a name server of its own.
fn elsewhere(folder: &Path) {
    // SAFETY: no memory is passed; only this thread, and what it starts, is somewhere else from now on.
    let moved = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
    assert_eq!(moved, 0, "{}", std::io::Error::last_os_error());
    tool(Command::new("mount").args(["--make-rprivate", "/"]));
    tool(Command::new("ip").args(["link", "set", "lo", "up"]));
    for address in [NAME_SERVER, SERVICE] {
        tool(Command::new("ip").args(["address", "add", &format!("{address}/32"), "dev", "lo"]));
    }
    let resolv_conf = folder.join("resolv.conf");
    fs::write(&resolv_conf, format!("nameserver {NAME_SERVER}\nsearch test\n")).unwrap();
    tool(Command::new("mount").arg("--bind").arg(resolv_conf).arg("/etc/resolv.conf"));
}

fn names_are_looked_up(platform: Platform) {
    let folder = TempDir::new().unwrap();
    elsewhere(folder.path());
    let server = NameServer::start(folder.path());
    // The kernel's backlog is answer enough.
    let all = ["127.0.0.1", SERVICE].map(|address| TcpListener::bind((address, 7777)).unwrap());
    let net = ["service.test", "*.below.test", "rebind.test", "metadata.test", "missing.test"]
        .map(|name| format!("\"tcp:{name}:7777\""))
        .join(", ");
    let serve = Serve::start(platform, &reach("", &format!("net = [{net}]")));
    let mut client = serve.client();
    let mut connect = |to: &str| text(&mut client, &format!("/connect?to={to}:7777"));
    for named in ["service.test", "SERVICE.test", "service.test.", "a.below.test", "b.a.below.test"] {
        assert_eq!(connect(named), "connected", "{named}");
    }
    // What leads to this host or its links, whoever answers so.
    for elsewhere in ["rebind.test", "metadata.test"] {
        let said = connect(elsewhere);
        assert!(said.starts_with("Denied("), "{elsewhere}: {said}");
    }
    let said = connect("missing.test");
    assert!(said.starts_with("Unreachable("), "{said}");
    // What is not named is not even asked for, nor is anything else put together of names.
    for other in ["secret.test", "below.test", "service", "data-for-somebody.service.test", "test"] {
        let said = connect(other);
        assert!(said.starts_with("Denied("), "{other}: {said}");
    }
    let questions = server.questions();
    for asked in ["service.test", "a.below.test", "rebind.test", "missing.test"] {
        assert!(questions.contains(&format!(" {asked} from ")), "{asked}: {questions}");
    }
    for other in ["secret.test", " below.test from", "data-for-somebody", "test.test"] {
        assert!(!questions.contains(other), "{other}: {questions}");
    }
    // Nor can the guest ask a name server itself.
    let ask = |client: &mut Client, path: &str| client.ask("POST", path, "", b"x").unwrap().status;
    assert_eq!(ask(&mut serve.client(), &format!("/udp?to={NAME_SERVER}:53")), 500);
    assert!(text(&mut serve.client(), &format!("/connect?to={NAME_SERVER}:53")).starts_with("Denied("));
    // Without a name server, a name that nobody knows yet leads nowhere.
    drop(server);
    let said = text(&mut serve.client(), "/connect?to=new.below.test:7777");
    assert!(said.starts_with("Unreachable("), "{said}");
    serve.end();
    drop(all);
}

#[guest_test]
fn a_function_has_names_that_it_was_given(platform: Platform) {
    if !has_tools(&["ip", "mount", "dnsmasq"]) {
        return;
    }
    // SAFETY: no memory is passed.
    if unsafe { libc::geteuid() } != 0 {
        hv_tests::skip("needs root");
        return;
    }
    // Built here, where registries can be reached.
    guest("fn-reach");
    hv_tests::hv();
    std::thread::scope(|scope| scope.spawn(|| names_are_looked_up(platform)).join().unwrap());
}
