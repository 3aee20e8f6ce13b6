//! Requests that go wrong in every way, all at once, of clients that go away or reset their connections, while a disk hangs now and then and processes that guests
//! come from are stopped and killed: each gets an answer, and nothing is left of them. `HV_FAULTS` says how many requests (3000).

use hv_tests::http::Client;
use hv_tests::serve::{Serve, probe};
use hv_tests::stalling::Stalling;
use hv_tests::{Platform, eventually, guest, guest_test};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of the disk that hangs now and then.
const SIZE: u64 = 64 << 30;

/// How often what does harm looks about.
const PAUSE: Duration = Duration::from_millis(50);

/// How long hv may take to miss a process that is stopped.
const MISSED: Duration = Duration::from_secs(20);

/// Connections at a time.
const CLIENTS: u64 = 16;

/// What a request may do, how often of 100, and which statuses it may meet.
const MIX: [(&str, u64, &[u16]); 14] = [
    ("GET /ok", 40, &[200]),
    // Its disk hangs for some time.
    ("GET /read?at={}", 1, &[200, 503, 504]),
    ("GET /crash", 8, &[502]),
    ("GET /panic", 6, &[502]),
    ("GET /garbage?kind=zero", 4, &[502]),
    ("GET /garbage?kind=no-http", 4, &[502]),
    ("GET /garbage?kind=two-heads", 4, &[200, 502]),
    ("GET /exit?code=7", 6, &[502]),
    ("GET /oom", 4, &[502]),
    ("GET /hang", 1, &[504]),
    ("GET /big?n=300000", 8, &[200]),
    ("POST /early", 7, &[200]),
    ("cancel", 7, &[]),
    ("reset", 10, &[]),
];

/// Where a client resets its connection: what it has sent by then, and whether it has read the head of the answer.
const RESETS: [(&str, bool); 7] = [
    ("", false),
    ("GET /ok HT", false),
    ("GET /ok HTTP/1.1\r\nHost: x\r\n\r\n", false),
    ("GET /slow?ms=1&n=50 HTTP/1.1\r\nHost: x\r\n\r\n", true),
    // More than waits for a client that does not read.
    ("GET /big?n=3000000 HTTP/1.1\r\nHost: x\r\n\r\n", true),
    ("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\na part of it", true),
    // The second one is answered, or not, when nobody is there.
    ("GET /ok HTTP/1.1\r\nHost: x\r\n\r\nGET /sleep?ms=50 HTTP/1.1\r\nHost: x\r\n\r\n", true),
];

/// A request of the mix; the same for the same number.
fn choose(number: u64) -> &'static (&'static str, u64, &'static [u16]) {
    let mut at = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    at %= MIX.iter().map(|(_, share, _)| share).sum::<u64>();
    MIX.iter()
        .find(|(_, share, _)| {
            let here = at < *share;
            at = at.saturating_sub(*share);
            here
        })
        .expect("within the sum")
}

/// Asks, and validates the answer. An error is a connection that ended, which has to be
/// the server's way to say that an answer broke off.
fn ask(client: &mut Client, number: u64, before: Option<u64>) -> io::Result<()> {
    let (what, _, statuses) = choose(number);
    if *what == "reset" {
        let (bytes, reads) = RESETS[(number % RESETS.len() as u64) as usize];
        client.reset_at_end()?;
        client.send(bytes.as_bytes())?;
        if reads {
            assert_eq!(client.head()?.status, 200);
        }
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let Some((method, path)) = what.split_once(' ') else {
        // Goes away in the middle of an answer, or before it.
        client.send(b"GET /slow?ms=1&n=50 HTTP/1.1\r\nHost: x\r\n\r\n")?;
        if number.is_multiple_of(2) {
            assert_eq!(client.head()?.status, 200);
        }
        return Err(io::ErrorKind::ConnectionAborted.into());
    };
    // No place twice: what was read before need not be asked for.
    let path = path.replace("{}", &(number * 64 % (SIZE / 512)).to_string());
    let body = if method == "POST" { vec![b'x'; 20_000] } else { Vec::new() };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    client.send(head.as_bytes())?;
    // One that is answered before its body has come may close the way for it.
    let sent = client.send(&body);
    let answer = client.head().unwrap_or_else(|error| {
        let before = before.map_or("nothing", |before| choose(before).0);
        panic!("request {number}, {what}: {error}, {sent:?}; before it on the connection: {before}")
    });
    if !statuses.contains(&answer.status) {
        let says = client.line();
        panic!("request {number}, {what}: {} {says:?}", answer.status);
    }
    let whole = read_body(client, &answer);
    if whole.is_err() {
        assert_eq!(*what, "GET /garbage?kind=two-heads", "request {number} broke off");
    }
    sent.and(whole)?;
    if answer.field("connection") == Some("close") {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    Ok(())
}

fn read_body(client: &mut Client, head: &hv_tests::http::Answer) -> io::Result<()> {
    if head.chunked {
        while client.chunk()?.is_some() {}
        return Ok(());
    }
    client.skip(head.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0))
}

/// Sends requests until all are taken.
fn work(port: u16, next: &AtomicU64, count: u64) {
    // A connection, and the last request on it.
    let mut client: Option<(Client, Option<u64>)> = None;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return;
        }
        let (connected, before) =
            client.get_or_insert_with(|| (Client::connect(port).expect("it listens"), None));
        if ask(connected, number, before.replace(number)).is_err() {
            client = None;
        }
    }
}

