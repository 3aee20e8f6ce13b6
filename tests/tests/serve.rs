//! `hv serve`: requests of real clients, answered by real guests.

use hv_tests::http::Client;
use hv_tests::serve::{Serve, probe};
use hv_tests::{Platform, eventually, guest, guest_test, has_tools, tool};
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

/// Bytes as `fn-probe` makes them at `/big`.
fn pattern(count: u64) -> Vec<u8> {
    (0..count).map(|at| (at * 7 + at / 251 + at / 65_521) as u8).collect()
}

#[guest_test]
fn a_fresh_guest_answers_each_request_of_a_connection(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut client = serve.client();
    for _ in 0..50 {
        let answer = client.ask("GET", "/count", "", b"").unwrap().expect(200);
        assert_eq!(answer.text(), "1\n", "a guest has answered before");
    }
    let first = client.ask("GET", "/random", "", b"").unwrap().text();
    assert_ne!(first, client.ask("GET", "/random", "", b"").unwrap().text());
    let warm = serve.log_line(" warm ");
    assert!(warm.contains("\"GET /count HTTP/1.1\" 200 2 "), "{warm}");
    assert!(serve.log_line(" cold ").contains(" probe cold "));
    serve.end();
}

#[guest_test]
fn an_instance_answers_one_request_after_the_other_until_it_is_idle(platform: Platform) {
    let serve = Serve::start(platform, &probe("isolation = \"instance\"\nidle = \"2s\""));
    let mut client = serve.client();
    for count in 1..=20 {
        let answer = client.ask("GET", "/count", "", b"").unwrap().expect(200);
        assert_eq!(answer.text(), format!("{count}\n"));
        // A client may hear the end of an answer before the instance can take the next request.
        eventually("the instance", || (serve.metric("hv_guests_idle{") == 1.0).then_some(()));
    }
    eventually("scaling to zero", || (serve.metric("hv_guests_idle{") == 0.0).then_some(()));
    assert_eq!(client.ask("GET", "/count", "", b"").unwrap().text(), "1\n", "the old one has ended");
    serve.end();
}

#[guest_test]
fn requests_are_seen_by_guests_as_they_are(platform: Platform) {
    let serve = Serve::start(platform, &probe("env = { GREETING = \"hi\", N = 5 }"));
    let mut client = serve.client();
    let fields = "X-A: one\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nX-Forwarded-For: 192.0.2.1\r\n\
                  X-Request-Id: mine-1\r\n";
    let answer = client.ask("GET", "/headers?x=%20y", fields, b"").unwrap().expect(200);
    let text = answer.text();
    assert!(text.starts_with("GET /headers?x=%20y\n"), "{text}");
    for line in ["host: test", "x-a: one", "x-forwarded-for: 192.0.2.1, 127.0.0.1", "x-request-id: mine-1"] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("x-hop") && !text.contains("connection"), "{text}");
    assert_eq!(answer.field("x-request-id"), Some("mine-1"));
    assert!(serve.log_line("mine-1").contains("/headers?x=%20y"));

    let made = client.ask("GET", "/ok", "", b"").unwrap();
    let id = made.field("x-request-id").expect("one is made").to_owned();
    assert!(serve.log_line(&id).contains("/ok"));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "X-OWN"] {
        assert_eq!(client.ask(method, "/method", "", b"").unwrap().text(), format!("{method}\n"));
    }
    let text = client.ask("GET", "/env", "", b"").unwrap().text();
    assert!(text.contains("GREETING=hi\n") && text.contains("N=5\n"), "{text}");
    serve.end();
}

#[guest_test]
fn answers_without_a_body_have_none(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut client = serve.client();
    let head = client.ask("HEAD", "/big?n=100000", "", b"").unwrap().expect(200);
    assert!(head.body.is_empty());
    for code in [204, 304] {
        let answer = client.ask("GET", &format!("/status?code={code}"), "", b"").unwrap().expect(code);
        assert!(answer.body.is_empty() && !answer.chunked, "{:?}", answer.fields);
    }
    // The connection is still in step.
    assert_eq!(client.ask("GET", "/ok", "", b"").unwrap().text(), "ok\n");
    for code in [200, 201, 404, 418, 500, 599] {
        client.ask("GET", &format!("/status?code={code}"), "", b"").unwrap().expect(code);
    }
    serve.end();
}

