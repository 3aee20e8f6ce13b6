//! The memory of `hv serve`: what does not fit is refused, and no server is ended for it.

use hv_tests::serve::Serve;
use hv_tests::{Platform, eventually, guest, guest_test, skip};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A control group with a limit of memory.
struct Memory {
    folder: PathBuf,
    /// The file that counts how often the kernel ended a process of it, and what the line begins with.
    kills: (&'static str, &'static str),
}

impl Memory {
    /// `None`, with the reason, where this user can make none.
    fn new(name: &str, bytes: u64) -> Option<Memory> {
        let first = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", ("memory.oom_control", "oom_kill "));
        let second = ("/sys/fs/cgroup", "memory.max", ("memory.events", "oom_kill "));
        for (parent, limit, kills) in [first, second] {
            let folder = Path::new(parent).join(format!("hv-test-{}-{name}", std::process::id()));
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Memory { folder, kills };
            if fs::write(group.folder.join(limit), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        skip("needs a control group with a limit of memory");
        None
    }

    /// Has a command begin in it.
    fn hold(&self, command: &mut Command) {
        let file = self.folder.join("cgroup.procs");
        // SAFETY: writes to a file; nothing is allocated that another thread could have locked but by the
        // allocator, which glibc keeps usable in a child.
        unsafe { command.pre_exec(move || fs::write(&file, "0")) };
    }

    /// Processes of it that the kernel has ended for lack of memory.
    fn kills(&self) -> u64 {
        let (file, beginning) = self.kills;
        let text = fs::read_to_string(self.folder.join(file)).unwrap();
        let number = text.lines().find_map(|line| line.strip_prefix(beginning));
        number.map_or(0, |number| number.trim().parse().unwrap())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // What has ended in it is gone a moment later.
        eventually("an empty control group", || match fs::remove_dir(&self.folder) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => None,
            _ => Some(()),
        });
    }
}

/// A function of the test guest at `/NAME/*`, with further keys.
fn function(name: &str, keys: &str) -> String {
    format!("[function.{name}]\npath = \"/{name}/*\"\nimage = {:?}\n{keys}\n", guest("fn-probe"))
}

/// So many clients at once that each have a guest touch nearly all of its memory, again and again. Returns how often which status
/// came, and the text of one that was refused.
fn crowd(serve: &Serve, clients: usize, rounds: usize, path: &str) -> (BTreeMap<u16, usize>, String) {
    let (mut statuses, mut refused) = (BTreeMap::<u16, usize>::new(), String::new());
    std::thread::scope(|scope| {
        let ask = || {
            let mut client = serve.client();
            (0..rounds).map(|_| client.ask("GET", path, "", b"").unwrap()).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
        for answer in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
            *statuses.entry(answer.status).or_default() += 1;
            if answer.status == 503 {
                assert!(answer.field("retry-after").is_some());
                refused = answer.text();
            }
        }
    });
    (statuses, refused)
}

#[guest_test]
fn a_small_control_group_is_no_end_of_the_server(platform: Platform) {
    let Some(group) = Memory::new(&format!("small-{platform}"), 100 << 20) else { return };
    let keys = "memory = \"16M\"\nqueue_time = \"100ms\"";
    let config = format!("connections = 64\n{}{}", function("a", keys), function("b", keys));
    let serve = Serve::prepared(platform, &config, |command, _| group.hold(command));
    serve.said("of which", 1);
    // Each takes 12 MiB; all together more than three times what there is.
    let (statuses, refused) = crowd(&serve, 32, 6, "/a/touch?pages=3000");
    assert!(statuses[&200] >= 3, "{statuses:?}");
    assert!(statuses.keys().all(|status| [200, 503].contains(status)), "{statuses:?}: {refused}");
    if statuses.contains_key(&503) {
        assert!(refused.contains("memory"), "{refused}");
    }
    // The other function gets what the machines of the first one still have.
    for _ in 0..5 {
        serve.get("/b/touch?pages=3000").expect(200);
        serve.get("/a/touch?pages=3000").expect(200);
    }
    assert_eq!(group.kills(), 0, "the kernel has ended a process");
    serve.end();
}

#[guest_test]
fn guests_that_are_promised_little_may_have_more_while_there_is_some(platform: Platform) {
    let keys = "memory = \"2M..64M\"\nqueue_time = \"100ms\"\nconcurrency = 32";
    let config = format!("memory = \"160M\"\nconnections = 64\n{}", function("a", keys));
    let serve = Serve::start(platform, &config);
    // One may have most of it; several at once may not all.
    serve.get("/a/touch?pages=10000").expect(200);
    let (statuses, text) = crowd(&serve, 8, 4, "/a/touch?pages=10000");
    assert!(statuses.contains_key(&200), "{statuses:?}: {text}");
    serve.get("/a/touch?pages=100").expect(200);
    serve.end();
}

#[guest_test]
fn a_tenant_has_memory_of_its_own(platform: Platform) {
    let tenant = "memory = \"512M\"\n[tenant.t]\nmemory = \"32M\"\n";
    let keys = "memory = \"16M\"\nqueue_time = \"200ms\"";
    let config =
        tenant.to_owned() + &function("a", &format!("tenant = \"t\"\n{keys}")) + &function("b", keys);
    let serve = Serve::start(platform, &config);
    let nap = || {
        let mut client = serve.client();
        std::thread::spawn(move || client.ask("GET", "/a/nap?ms=3000", "", b"").unwrap())
    };
    let naps = [nap(), nap()];
    eventually("two guests", || (serve.metric("hv_guests_live{function=\"a\"}") == 2.0).then_some(()));
    let refused = serve.get("/a/work?n=1").expect(503);
    assert!(refused.text().contains("no memory was free"), "{}", refused.text());
    assert!(serve.metric("hv_failures_total{function=\"a\",kind=\"no_memory\"}") >= 1.0);
    serve.get("/b/work?n=1").expect(200);
    naps.into_iter().for_each(|nap| drop(nap.join().unwrap().expect(200)));
    serve.get("/a/work?n=1").expect(200);
    serve.end();
}
