//! Functions and tenants of `hv serve` share the processors and the permits for guests as the configuration says.

use hv_tests::serve::Serve;
use hv_tests::{Platform, eventually, guest, guest_test};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// A function of the test guest at `/NAME/*`, with further keys.
fn function(name: &str, keys: &str) -> String {
    format!("[function.{name}]\npath = \"/{name}/*\"\nimage = {:?}\n{keys}\n", guest("fn-probe"))
}

/// Clients that ask again and again until they are dropped, each on a connection of its own.
struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(serve: &Serve, count: usize, path: &'static str) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..count).map(|_| (serve.client(), stop.clone()));
        let threads = clients.map(|(mut client, stop)| {
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    client.ask("GET", path, "", b"").unwrap().expect(200);
                }
            })
        });
        Clients { threads: threads.collect(), stop }
    }

    #[track_caller]
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("all answers are right"));
    }
}

/// CPU time that the guests of a function have used.
fn cpu(serve: &Serve, function: &str) -> f64 {
    serve.metric(&format!("hv_guest_cpu_seconds_total{{function=\"{function}\",kind=\"vcpu\"}}"))
}

fn processors() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |processors| processors.get() as f64)
}

#[guest_test]
fn one_client_of_a_function_is_not_crowded_out_by_many_of_another(platform: Platform) {
    let config = function("many", "cpu_time = \"25s\"") + &function("one", "");
    let serve = Serve::start(platform, &format!("admin = \"127.0.0.1:0\"\n{config}"));
    let crowd = Clients::start(&serve, 16, "/many/work?n=3000000");
    eventually("a crowd", || (cpu(&serve, "many") > 0.2).then_some(()));
    let (many, one) = (cpu(&serve, "many"), cpu(&serve, "one"));
    let single = Clients::start(&serve, 1, "/one/work?n=3000000");
    eventually("its work", || (cpu(&serve, "one") > one + 1.0).then_some(()));
    let (many, one) = (cpu(&serve, "many") - many, cpu(&serve, "one") - one);
    single.end();
    crowd.end();
    // With one processor half of it is its, with two one of them. With a share per guest it would have a seventeenth.
    assert!(many <= 2.5 * processors() * one, "{one:.2} s beside {many:.2} s");
    serve.end();
}

#[guest_test]
fn a_cap_is_the_functions_and_a_quota_the_tenants(platform: Platform) {
    let config = "[tenant.t]\nquota = \"20ms/200ms\"\n".to_owned()
        + &function("capped", "cap = 20")
        + &function("a", "tenant = \"t\"")
        + &function("b", "tenant = \"t\"\nweight = 1000");
    let serve = Serve::start(platform, &format!("admin = \"127.0.0.1:0\"\n{config}"));
    let clients = ["/capped/work?n=300000", "/a/work?n=300000", "/b/work?n=300000"]
        .map(|path| Clients::start(&serve, 4, path));
    let used = || [cpu(&serve, "capped"), cpu(&serve, "a") + cpu(&serve, "b")];
    let (start, before) = (Instant::now(), used());
    let goal = |used: [f64; 2]| used[0] > before[0] + 0.4 && used[1] > before[1] + 0.2;
    eventually("some work", || goal(used()).then_some(()));
    let after = used();
    // However long it takes, there was no more than this.
    let elapsed = start.elapsed().as_secs_f64();
    for (part, before, after) in [(0.2, before[0], after[0]), (0.1, before[1], after[1])] {
        assert!(after - before <= part * elapsed * 1.1 + 0.08, "{} s in {elapsed:.2} s", after - before);
    }
    clients.into_iter().for_each(Clients::end);
    serve.end();
}

#[guest_test]
fn who_waits_takes_no_places_of_another_tenant(platform: Platform) {
    let tenants = "guests = 3\n[tenant.t]\nconcurrency = 1\nqueue = 1\n";
    let of_t = "tenant = \"t\"";
    let functions = function("a", of_t) + &function("b", of_t) + &function("c", "concurrency = 2");
    let serve = Serve::start(platform, &format!("{tenants}{functions}"));
    let ask = |path: &'static str| {
        let mut client = serve.client();
        std::thread::spawn(move || client.ask("GET", path, "", b"").unwrap())
    };
    let first = ask("/a/nap?ms=3000");
    eventually("a guest", || (serve.metric("hv_guests_live{function=\"a\"}") == 1.0).then_some(()));
    let second = ask("/b/work?n=1");
    eventually("a place", || (serve.metric("hv_queue{function=\"b\"}") == 1.0).then_some(()));
    let refused = serve.get("/a/work?n=1").expect(429);
    assert!(
        refused.text().contains("too many requests wait for functions of this tenant"),
        "{}",
        refused.text()
    );
    assert_eq!(refused.field("retry-after"), Some("1"));
    // A function of nobody goes on, and those of the tenant get their answers in turn.
    serve.get("/c/work?n=1").expect(200);
    first.join().unwrap().expect(200);
    second.join().unwrap().expect(200);
    serve.end();
}

#[guest_test]
fn shares_and_limits_of_tenants_change_at_a_reload_and_nothing_is_deployed_anew(platform: Platform) {
    let config = |tenant: &str, keys: &str| {
        format!("[tenant.t]\n{tenant}\n{}", function("f", &format!("tenant = \"t\"\n{keys}")))
    };
    let serve = Serve::start(platform, &config("concurrency = 1\nqueue = 0", ""));
    let nap = |serve: &Serve| {
        let mut client = serve.client();
        std::thread::spawn(move || client.ask("GET", "/f/nap?ms=2000", "", b"").unwrap())
    };
    let first = nap(&serve);
    eventually("a guest", || (serve.metric("hv_guests_live{") == 1.0).then_some(()));
    serve.get("/f/work?n=1").expect(429);
    serve.reload(&config("concurrency = 2\nqueue = 0\nweight = 512", "cap = 50"));
    serve.said("configuration reloaded: 0 functions deployed, 1 kept", 1);
    serve.get("/f/work?n=1").expect(200);
    first.join().unwrap().expect(200);
    // Another tenant is another place for its machines.
    serve.reload(
        &config("", "").replace("tenant = \"t\"", "tenant = \"u\"").replace("[tenant.t]", "[tenant.u]"),
    );
    serve.said("configuration reloaded: 1 functions deployed, 0 kept", 1);
    serve.get("/f/work?n=1").expect(200);
    serve.end();
}