/// Stops a process, and then kills it unless it is to stay so. Returns false, and lets it go on, if it is no zygote any more: a process that is made to
/// become a guest's begins as one, and may have become it between two looks.
fn harm(zygote: u32, stop: bool) -> bool {
    // SAFETY: no memory is passed.
    let signal = |number| unsafe { libc::kill(zygote as i32, number) };
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{zygote}/{file}")).unwrap_or_default();
    signal(libc::SIGSTOP);
    // Its name is the same from here on, unless somebody has resumed it.
    let begin = Instant::now();
    let runs = || read("stat").rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['T', 'Z']));
    while runs() && begin.elapsed() < PAUSE {
        std::thread::yield_now();
    }
    let is_zygote = read("comm") == "hv-zygote\n";
    match (is_zygote, stop) {
        (false, _) => signal(libc::SIGCONT),
        (true, false) => signal(libc::SIGKILL),
        (true, true) => 0,
    };
    is_zygote
}

/// Stops or kills the process that guests' processes are made by, as long as a storm lasts.
fn harm_zygotes(serve: &Serve, with_stops: bool, done: &AtomicBool) {
    let zygotes = || {
        let supervisors = serve.children("hv-supervisor");
        supervisors.into_iter().flat_map(|supervisor| hv_tests::children(supervisor, "hv-zygote"))
    };
    let (mut last, mut harmed) = (None, 0_u32);
    while !done.load(Ordering::SeqCst) {
        let zygote = zygotes().next();
        // One that was there before: a process that is to wait for a guest begins with the same name.
        if let Some(zygote) = zygote.filter(|_| zygote == last) {
            let stop = with_stops && harmed.is_multiple_of(100);
            harmed += u32::from(harm(zygote, stop));
            // Starts wait until hv has missed it.
            let patience = Instant::now() + MISSED;
            while stop && !done.load(Ordering::SeqCst) && zygotes().any(|other| other == zygote) {
                std::thread::sleep(PAUSE);
                if Instant::now() > patience {
                    // A process that one of them had made before it was killed: nobody but this test keeps it from its end.
                    // SAFETY: no memory is passed.
                    unsafe { libc::kill(zygote as i32, libc::SIGCONT) };
                    break;
                }
            }
        }
        last = zygote;
        std::thread::sleep(PAUSE);
    }
    println!("{harmed} zygotes were stopped or killed");
}

/// Has the disk hang for a time longer than its function may take, and answer for twice that, as long as a storm lasts.
fn harm_disk(storage: &Stalling, done: &AtomicBool) {
    let (begin, mut stalls, mut hangs) = (Instant::now(), 0_u32, false);
    while !done.load(Ordering::SeqCst) {
        let hung = std::mem::replace(&mut hangs, begin.elapsed().as_millis() / 1500 % 3 == 1);
        match (hung, hangs) {
            (false, true) => {
                stalls += 1;
                storage.stall();
            }
            (true, false) => storage.release(),
            _ => {}
        }
        std::thread::sleep(PAUSE);
    }
    storage.release();
    println!("the disk hung {stalls} times");
}

fn storm(platform: Platform, serve: &Serve, storage: Option<&Stalling>, count: u64) {
    let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        if let Some(storage) = storage {
            scope.spawn(|| harm_disk(storage, &done));
        }
        if platform == Platform::Process {
            scope.spawn(|| harm_zygotes(serve, count > 10_000, &done));
        }
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| work(serve.port, &next, count))).collect();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        done.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok), "some requests were not answered as they should be");
    });
    // What was cancelled ends a moment later.
    eventually("quiet", || (serve.metric("hv_guests_live{") == 0.0).then_some(()));
    assert_eq!(serve.metric("hv_queue{"), 0.0);
}

