//! What guests print, and what becomes of requests, by their ids.

#[path = "admin/client.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod client;

use client::{Api, config};
use hv_tests::serve::Serve;
use hv_tests::{Platform, eventually, guest_test};
use serde_json::Value;
use std::{fs, thread};

fn start(platform: Platform, api: &str, function: &str) -> Serve {
    Serve::prepared(platform, &(config("state".as_ref(), api) + function), |_, folder| {
        fs::write(folder.join("api.token"), client::TOKEN).unwrap();
        fs::create_dir(folder.join("state")).unwrap();
    })
}

/// What is kept of a request, once it is over.
fn over(api: &Api, id: &str) -> Value {
    let path = format!("/v1/requests/{id}");
    eventually("the end of the request", || {
        let found = api.get(&path, 200)["requests"][0].clone();
        (found["running"] == false).then_some(found)
    })
}

/// Waits until a request has these lines.
#[track_caller]
fn is_printed(api: &Api, id: &str, wanted: &[&str]) {
    eventually(id, || (lines(&over(api, id)) == wanted).then_some(()));
}

fn lines(found: &Value) -> Vec<String> {
    let logs = found["logs"].as_array().unwrap().iter();
    logs.map(|log| log["line"].as_str().unwrap().to_owned()).collect()
}

#[guest_test]
fn each_request_has_its_own_lines(platform: Platform) {
    let serve = start(platform, "", "");
    let api = Api::new(&serve);
    thread::scope(|scope| {
        for client in 0..4 {
            let serve = &serve;
            scope.spawn(move || {
                let mut connection = serve.client();
                for n in 0..20 {
                    let id = format!("X-Request-Id: r-{client}-{n}\r\n");
                    let path = format!("/print?text=line-{client}-{n}&n=2");
                    connection.ask("GET", &path, &id, b"").unwrap().expect(200);
                }
            });
        }
    });
    for client in 0..4 {
        for n in 0..20 {
            let line = format!("line-{client}-{n}");
            is_printed(&api, &format!("r-{client}-{n}"), &[&line, &line]);
        }
    }
    // By the trace that the client has begun.
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let fields = format!("traceparent: 00-{trace}-b7ad6b7169203331-01\r\nX-Request-Id: traced\r\n");
    let answer = serve.client().ask("GET", "/print?text=traced", &fields, b"").unwrap().expect(200);
    assert_eq!(answer.field("x-request-id"), Some("traced"));
    is_printed(&api, trace, &["traced"]);
    let found = over(&api, trace);
    assert_eq!((&found["request"], &found["trace"]), (&"traced".into(), &trace.into()));
    // An id that hv has made.
    let answer = serve.get("/print?text=made").expect(200);
    is_printed(&api, answer.field("x-request-id").unwrap(), &["made"]);
    serve.end();
}

#[guest_test]
fn requests_of_an_instance_have_their_own_lines(platform: Platform) {
    let serve = start(platform, "", "isolation = \"instance\"\nmax_instances = 1\n");
    let api = Api::new(&serve);
    for n in 0..20 {
        let (id, line) = (format!("r-{n}"), format!("line-{n}"));
        let path = format!("/print?text={line}&n=2");
        serve.client().ask("GET", &path, &format!("X-Request-Id: {id}\r\n"), b"").unwrap().expect(200);
        // The last output of a guest that is kept may come a moment after its answer.
        is_printed(&api, &id, &[&line, &line]);
    }
    assert_eq!(serve.metric("hv_cold_starts_total{function=\"probe\"}"), 1.0, "all in the same one");
    serve.end();
}

#[guest_test]
fn lines_without_an_end_belong_to_their_request(platform: Platform) {
    let serve = start(platform, "", "");
    let api = Api::new(&serve);
    for n in 0..3 {
        let fields = format!("X-Request-Id: open-{n}\r\n");
        serve.client().ask("GET", &format!("/print?text=a&open=half-{n}"), &fields, b"").unwrap().expect(200);
        // One machine answers all of them.
        eventually("the machine", || (serve.metric("hv_guests_pooled{") == 1.0).then_some(()));
    }
    for n in 0..3 {
        is_printed(&api, &format!("open-{n}"), &["a", &format!("half-{n}")]);
    }
    let said = serve.end().err;
    for n in 0..2 {
        assert!(said.contains(&format!("hv: probe: half-{n}\n")), "whole, and no other's: {said}");
    }
}

