//! Functions of one `hv serve`: the neighbour greets, and others attack.

use crate::{Selection, as_client};
use hv_tests::debug::{Endless, with_debug_info};
use hv_tests::http::Client;
use hv_tests::serve::Serve;
use hv_tests::stalling::Stalling;
use hv_tests::{Platform, guest};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Who attacks.
pub(crate) const ATTACKS: [&str; 7] = [
    "requests that are well",
    "a crash per request",
    "a crash per request, hostile debug information",
    "metrics in a loop",
    "a spinner per processor",
    "2000 idle connections",
    "a disk that does not answer",
];

/// Clients of an attacked server that ask for the same again and again, as fast as they are answered.
struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(count: usize, port: u16, path: impl Fn() -> String + Clone + Send + 'static) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (stop, path) = (stop.clone(), path.clone());
            std::thread::spawn(move || {
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    // One that has been closed is opened again.
                    let open = client.take().or_else(|| Client::connect(port).ok());
                    client = open.and_then(|mut open| open.ask("GET", &path(), "", b"").ok().map(|_| open));
                }
            })
        };
        Clients { threads: (0..count).map(client).collect(), stop }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("it does not panic"));
    }
}

/// Clients that ask for something that takes longer than they stay.
struct Impatient {
    _clients: Vec<Client>,
}

impl Impatient {
    fn start(count: usize, port: u16, path: &str) -> Impatient {
        let ask = |_| {
            let mut client = Client::connect(port).expect("it listens");
            client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).expect("it reads");
            client
        };
        Impatient { _clients: (0..count).map(ask).collect() }
    }
}

fn config(storage: Option<&Stalling>, debug: &std::path::Path) -> String {
    let function = |name: &str, path: &str, image: &std::path::Path, more: &str| {
        format!("[function.{name}]\npath = {path:?}\nimage = {image:?}\nmemory = \"4M\"\n{more}\n")
    };
    let mut text = String::from("log = \"off\"\nconnections = 4096\n");
    text += &function("neighbour", "/hello", &guest("fn-hello"), "");
    text += &function("attacker", "/*", &guest("fn-probe"), "");
    text += &function("debug", "/panic", debug, "");
    // A request goes on when its client is gone: it has to be over before the next window without attack.
    text += &function("spinner", "/hang", &guest("fn-probe"), "wall_time = \"700ms\"");
    if let Some(storage) = storage {
        let disk = format!("{},ro", storage.disk().display());
        let more = format!("wall_time = \"100ms\"\nconcurrency = 8\ndisks = [{disk:?}]");
        text += &function("stalling", "/read", &guest("fn-probe"), &more);
    }
    text
}

pub(crate) fn measure(selection: &Selection, platform: Platform) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let folder = tempfile::tempdir().expect("room for a folder");
    let debug = folder.path().join("debug");
    let image = std::fs::read(guest("fn-probe")).expect("it was built");
    std::fs::write(&debug, with_debug_info(&image, Endless::Rows, 16 << 20)).expect("room for a file");
    let storage = Stalling::new(16 << 30);
    let serve = Serve::start(platform, &config(storage.as_ref(), &debug));
    let port = serve.port;
    as_client(|| {
        let mut client = serve.client();
        let ask: &mut dyn FnMut() = &mut || {
            client.ask("GET", "/hello", "", b"").expect("it answers").expect(200);
        };
        let mut clients = |what: &str, count: usize, path: &'static str| {
            selection.measure(platform.name(), &format!("serve: {what}"), ask, || {
                Clients::start(count, port, || path.to_owned())
            });
        };
        clients("requests that are well", 1, "/ok");
        clients("a crash per request", 4, "/crash");
        clients("a crash per request, hostile debug information", 4, "/panic");
        clients("metrics in a loop", 2, "/metrics");
        selection.measure(platform.name(), "serve: a spinner per processor", ask, || {
            Impatient::start(cores, port, "/hang")
        });
        selection.measure(platform.name(), "serve: 2000 idle connections", ask, || {
            (0..2000)
                .map(|_| TcpStream::connect(("127.0.0.1", port)).expect("it listens"))
                .collect::<Vec<_>>()
        });
        if let Some(storage) = &storage {
            selection.measure(platform.name(), "serve: a disk that does not answer", ask, || {
                storage.stall();
                (Released(storage), Clients::start(4, port, unread))
            });
        }
    });
    serve.end();
}

/// A request for a part of the disk (in units of 4 KiB) that was not read before, so that it is not in the
/// page cache.
fn unread() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("/read?at={}", NEXT.fetch_add(1024, Ordering::Relaxed))
}

/// Has a storage answer again when this is dropped.
struct Released<'a>(&'a Stalling);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}
