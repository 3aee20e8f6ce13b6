//! What `hv serve` says of each request's use: CPU time, memory and bytes, beside what the kernel and the clients count.

use hv_tests::serve::{Serve, probe};
use hv_tests::{Platform, eventually, guest, guest_test, skip};
use serde_json::Value;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

/// The lines of the access log that are of a function, once there are so many.
fn lines(serve: &Serve, count: usize) -> Vec<Value> {
    eventually("all lines", || {
        let log = serve.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<_> = lines.filter(|line| !line["function"].is_null()).collect();
        (lines.len() >= count).then_some(lines)
    })
}

fn sum(lines: &[Value], key: &str) -> f64 {
    lines.iter().map(|line| line[key].as_f64().unwrap_or_else(|| panic!("no {key}: {line}"))).sum()
}

#[guest_test]
fn every_request_says_what_it_used(platform: Platform) {
    let config = format!("log_format = \"json\"\nadmin = \"127.0.0.1:0\"\n{}", probe(""));
    let serve = Serve::start(platform, &config);
    // Machines are used again at once, before the answer before has been written to its client.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = serve.client();
                (0..100).for_each(|_| drop(client.ask("GET", "/work?n=1000", "", b"").unwrap().expect(200)));
            });
        }
    });
    // What all guests have used is that of their requests, and what was between these.
    let told = sum(&lines(&serve, 400), "cpu_seconds");
    hv_tests::eventually("all that requests have used", || {
        (told <= serve.metric("hv_guest_cpu_seconds_total{") * 1.01).then_some(())
    });
    // Those that fail have used something, too.
    serve.get("/crash").expect(502);
    serve.get("/exit").expect(502);
    let lines = lines(&serve, 402);
    assert!(sum(&lines, "cpu_seconds") > told);
    assert!(sum(&lines, "memory_byte_seconds") > 0.0);
    serve.end();
}

#[guest_test]
fn bytes_are_those_of_the_messages(platform: Platform) {
    let tenant = "[tenant.t]\n";
    let config =
        format!("log_format = \"json\"\nadmin = \"127.0.0.1:0\"\n{tenant}{}", probe("tenant = \"t\""));
    let serve = Serve::start(platform, &config);
    let head = "POST /echo HTTP/1.1\r\nHost: test\r\nX-A: b\r\nContent-Length: 1000\r\n\r\n";
    let mut client = serve.client();
    client.send(&[head.as_bytes(), &[b'x'; 1000]].concat()).unwrap();
    let answer = client.answer("POST").unwrap().expect(200);
    assert_eq!(answer.body.len(), 1000);
    let lines = lines(&serve, 1);
    let (bytes_in, bytes_out) = (sum(&lines, "bytes_in"), sum(&lines, "bytes_out"));
    assert_eq!(bytes_in, (head.len() + 1000) as f64);
    let most =
        1000 + 100 + answer.fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
    assert!(bytes_out > 1000.0 && bytes_out <= most as f64, "{bytes_out} of at most {most}");
    for (metric, label) in
        [("hv_request_bytes_total", "function=\"probe\""), ("hv_tenant_request_bytes_total", "tenant=\"t\"")]
    {
        let of = |direction: &str| {
            let labels = [
                format!("{metric}{{direction=\"{direction}\",{label}}}"),
                format!("{metric}{{{label},direction=\"{direction}\"}}"),
            ];
            labels.iter().map(|labels| serve.metric(labels)).sum::<f64>()
        };
        assert_eq!((of("in"), of("out")), (bytes_in, bytes_out), "{metric}");
    }
    let (function, tenant) =
        (serve.metric("hv_guest_cpu_seconds_total{"), serve.metric("hv_tenant_cpu_seconds_total{"));
    assert!(tenant >= function * 0.99 && tenant > 0.0, "{tenant}, {function}");
    serve.end();
}

/// A control group that counts CPU time.
struct Group {
    folder: PathBuf,
    /// The file with the count, what its line begins with, and its unit in nanoseconds.
    count: (&'static str, &'static str, f64),
}

impl Group {
    fn new(platform: Platform) -> Option<Group> {
        let kinds = [
            ("/sys/fs/cgroup/cpuacct", ("cpuacct.usage", "", 1.0)),
            ("/sys/fs/cgroup", ("cpu.stat", "usage_usec ", 1000.0)),
        ];
        for (parent, count) in kinds {
            let folder = Path::new(parent).join(format!("hv-test-usage-{}-{platform}", std::process::id()));
            if fs::create_dir(&folder).is_ok() {
                let group = Group { folder, count };
                if group.read().is_some() {
                    return Some(group);
                }
            }
        }
        skip("needs a control group that counts CPU time");
        None
    }

    fn read(&self) -> Option<f64> {
        let (file, beginning, unit) = self.count;
        let text = fs::read_to_string(self.folder.join(file)).ok()?;
        let number = text.lines().find_map(|line| line.strip_prefix(beginning))?;
        Some(number.trim().parse::<f64>().ok()? * unit / 1e9)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        eventually("an empty group", || fs::remove_dir(&self.folder).ok());
    }
}

#[guest_test]
fn the_sum_of_all_requests_is_what_the_kernel_counts(platform: Platform) {
    let Some(group) = Group::new(platform) else { return };
    let file = group.folder.join("cgroup.procs");
    let config = format!(
        "log_format = \"json\"\n[function.f]\npath = \"/*\"\nimage = {:?}\ncpu_time = \"25s\"\n",
        guest("fn-probe")
    );
    let serve = Serve::prepared(platform, &config, |command, _| {
        // SAFETY: writes to a file; nothing is allocated that another thread could have locked but by the
        // allocator, which glibc keeps usable in a child.
        unsafe { command.pre_exec(move || fs::write(&file, "0")) };
    });
    let before = group.read().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = serve.client();
                (0..15)
                    .for_each(|_| drop(client.ask("GET", "/work?n=60000000", "", b"").unwrap().expect(200)));
            });
        }
    });
    let used = group.read().unwrap() - before;
    let told = sum(&lines(&serve, 30), "cpu_seconds");
    println!("{platform}: told {told:.4} s, used {used:.4} s, {:.4}", told / used);
    // The rest is HTTP, the log, limits, ends of time slices, and the making and resetting of machines.
    assert!(told <= used * 1.01 && told >= used * 0.9, "told {told} s, used {used} s");
    serve.end();
}

#[guest_test]
fn lines_that_a_full_disk_does_not_take_are_counted(platform: Platform) {
    let serve =
        Serve::start(platform, &format!("log = \"/dev/full\"\nadmin = \"127.0.0.1:0\"\n{}", probe("")));
    let mut client = serve.client();
    (0..5).for_each(|_| drop(client.ask("GET", "/ok", "", b"").unwrap().expect(200)));
    eventually("lost lines", || (serve.metric("hv_log_lines_dropped_total") >= 5.0).then_some(()));
    serve.said("lines of the access log are lost", 1);
    serve.end();
}

#[guest_test]
fn heads_that_are_refused_leave_a_line(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut client = serve.client();
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n").unwrap();
    client.answer("GET").unwrap().expect(400);
    assert!(serve.log_line(" 400 ").contains("127.0.0.1 - - "));
    let mut client = serve.client();
    client
        .send(format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(40 << 10)).as_bytes())
        .unwrap();
    client.answer("GET").unwrap().expect(431);
    serve.log_line(" 431 ");
    serve.end();
}