#[guest_test]
fn bodies_are_streamed_both_ways(platform: Platform) {
    if !has_tools(&["curl"]) {
        return;
    }
    // Not about time: other tests have the processors as well.
    let serve = Serve::start(platform, &probe("body = \"64M\"\nwall_time = \"2m\"\ncpu_time = \"2m\""));
    let file = serve.folder().join("body");
    let bytes = pattern(20 << 20);
    std::fs::write(&file, &bytes).unwrap();
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", serve.port);
    for framing in ["Content-Length: 20971520", "Transfer-Encoding: chunked"] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "-T"]).arg(&file).args(["-H", framing, &url("/echo")]);
        assert!(tool(&mut curl).out == bytes, "the echo of a body with {framing} is different");
    }
    let big = tool(Command::new("curl").args(["-sS", "--fail", &url("/big?n=30000000")])).out;
    assert!(big == pattern(30_000_000), "a large answer is different");
    // A word at a time: each comes back before the next is sent.
    let mut client = serve.client();
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let mut head = None;
    for word in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{word}\r\n", word.len()).as_bytes()).unwrap();
        head.get_or_insert_with(|| client.head().unwrap());
        assert_eq!(client.chunk().unwrap().as_deref(), Some(word.as_bytes()));
    }
    client.send(b"0\r\n\r\n").unwrap();
    assert_eq!(client.chunk().unwrap(), None);
    assert_eq!(client.ask("GET", "/ok", "", b"").unwrap().text(), "ok\n");
    serve.end();
}

#[guest_test]
fn a_client_that_reads_slowly_slows_its_guest_and_nobody_else(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let before = serve.resident();
    let mut slow = serve.client();
    slow.send(b"GET /big?n=200000000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(slow.head().unwrap().status, 200);
    std::thread::sleep(Duration::from_millis(500));
    let grown = serve.resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes of an answer that nobody reads are kept");
    assert_eq!(serve.get("/ok").text(), "ok\n");
    // It goes away in the middle, and its guest ends.
    drop(slow);
    eventually("the end of the guest", || (serve.metric("hv_guests_live{") == 0.0).then_some(()));
    assert!(serve.log_line(" 499 ").contains("/big"));
    serve.end();
}

/// As `nc -N` does.
#[guest_test]
fn a_client_that_has_said_all_is_answered(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    for request in
        ["GET /slow?ms=20&n=3 HTTP/1.1\r\n\r\n", "POST /length HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"]
    {
        let mut client = serve.client();
        client.send(request.replacen("\r\n", "\r\nHost: x\r\n", 1).as_bytes()).unwrap();
        client.socket().shutdown(std::net::Shutdown::Write).unwrap();
        client.answer(request.split(' ').next().unwrap()).unwrap().expect(200);
    }
    // Who has not said all has not asked.
    let mut client = serve.client();
    client.send(b"GET /ok HTTP/1.1\r\nHost").unwrap();
    client.socket().shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.answer("GET").is_err());
    serve.end();
}

