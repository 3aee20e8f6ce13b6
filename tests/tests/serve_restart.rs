//! Servers that take the place of others, and service managers that start them.

use hv_tests::http::Client;
use hv_tests::serve::{Serve, probe};
use hv_tests::{LIMIT, Platform, eventually, free_port, guest_test, has_tools};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What clients have asked, and how often they were not answered as they should be.
#[derive(Default)]
struct Count {
    end: AtomicBool,
    asked: AtomicU64,
    failed: AtomicU64,
}

/// Asks until it is told to end: some requests on each connection, as long as the server keeps it, some of them with bodies. Every
/// request that is not answered in full counts.
fn ask(port: u16, count: &Count) {
    let body: Vec<u8> = (0..40_000_u32).map(|at| (at * 7 + at / 251) as u8).collect();
    while !count.end.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(port) else {
            count.failed.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let mut answered = Instant::now();
        for number in 0..20 {
            let idle = answered.elapsed();
            let asked = count.asked.fetch_add(1, Ordering::Relaxed);
            let (answer, expected) = match (asked + number) % 16 {
                0 => (client.ask("POST", "/echo", "", &body), &body[..]),
                1 => (client.ask("GET", "/sleep?ms=20", "", b""), &b"slept\n"[..]),
                _ => (client.ask("GET", "/ok", "", b""), &b"ok\n"[..]),
            };
            match answer {
                Ok(answer) if answer.status == 200 && answer.body == expected => {
                    if answer.field("connection") == Some("close") {
                        break;
                    }
                    answered = Instant::now();
                }
                other => {
                    let other = other.map(|answer| (answer.status, answer.text()));
                    eprintln!("request {number} of a connection that was idle for {idle:?}: {other:?}");
                    count.failed.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
    }
}

/// Requests of the next test, which `HV_RESTARTS` may ask for more of: 100000 take some minutes.
fn wanted() -> u64 {
    std::env::var("HV_RESTARTS").map_or(2000, |count| count.parse().expect("HV_RESTARTS is a number"))
}

#[guest_test]
fn reloads_and_restarts_under_load_lose_no_request(platform: Platform) {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("hv.sock");
    // Each is another deployment than the one before.
    let config = |number: u64| {
        let keys = format!("wall_time = \"{}s\"\nbody = \"1M\"", 60 + number % 2);
        format!("admin = \"127.0.0.1:0\"\nhandover = {socket:?}\n{}", probe(&keys))
    };
    let mut serve = Serve::start(platform, &config(0));
    let (port, admin) = (serve.port, serve.admin);
    let (count, wanted) = (Count::default(), wanted());
    let asked = || count.asked.load(Ordering::Relaxed);
    let some_more = |what: &str| {
        let before = asked();
        eventually(what, || (asked() > before + 100).then_some(()));
    };
    let (mut reloads, mut restarts) = (0, 0);
    std::thread::scope(|scope| {
        let askers = [(); 4].map(|()| scope.spawn(|| ask(port, &count)));
        while asked() < wanted || restarts < 3 {
            some_more("requests before a reload");
            serve.reload(&config(reloads + 1));
            reloads += 1;
            serve.said("1 functions deployed", 1);
            some_more("requests before a restart");
            let next = Serve::start(platform, &config(reloads));
            assert_eq!((next.port, next.admin), (port, admin), "the same sockets");
            let old = std::mem::replace(&mut serve, next);
            old.said("handed over", 1);
            let old = old.finish().expect(0);
            assert!(old.err.ends_with("hv: drained\n"), "{}", old.err);
            restarts += 1;
        }
        count.end.store(true, Ordering::Relaxed);
        askers.into_iter().for_each(|asker| asker.join().unwrap());
    });
    let (asked, failed) = (count.asked.into_inner(), count.failed.into_inner());
    println!("{failed} failed of {asked}, in {reloads} reloads and {restarts} restarts");
    assert_eq!(failed, 0, "of {asked}");
    // It answers on its own pages, too.
    assert!(serve.metric("hv_requests_total{") > 0.0);
    serve.end();
}

#[guest_test]
fn a_server_whose_successor_fails_goes_on(platform: Platform) {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("hv.sock");
    let config = format!("handover = {socket:?}\n{}", probe(""));
    let serve = Serve::start(platform, &config);
    // Its guest exits instead of getting ready.
    let bad = format!("handover = {socket:?}\n{}", probe("args = \"exit\"").replace("fn-probe", "hello"));
    let (mut command, _folder) = hv_tests::serve::checked(platform, &bad, &["--listen", "127.0.0.1:0"]);
    hv_tests::Finished::of(&mut command).expect(2);
    serve.said("ended before it was ready", 1);
    assert_eq!(serve.get("/ok").expect(200).text(), "ok\n");
    // Somebody who wants nothing of it.
    drop(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    // The next one takes it over all the same.
    let next = Serve::start(platform, &config);
    assert_eq!(next.port, serve.port);
    serve.finish().expect(0);
    assert_eq!(next.get("/ok").expect(200).text(), "ok\n");
    // The file is left, and the next start makes another one.
    next.end();
    Serve::start(platform, &config).end();
    // A file that is no socket is nobody's to remove.
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "mine").unwrap();
    let (mut command, _folder) = hv_tests::serve::checked(platform, &config, &["--listen", "127.0.0.1:0"]);
    let refused = hv_tests::Finished::of(&mut command).expect(2);
    assert!(refused.err.contains("a file that is no socket is there"), "{}", refused.err);
    assert_eq!(std::fs::read(&socket).unwrap(), b"mine");
}

/// Starts what stands behind it, with a socket that listens on this port as descriptor 3.
const ACTIVATE: &str = r#"
import os, socket, sys
listener = socket.socket()
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"] = "1", str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"#;

#[guest_test]
fn a_service_manager_passes_sockets_and_is_told(platform: Platform) {
    if !has_tools(&["python3"]) {
        return;
    }
    // An abstract address, which the jail would not let it reach later.
    let name = format!("hv-test-{}-{platform}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let told = || {
        let mut text = [0; 200];
        let count = manager.recv(&mut text).expect("a word");
        String::from_utf8_lossy(&text[..count]).into_owned()
    };
    // What is asked for, with all that is said in between.
    let hears = |word: &str| while !told().starts_with(word) {};
    let port = free_port();
    let config = format!("listen = \"127.0.0.1:{port}\"\n{}", probe(""));
    let serve = Serve::prepared(platform, &config, |command, folder| {
        let mut wrapped = Command::new("python3");
        wrapped.args(["-c", ACTIVATE, &port.to_string()]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            wrapped.env(key, value.unwrap_or_default());
        }
        wrapped.current_dir(folder).env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "200000");
        *command = wrapped;
    });
    hears("READY=1");
    assert_eq!(serve.port, port);
    serve.get("/ok").expect(200);
    hears("WATCHDOG=1");
    serve.signal(libc::SIGHUP);
    hears("RELOADING=1\nMONOTONIC_USEC=");
    hears("READY=1");
    let mut busy = serve.client();
    busy.send(b"GET /sleep?ms=500 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    serve.signal(libc::SIGTERM);
    hears("STOPPING=1");
    assert_eq!(busy.answer("GET").unwrap().expect(200).text(), "slept\n");
    serve.finish().expect(0);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the socket was not kept open");
}