#[guest_test]
fn every_request_is_answered_and_nothing_is_left(platform: Platform) {
    let count = std::env::var("HV_FAULTS").ok().and_then(|count| count.parse().ok()).unwrap_or(3000);
    // Time that the host below takes away counts as used: the limit leaves room for that.
    let keys = "memory = \"4M\"\ncpu_time = \"100ms\"\nwall_time = \"60s\"\nqueue_time = \"100s\"\n\
                concurrency = 16\nidle = \"100ms\"\n";
    // Where there is no FUSE, a disk that never hangs.
    let (storage, plain) = (Stalling::new(SIZE), tempfile::NamedTempFile::new().unwrap());
    plain.as_file().set_len(SIZE).unwrap();
    let disk = storage.as_ref().map_or(plain.path().to_owned(), Stalling::disk);
    let reader = format!(
        "[function.reader]\npath = \"/read\"\nimage = {:?}\ndisks = [\"{},ro\"]\nmemory = \"4M\"\n\
         wall_time = \"1s\"\nqueue_time = \"100s\"\nidle = \"100ms\"\n",
        guest("fn-probe"),
        disk.display()
    );
    let serve = Serve::start(platform, &("log = \"off\"\n".to_owned() + &probe(keys) + &reader));
    let storage = storage.as_ref();
    // What is made once is there after the first storm, and machines end when they are idle.
    let measure = || {
        // A start that went well leaves the processes that guests come from in one state, whatever was done to them before: as
        // many descriptors.
        serve.get("/ok").expect(200);
        eventually("idle machines to end", || (serve.metric("hv_guests_pooled{") == 0.0).then_some(()));
        eventually("connections to end", || (serve.metric("hv_connections") == 1.0).then_some(()));
        (serve.count("fd"), serve.count("task"), serve.resident())
    };
    storm(platform, &serve, storage, 1000);
    // Machines are closed by a thread of their own, which then makes one for the next start: what
    // is compared with has that one.
    let before = eventually("quiet", || {
        let mut before = measure();
        // Without the connection that asked for the metrics, which is closed a moment later.
        let open = serve.count("fd");
        std::thread::sleep(Duration::from_millis(300));
        before.0 = serve.count("fd");
        (before.0 == open || before.0 + 1 == open).then_some(before)
    });
    storm(platform, &serve, storage, count);
    let mut after = measure();
    eventually("descriptors to close", || {
        after.0 = serve.count("fd");
        (after.0 <= before.0).then_some(())
    });
    println!("{count} requests: descriptors, threads, bytes in RAM {before:?} before, {after:?} after");
    assert!(after.1 <= before.1 + 2, "threads: {before:?} before, {after:?} after");
    assert!(after.2 < before.2 + (24 << 20), "memory: {before:?} before, {after:?} after");
    assert!(serve.metric("hv_failures_total{function=\"probe\",kind=\"crashed\"}") > 0.0);
    assert!(serve.metric("hv_failures_total{function=\"probe\",kind=\"cpu_time\"}") > 0.0);
    serve.get("/ok").expect(200);
    serve.end();
}

/// The processes of guests.
fn guests(serve: &Serve) -> Vec<u32> {
    let supervisors = serve.children("hv-supervisor");
    let zygotes = supervisors.iter().flat_map(|&supervisor| hv_tests::children(supervisor, "hv-zygote"));
    let parents: Vec<_> = zygotes.chain(supervisors.iter().copied()).collect();
    parents.into_iter().flat_map(|parent| hv_tests::children(parent, "hv-guest")).collect()
}

#[guest_test]
fn requests_do_not_notice_what_befalls_processes_that_wait_for_them(platform: Platform) {
    if platform != Platform::Process {
        return;
    }
    let serve = Serve::start(platform, &probe("memory = \"4M\"\nmin_warm = 2\n"));
    // From the second request on, machines are used that were before.
    let asks = || (0..4).for_each(|_| _ = serve.get("/ok").expect(200));
    asks();
    let mut found = 0;
    for round in 0..12 {
        for process in guests(&serve) {
            // SAFETY: no memory is passed.
            let signal = |number| unsafe { libc::kill(process as i32, number) };
            let reaches = |states: [char; 2]| {
                let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
                let state = stat.rsplit_once(") ").map_or('X', |(_, rest)| rest.chars().next().unwrap());
                states.contains(&state).then_some(())
            };
            if round % 2 == 0 {
                // As a freezer does.
                signal(libc::SIGSTOP);
                eventually("it to stop", || reaches(['T', 'X']));
                signal(libc::SIGCONT);
            } else {
                // As the kernel does when memory is short.
                signal(libc::SIGKILL);
                eventually("it to end", || reaches(['Z', 'X']));
            }
            found += 1;
        }
        asks();
    }
    assert!(found >= 12, "{found} processes");
    serve.end();
}
