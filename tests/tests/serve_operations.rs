//! Running `hv serve`: reloads, draining, metrics and logs.

use hv_tests::http::Client;
use hv_tests::serve::{Serve, probe};
use hv_tests::{Platform, eventually, guest, guest_test, has_tools};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

#[guest_test]
fn reloads_under_load_lose_no_request(platform: Platform) {
    if !has_tools(&["wrk"]) {
        return;
    }
    let (hello, probe) = (guest("fn-hello"), guest("fn-probe"));
    let config = |image, memory| {
        format!("[function.f]\npath = \"/*\"\nimage = {image:?}\nmemory = \"{memory}M\"\nidle = \"200ms\"\n")
    };
    let serve = Serve::start(platform, &config(&hello, 16));
    let url = format!("http://127.0.0.1:{}/", serve.port);
    let wrk = Command::new("wrk")
        .args(["-t2", "-c16", "-d4s", "--timeout", "20s", &url])
        .stdout(std::process::Stdio::piped())
        .spawn();
    let wrk = wrk.expect("wrk runs");
    for round in 1..=8 {
        std::thread::sleep(Duration::from_millis(250));
        serve.reload(&config(if round % 2 == 0 { &hello } else { &probe }, 16 + round));
        serve.said("configuration reloaded", round);
    }
    let text = String::from_utf8(wrk.wait_with_output().unwrap().stdout).unwrap();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    // The kernel gives each virtual machine a thread: those of old functions are gone.
    eventually("the end of old guests", || (serve.count("task") < 12).then_some(()));
    serve.end();
}

#[guest_test]
fn a_reload_replaces_routes_and_keeps_what_is_the_same(platform: Platform) {
    let (hello, probe) = (guest("fn-hello"), guest("fn-probe"));
    let config = |paths: &str, memory: &str| {
        format!(
            "[function.a]\npath = {paths}\nimage = {probe:?}\n\
             [function.b]\npath = \"/b\"\nimage = {hello:?}\nmemory = {memory:?}\n"
        )
    };
    let serve = Serve::start(platform, &config("\"/ok\"", "16M"));
    let mut client = serve.client();
    let status = |client: &mut Client, path: &str| client.ask("GET", path, "", b"").unwrap().status;
    assert_eq!((status(&mut client, "/ok"), status(&mut client, "/count")), (200, 404));
    // A request that began before is answered by the old one.
    let mut long = serve.client();
    long.send(b"GET /ok HTTP/1.1\r\nHost: x\r\n").unwrap();
    serve.reload(&config("[\"/count\", \"/ok\"]", "20M"));
    serve.said("configuration reloaded: 1 functions deployed, 1 kept, 0 removed", 1);
    long.send(b"\r\n").unwrap();
    long.answer("GET").unwrap().expect(200);
    // A machine that was just used is not ready at once.
    eventually("the machine", || (serve.metric("hv_guests_pooled{function=\"a\"") >= 1.0).then_some(()));
    assert_eq!(status(&mut client, "/count"), 200, "the connection lives on");
    assert_eq!(serve.metric("hv_cold_starts_total{function=\"a\"}"), 1.0, "its machine lives on");

    serve.reload(&config("[\"/count\", \"/ok\"]", "1"));
    let errors = serve.said("configuration not reloaded", 1);
    let line = errors.lines().find(|line| line.contains("not reloaded")).unwrap();
    assert!(line.contains("hv.toml:") && line.contains("memory = \"1\""), "{line}");
    assert_eq!(status(&mut client, "/b"), 200);
    assert_eq!(serve.metric("hv_reloads_total{result=\"refused\"}"), 1.0);

    serve.reload(&("connections = 5\n".to_owned() + &config("\"/ok\"", "20M")));
    assert!(serve.said("only a restart", 1).contains("takes it over: connections"));
    serve.end();
}