#[guest_test]
fn hostile_output_is_bounded_and_escaped(platform: Platform) {
    let serve = start(platform, "requests = 8\n", "");
    let api = Api::new(&serve);
    let ask = |id: &str, path: &str| {
        serve.client().ask("GET", path, &format!("X-Request-Id: {id}\r\n"), b"").unwrap().expect(200);
    };
    ask("escape", "/print?text=%1b%5b2J%1b%5d0;title%07%e2%80%ae%c2%9b");
    let path = "/v1/requests/escape";
    // Programs get what it was.
    is_printed(&api, "escape", &["\u{1b}[2J\u{1b}]0;title\u{7}\u{202e}\u{9b}"]);
    let answer = api.raw("GET", path, "", b"").expect(200);
    assert!(answer.body.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "{}", answer.text());
    for n in 0..4 {
        ask(&format!("flood-{n}"), "/print?text=0123456789abcdef&n=20000");
        eventually("what was not kept is counted", || {
            let found = over(&api, &format!("flood-{n}"));
            let kept: usize = lines(&found).iter().map(|line| line.len() + 1).sum();
            let left_out = found["bytes_left_out"].as_u64().unwrap() as usize;
            assert!(kept <= 16 << 10, "{kept}");
            // The last line that is kept may be cut.
            [0, 1].contains(&(kept + left_out).checked_sub(20000 * 17)?).then_some(())
        });
    }
    // Only the last ones are kept.
    (0..8).for_each(|n| ask(&format!("later-{n}"), "/ok"));
    api.get("/v1/requests/flood-0", 404);
    api.get("/v1/requests/never", 404);
    over(&api, "later-0");
    // An id is whatever a client may say.
    ask("a/b%20%c3;{}", "/print?text=odd");
    is_printed(&api, "a%2Fb%2520%25c3%3B%7B%7D", &["odd"]);
    serve.end();
}

#[guest_test]
fn a_request_has_a_trace(platform: Platform) {
    let serve = start(platform, "", "concurrency = 1\n");
    let api = Api::new(&serve);
    let mut busy = serve.client();
    busy.send(b"GET /sleep?ms=300 HTTP/1.1\r\nHost: x\r\nX-Request-Id: first\r\n\r\n").unwrap();
    eventually("the guest", || (serve.metric("hv_guests_live{") == 1.0).then_some(()));
    let running = api.get("/v1/requests/first", 200)["requests"][0].clone();
    assert!(running["running"] == true && running.get("status").is_none(), "{running}");
    serve.client().ask("GET", "/ok", "X-Request-Id: second\r\n", b"").unwrap().expect(200);
    busy.answer("GET").unwrap().expect(200);
    let reset = |id: &str| {
        eventually("the reset", || {
            let found = over(&api, id);
            let names: Vec<_> =
                found["spans"].as_array().unwrap().iter().map(|span| span["name"].clone()).collect();
            (names == ["queue", "clone", "run", "reset"]).then_some(found)
        })
    };
    let (first, second) = (reset("first"), reset("second"));
    let seconds = |found: &Value, span: usize| found["spans"][span]["seconds"].as_f64().unwrap();
    assert!(seconds(&first, 2) >= 0.3, "the guest has slept: {first}");
    assert!(first["seconds"].as_f64().unwrap() >= seconds(&first, 2) - 0.001, "{first}");
    assert_eq!((&first["instance"], &second["status"]), (&"cold".into(), &200.into()));
    assert!(seconds(&second, 0) > seconds(&first, 0), "it has waited for the first: {first} {second}");
    for found in [&first, &second] {
        let spans = found["spans"].as_array().unwrap();
        for pair in spans.windows(2) {
            let end = pair[0]["after"].as_f64().unwrap() + pair[0]["seconds"].as_f64().unwrap();
            assert!((end - pair[1]["after"].as_f64().unwrap()).abs() < 1e-6, "one after the other: {found}");
        }
    }
    // One that crashes says where its report is.
    serve.client().ask("GET", "/crash", "X-Request-Id: third\r\n", b"").unwrap().expect(502);
    let third = over(&api, "third");
    assert_eq!(third["failure"], "crashed");
    serve.said(&format!("crash {}", third["crash"].as_str().unwrap()), 1);
    serve.end();
}