#[guest_test]
fn large_bodies_are_refused_and_expectations_answered(platform: Platform) {
    let serve = Serve::start(platform, &probe("body = \"1K\""));
    let body = vec![b'x'; 1025];
    // Refused by the head alone: nothing is sent but that.
    let mut client = serve.client();
    let head = "POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 1025\r\nExpect: 100-continue\r\n\r\n";
    client.send(head.as_bytes()).unwrap();
    let answer = client.answer("POST").unwrap().expect(413);
    assert!(answer.text().contains("1024 bytes"), "{}", answer.text());
    assert_eq!(serve.metric("hv_cold_starts_total"), 0.0, "no guest has begun");
    // What fits is asked for.
    let mut client = serve.client();
    client.send(head.replace("1025", "1024").as_bytes()).unwrap();
    assert_eq!(client.head().unwrap().status, 100);
    client.send(&body[..1024]).unwrap();
    assert_eq!(client.answer("POST").unwrap().expect(200).text(), "1024\n");
    // Chunks are counted as they come.
    let mut client = serve.client();
    client.send(b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    client.send(&[b"401\r\n", &body[..], b"\r\n0\r\n\r\n"].concat()).unwrap();
    client.answer("POST").unwrap().expect(413);
    serve.end();
}

#[guest_test]
fn routes_and_methods(platform: Platform) {
    let image = guest("fn-probe");
    let serve = Serve::start(
        platform,
        &format!(
            "[function.read]\npath = [\"/ok\", \"/status\"]\nmethods = \"GET\"\nimage = {image:?}\n\
         [function.tree]\npath = \"/tree/*\"\nimage = {image:?}\n",
        ),
    );
    let mut client = serve.client();
    let mut ask = |method: &str, path: &str| client.ask(method, path, "", b"").unwrap();
    ask("GET", "/ok").expect(200);
    ask("HEAD", "/ok?x=1").expect(200);
    assert_eq!(ask("POST", "/ok").expect(405).field("allow"), Some("GET, HEAD"));
    for path in ["/", "/OK", "/ok/", "/tree", "/other"] {
        assert!(ask("GET", path).expect(404).text().contains("no function"));
    }
    // The guest says 404 itself.
    assert!(!ask("GET", "/tree/x").expect(404).text().contains("no function"));
    assert_eq!(ask("GET", "/healthz").expect(200).text(), "ok\n");
    ask("POST", "/healthz").expect(405);
    assert!(serve.log_line("/other").contains(" 404 "));
    serve.end();
}

#[guest_test]
fn heads_that_are_too_long_or_none(platform: Platform) {
    let serve = Serve::start(platform, &("header_time = \"500ms\"\n".to_owned() + &probe("")));
    let long = format!("X-Long: {}\r\n", "x".repeat(17 << 10));
    serve.client().ask("GET", "/ok", &long, b"").unwrap().expect(431);
    let many = "A: b\r\n".repeat(101);
    serve.client().ask("GET", "/ok", &many, b"").unwrap().expect(431);
    let endless = format!("X-Long: {}\r\n", "x".repeat(100 << 10));
    serve.client().ask("GET", "/ok", &endless, b"").unwrap().expect(431);
    let mut client = serve.client();
    client.send(b"nonsense\r\n\r\n").unwrap();
    assert_eq!(client.answer("GET").unwrap().status, 400);
    // Who does not come to the point is left.
    let mut slow = serve.client();
    slow.send(b"GET /ok HTTP/1.1\r\nHost: x\r\nX-").unwrap();
    assert!(slow.is_closed());
    let mut idle = serve.client();
    idle.ask("GET", "/ok", "", b"").unwrap().expect(200);
    assert!(idle.is_closed());
    serve.end();
}

#[guest_test]
fn crashes_are_answered_and_their_reports_logged(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut client = serve.client();
    for (path, reason) in [
        ("/crash", "null pointer"),
        ("/panic", "asked to"),
        ("/garbage?kind=no-http", "head of its answer"),
        ("/garbage?kind=no-trailers", "behind its answer"),
    ] {
        let answer = client.ask("GET", path, "", b"").unwrap().expect(502);
        let id = answer.field("x-crash-id").expect("it names the crash").to_owned();
        assert!(answer.text().contains(&id), "{}", answer.text());
        let errors = serve.said(&format!("crash {id}: function probe"), 1);
        let report = &errors[errors.find(&id).unwrap()..];
        assert!(report.lines().next().unwrap().contains(reason), "{path}: {report}");
        assert!(serve.log_line(&id).contains(" 502 "));
    }
    assert_eq!(serve.metric("hv_failures_total{function=\"probe\",kind=\"crashed\"}"), 4.0);
    client.ask("GET", "/exit?code=3", "", b"").unwrap().expect(502);
    serve.said("exited with code 3", 1);
    client.ask("GET", "/oom", "", b"").unwrap().expect(502);
    client.ask("GET", "/ok", "", b"").unwrap().expect(200);
    serve.end();
}

#[guest_test]
fn an_answer_that_breaks_off_is_seen_to_break_off(platform: Platform) {
    let serve = Serve::start(platform, &probe("wall_time = \"500ms\""));
    let mut client = serve.client();
    client.send(b"GET /slow?ms=100&n=1000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(client.head().unwrap().status, 200);
    let end = loop {
        match client.chunk() {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(end.is_err(), "the answer looks complete");
    assert!(serve.log_line("/slow").contains(" 200 ") || serve.log_line("/slow").contains(" 499 "));
    serve.end();
}

#[guest_test]
fn time_is_limited(platform: Platform) {
    let image = guest("fn-probe");
    let serve = Serve::start(
        platform,
        &format!(
            "[function.wall]\npath = \"/sleep\"\nimage = {image:?}\nwall_time = \"300ms\"\n\
         [function.cpu]\npath = \"/hang\"\nimage = {image:?}\ncpu_time = \"100ms\"\n\
         [function.body]\npath = \"/length\"\nimage = {image:?}\nwall_time = \"300ms\"\n",
        ),
    );
    let start = Instant::now();
    assert!(serve.get("/sleep?ms=60000").expect(504).text().contains("too long"));
    assert!(serve.get("/hang").expect(504).text().contains("CPU time"));
    assert!(start.elapsed() < Duration::from_secs(20), "both limits are far below");
    serve.get("/sleep?ms=1").expect(200);
    // Here it is the client who takes too long.
    let mut client = serve.client();
    client.send(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").unwrap();
    assert_eq!(client.answer("POST").unwrap().status, 408);
    serve.end();
}

#[guest_test]
fn requests_wait_in_a_queue_that_is_bounded(platform: Platform) {
    let serve = Serve::start(platform, &probe("concurrency = 1\nqueue = 1\nqueue_time = \"700ms\""));
    let ask = |path: &'static str| {
        let port = serve.port;
        std::thread::spawn(move || Client::connect(port).unwrap().ask("GET", path, "", b"").unwrap())
    };
    let metric = |what: &str, value: f64| eventually(what, || (serve.metric(what) == value).then_some(()));
    // One is answered, one waits, and one is too many.
    let first = ask("/sleep?ms=400");
    metric("hv_guests_live{", 1.0);
    let second = ask("/ok");
    metric("hv_queue{", 1.0);
    let third = serve.get("/ok").expect(429);
    assert_eq!(third.field("retry-after"), Some("1"));
    first.join().unwrap().expect(200);
    second.join().unwrap().expect(200);
    // One that waits for too long. The guests before it have gone by then: an answer comes a little earlier than its guest's end.
    metric("hv_guests_live{", 0.0);
    let first = ask("/sleep?ms=2000");
    metric("hv_guests_live{", 1.0);
    let late = serve.get("/ok").expect(503);
    assert_eq!(late.field("retry-after"), Some("1"));
    first.join().unwrap().expect(200);
    serve.end();
}

#[guest_test]
fn what_guests_print_is_told_and_cannot_break_lines(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    serve.get("/print?text=here%1bI%20am").expect(200);
    let errors = serve.said("here", 1);
    assert!(errors.lines().any(|line| line == "hv: probe: here\\u{1b}I am"), "{errors}");
    serve.end();
}

#[guest_test]
fn wrk_is_answered_without_an_error(platform: Platform) {
    if !has_tools(&["wrk"]) {
        return;
    }
    let config = format!("[function.hello]\npath = \"/hello\"\nimage = {:?}\n", guest("fn-hello"));
    let serve = Serve::start(platform, &config);
    let url = format!("http://127.0.0.1:{}/hello", serve.port);
    let text = tool(Command::new("wrk").args(["-t2", "-c16", "-d2s", &url])).text();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    assert!(serve.metric("hv_pool_hits_total") > 0.0);
    serve.end();
}

#[guest_test]
fn half_a_connection_is_none(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut client = serve.client();
    client.send(b"GET /sleep?ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    eventually("the guest", || (serve.metric("hv_guests_live{") == 1.0).then_some(()));
    client.socket().shutdown(std::net::Shutdown::Both).unwrap();
    eventually("its end", || (serve.metric("hv_guests_live{") == 0.0).then_some(()));
    // As good as new for others.
    let other = serve.client();
    other.socket().write_all(b"GET /ok HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    other.socket().read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("ok\n"), "{text}");
    serve.end();
}

#[guest_test]
fn a_function_that_crashes_always_is_tried_less_and_less(platform: Platform) {
    let serve = Serve::start(platform, &probe("concurrency = 1"));
    let mut client = Client::connect(serve.port).unwrap();
    let (mut crashes, mut refusal) = (0, None);
    // However long the host takes for them: the times grow until a request falls into one.
    for _ in 0..60 {
        let answer = client.ask("GET", "/crash", "", b"").unwrap();
        match answer.status {
            502 => crashes += 1,
            _ => {
                refusal = Some(answer);
                break;
            }
        }
    }
    let refusal = refusal.expect("it is kept away").expect(503);
    assert!(crashes >= 20, "{crashes}");
    assert!(refusal.field("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert!(refusal.text().contains("crashed many times in a row"), "{}", refusal.text());
    assert!(serve.metric("hv_failures_total{function=\"probe\",kind=\"back_off\"}") >= 1.0);
    // An answer that is complete ends it.
    hv_tests::eventually("the function to be tried again", || {
        (client.ask("GET", "/ok", "", b"").unwrap().status == 200).then_some(())
    });
    hv_tests::eventually("the answer to count", || (serve.metric("hv_answers_total{") > 0.0).then_some(()));
    client.ask("GET", "/crash", "", b"").unwrap().expect(502);
    client.ask("GET", "/ok", "", b"").unwrap().expect(200);
    assert_eq!(serve.metric("hv_back_off_seconds{"), 0.0);
}

#[guest_test]
fn a_flood_of_output_is_left_out_and_told(platform: Platform) {
    let serve = Serve::start(platform, &probe(""));
    let mut client = Client::connect(serve.port).unwrap();
    let path = format!("/print?text={}", "x".repeat(900));
    hv_tests::eventually("lines to be left out", || {
        // Many for each look: slow machines print little more than is told.
        for _ in 0..100 {
            client.ask("GET", &path, "", b"").unwrap().expect(200);
        }
        (serve.metric("hv_guest_lines_left_out_total{") > 0.0).then_some(())
    });
    serve.said("further lines left out", 1);
}