#[guest_test]
fn a_request_under_way_ends_on_the_function_that_it_began_with(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut long = serve.client();
    long.send(b"GET /slow?ms=100&n=15 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(long.head().unwrap().status, 200);
    let config = format!("[function.other]\npath = \"/*\"\nimage = {:?}\n", guest("fn-hello"));
    serve.reload(&config);
    serve.said("1 functions deployed, 0 kept, 1 removed", 1);
    assert!(serve.get("/slow").text().contains("Hello"));
    let mut lines = 0;
    while long.chunk().unwrap().is_some() {
        lines += 1;
    }
    assert!(lines > 1, "it was streamed");
    serve.end();
}

#[guest_test]
fn a_function_that_crashes_often_is_booted_again_somewhere_else(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let address = || serve.get("/address").expect(200).text();
    let before = address();
    assert_eq!(before, address(), "clones are where their template is");
    eventually("another layout", || {
        let _ = serve.get("/crash");
        // Those in between are answered all the time.
        serve.get("/ok").expect(200);
        std::thread::sleep(Duration::from_millis(50));
        serve.errors().contains("function probe: booted again at another address").then_some(())
    });
    eventually("the new one", || (address() != before).then_some(()));
    assert_eq!(serve.metric("hv_failures_total{function=\"probe\",kind=\"no_room\"}"), 0.0);
    serve.end();
}

#[guest_test]
fn running_requests_end_before_the_server_does(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let (mut idle, mut busy) = (serve.client(), serve.client());
    idle.ask("GET", "/ok", "", b"").unwrap().expect(200);
    eventually("its end", || (serve.metric("hv_guests_live{") == 0.0).then_some(()));
    busy.send(b"GET /sleep?ms=700 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    eventually("the guest", || (serve.metric("hv_guests_live{") == 1.0).then_some(()));
    let port = serve.port;
    serve.signal(libc::SIGTERM);
    assert!(idle.is_closed(), "connections without a request are closed");
    assert!(eventually("the end of listening", || Client::connect(port).err()).kind() as i32 >= 0);
    let answer = busy.answer("GET").unwrap().expect(200);
    assert_eq!(answer.text(), "slept\n");
    let end = serve.finish().expect(0);
    assert!(end.err.contains("hv: draining") && end.err.ends_with("hv: drained\n"), "{}", end.err);
}

#[guest_test]
fn draining_has_an_end(platform: Platform) {
    let start = |config: &str| {
        let serve = Serve::start(platform, &(config.to_owned() + &probe("")));
        let mut busy = serve.client();
        busy.send(b"GET /sleep?ms=20000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        eventually("the guest", || (serve.metric("hv_guests_live{") == 1.0).then_some(()));
        (serve, busy)
    };
    let begin = Instant::now();
    let (serve, mut busy) = start("drain = \"300ms\"\n");
    serve.signal(libc::SIGTERM);
    let end = serve.finish().expect(143);
    assert!(end.err.contains("1 connections cut off"), "{}", end.err);
    assert!(busy.answer("GET").is_err());
    // A second signal does not wait.
    let (serve, _busy) = start("");
    serve.signal(libc::SIGINT);
    serve.said("draining", 1);
    serve.signal(libc::SIGTERM);
    serve.finish().expect(143);
    assert!(begin.elapsed() < Duration::from_secs(18), "it waited for the guests");
}

/// Reads the text format 0.0.4 as its description has it; anything else panics.
fn parse_metrics(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let (mut helped, mut types) = (BTreeSet::new(), BTreeMap::new());
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let (word, rest) = comment.split_once(' ').unwrap();
            let (name, value) = rest.split_once(' ').unwrap();
            assert!(is_name(name), "{line}");
            match word {
                "HELP" => assert!(helped.insert(name), "a second {line}"),
                "TYPE" => {
                    assert!(["counter", "gauge", "histogram"].contains(&value), "{line}");
                    assert!(types.insert(name, value).is_none(), "a second {line}");
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once('=').unwrap();
            assert!(is_name(key) && !key.contains(':'), "{line}");
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
            assert!(!value.contains(['"', '\\']), "{line}");
        }
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end).filter(|name| types.get(name) == Some(&"histogram")));
        let kind = types.get(family.unwrap_or(name)).unwrap_or_else(|| panic!("no type before {line}"));
        assert!(*kind != "counter" || value >= 0.0 && name.ends_with("_total"), "{line}");
        assert!(samples.insert(series.to_owned(), value).is_none(), "a second {line}");
    }
    samples
}

#[guest_test]
fn metrics_are_of_the_text_format_and_right(platform: Platform) {
    let serve = Serve::start(platform, &("admin = \"127.0.0.1:0\"\n".to_owned() + &probe("")));
    let mut client = serve.client();
    for _ in 0..7 {
        client.ask("GET", "/ok", "", b"").unwrap().expect(200);
    }
    client.ask("GET", "/status?code=404", "", b"").unwrap().expect(404);
    client.ask("GET", "/crash", "", b"").unwrap().expect(502);
    // With a listener of their own, hv's pages are not among the functions.
    client.ask("GET", "/metrics", "", b"").unwrap().expect(404);
    assert!(client.ask("GET", "/healthz", "", b"").unwrap().expect(404).text() != "ok\n");
    let mut admin = Client::connect(serve.admin.unwrap()).unwrap();
    admin.ask("GET", "/ok", "", b"").unwrap().expect(404);
    admin.ask("POST", "/metrics", "", b"").unwrap().expect(405);
    assert_eq!(admin.ask("GET", "/healthz", "", b"").unwrap().expect(200).text(), "ok\n");
    eventually("quiet", || (serve.metric("hv_guests_live{function=\"probe\"") == 0.0).then_some(()));
    let page = admin.ask("GET", "/metrics", "", b"").unwrap().expect(200);
    assert_eq!(page.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let metrics = parse_metrics(&page.text());
    let of = |series: &str| *metrics.get(series).unwrap_or_else(|| panic!("no {series} in {metrics:?}"));
    assert_eq!(of("hv_requests_total{function=\"probe\",status=\"200\"}"), 7.0);
    assert_eq!(of("hv_requests_total{function=\"probe\",status=\"404\"}"), 3.0);
    assert_eq!(of("hv_requests_total{function=\"probe\",status=\"502\"}"), 1.0);
    assert_eq!(of("hv_failures_total{function=\"probe\",kind=\"crashed\"}"), 1.0);
    assert_eq!(of("hv_answers_total{function=\"probe\"}"), 10.0);
    assert_eq!(of("hv_guests_ended_total{function=\"probe\"}"), 1.0);
    let starts =
        of("hv_pool_hits_total{function=\"probe\"}") + of("hv_cold_starts_total{function=\"probe\"}");
    assert_eq!(starts, 11.0);
    let count = of("hv_request_seconds_count{function=\"probe\"}");
    assert_eq!(count, 11.0);
    assert_eq!(of("hv_request_seconds_bucket{function=\"probe\",le=\"+Inf\"}"), count);
    let buckets: Vec<f64> = metrics
        .iter()
        .filter(|(series, _)| series.starts_with("hv_request_seconds_bucket{function=\"probe\""))
        .map(|(_, value)| *value)
        .collect();
    assert!(buckets.len() > 10 && buckets.iter().all(|bucket| *bucket <= count));
    for gauge in ["hv_guests_live", "hv_queue", "hv_guests_idle"] {
        assert_eq!(of(&format!("{gauge}{{function=\"probe\"}}")), 0.0);
    }
    assert!(of("hv_guest_memory_bytes{function=\"probe\",kind=\"shared\"}") > 0.0);
    assert!(of("hv_guest_cpu_seconds_total{function=\"probe\",kind=\"vcpu\"}") > 0.0);
    for kind in ["private", "shared"] {
        assert!(
            of(&format!("hv_guest_memory_byte_seconds_total{{function=\"probe\",kind=\"{kind}\"}}")) > 0.0
        );
    }
    for direction in ["in", "out"] {
        let labels = format!("{{device=\"function\",direction=\"{direction}\",function=\"probe\"}}");
        assert!(of(&format!("hv_guest_device_operations_total{labels}")) > 0.0);
        assert!(of(&format!("hv_guest_device_bytes_total{labels}")) > 0.0);
    }
    // Measured for whoever asks next.
    eventually("memory to be measured", || {
        serve.get("/ok").expect(200);
        (serve.metric("hv_guest_memory_bytes{function=\"probe\",kind=\"private\"}") > 0.0).then_some(())
    });
    assert!(of("process_resident_memory_bytes") > 0.0 && of("process_open_fds") > 3.0);
    serve.end();
}

#[guest_test]
fn metrics_among_functions_are_for_this_host_alone(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut client = serve.client();
    let page = client.ask("GET", "/metrics", "", b"").unwrap().expect(200);
    parse_metrics(&page.text());
    for proxy in ["X-Forwarded-For: 192.0.2.1\r\n", "Forwarded: for=192.0.2.1\r\n", "Via: 1.1 x\r\n"] {
        let refused = client.ask("GET", "/metrics", proxy, b"").unwrap().expect(403);
        assert!(refused.text().contains("`admin`"));
    }
    serve.end();
}

#[guest_test]
fn the_log_says_why_an_answer_broke_off(platform: Platform) {
    let config = "log_format = \"json\"\n".to_owned() + &probe("wall_time = \"500ms\"\n");
    let serve = Serve::start(platform, &config);
    let mut client = serve.client();
    client.send(b"GET /slow?ms=5&n=10000 HTTP/1.1\r\nHost: x\r\nX-Request-Id: r-1\r\n\r\n").unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    while let Ok(Some(_)) = client.chunk() {}
    let line: serde_json::Value = serde_json::from_str(&serve.log_line("r-1")).unwrap();
    assert_eq!((&line["status"], &line["complete"]), (&200.into(), &false.into()), "{line}");
    assert_eq!(line["failure"], "wall_time", "{line}");
    serve.client().ask("GET", "/ok", "X-Request-Id: r-2\r\n", b"").unwrap().expect(200);
    let line: serde_json::Value = serde_json::from_str(&serve.log_line("r-2")).unwrap();
    assert_eq!((&line["complete"], &line["failure"]), (&true.into(), &serde_json::Value::Null), "{line}");
    serve.end();
}

#[guest_test]
fn each_request_is_a_line_of_the_log(platform: Platform) {
    let serve =
        Serve::with(platform, &("log_format = \"json\"\n".to_owned() + &probe("")), &["--format", "json"]);
    let mut client = serve.client();
    for n in 0..20 {
        client.ask("GET", &format!("/ok?n={n}"), "", b"").unwrap().expect(200);
    }
    let crash = client.ask("POST", "/crash", "X-Request-Id: r-1\r\n", b"").unwrap().expect(502);
    let crash = crash.field("x-crash-id").unwrap().to_owned();
    let line: serde_json::Value = serde_json::from_str(&serve.log_line("r-1")).unwrap();
    for (key, value) in
        [("client", "127.0.0.1"), ("method", "POST"), ("path", "/crash"), ("function", "probe")]
    {
        assert_eq!(line[key], value, "{line}");
    }
    assert_eq!((&line["status"], &line["crash"]), (&502.into(), &crash.clone().into()));
    assert_eq!(serve.log().lines().count(), 21);
    for line in serve.log().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["seconds"].as_f64().unwrap() > 0.0 && line["complete"] == true, "{line}");
        if line["status"] == 200 {
            assert!(line["cpu_seconds"].as_f64().unwrap() > 0.0, "{line}");
            assert!(line["memory_byte_seconds"].as_f64().unwrap() > 0.0, "{line}");
        }
    }
    let errors = serve.said(&crash, 1);
    let report = errors.lines().find(|line| line.contains(&crash)).unwrap();
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    assert_eq!(report["event"], "crash");
    assert!(report["report"]["backtrace"].as_array().unwrap().len() > 1, "{report}");
    assert!(errors.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{errors}");

    // Moved away, it is made anew.
    std::fs::rename(serve.log_file(), serve.folder().join("old.log")).unwrap();
    serve.signal(libc::SIGHUP);
    serve.said("\"reloaded\"", 1);
    eventually("a new log", || {
        client.ask("GET", "/ok", "", b"").unwrap().expect(200);
        serve.log_file().exists().then_some(())
    });
    serve.end();
}

#[guest_test]
fn sigquit_tells_how_functions_stand_and_serving_goes_on(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    for answered in 1..=2 {
        serve.get("/ok").expect(200);
        // A request ends a little later than its client sees.
        let stands = format!("ready; {answered} answered, 0 guests ended before their time\n");
        eventually("the answer to be counted", || {
            serve.signal(libc::SIGQUIT);
            let errors = serve.errors();
            let mut lines = errors.split_inclusive('\n');
            let idle = |line: &str| line.starts_with("hv: function probe: 0 requests in guests, 0 wait, ");
            lines.any(|line| idle(line) && line.ends_with(&stands)).then_some(())
        });
    }
    serve.end();
}

#[guest_test]
fn lines_of_the_error_output_are_marked(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    assert_eq!(serve.client().ask("GET", "/fail", "", b"").unwrap().status, 500);
    let errors = serve.said("hv: probe (stderr): [", 1);
    assert!(errors.contains("hv: probe: fn-probe: up\n"), "{errors}");
    serve.end();
}
