//! Traces and metrics of `hv serve`, as a collector gets them.

#[path = "telemetry/collector.rs"]
mod collector;

use collector::{Collector, Told, attribute};
use hv_tests::haproxy::{ADDRESS, Haproxy};
use hv_tests::refusal::refused;
use hv_tests::serve::{Serve, checked, probe};
use hv_tests::services::Authority;
use hv_tests::{Platform, eventually, guest_test};
use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, TcpListener};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn start(platform: Platform, address: SocketAddr, keys: &str) -> Serve {
    let table = format!(
        "admin = \"127.0.0.1:0\"\n[telemetry]\nendpoint = \"http://{address}/otlp/\"\nheaders = {{ authorization = \"file:header\" }}\n{keys}\n"
    );
    Serve::prepared(platform, &(table + &probe("")), |_, folder| {
        fs::write(folder.join("header"), "Bearer collector-secret\n").unwrap();
    })
}

/// The spans of the request with this id, once all of them were told.
fn spans(collector: &Collector, request: &str, count: usize) -> Vec<Value> {
    eventually(request, || {
        let all: Vec<Value> = collector.told().iter().flat_map(Told::spans).collect();
        let whole = all.iter().find(|span| attribute(span, "hv.request") == request)?;
        let id = whole["spanId"].clone();
        let parts = all.iter().filter(|span| span["parentSpanId"] == id);
        let found: Vec<_> = [whole].into_iter().chain(parts).cloned().collect();
        (found.len() == count).then_some(found)
    })
}

fn name(span: &Value) -> &str {
    span["name"].as_str().unwrap()
}

fn nanos(span: &Value, key: &str) -> u64 {
    span[key].as_str().unwrap().parse().unwrap()
}

#[guest_test]
fn spans_of_requests_are_told(platform: Platform) {
    let collector = Collector::start();
    let serve = start(platform, collector.address, "service = \"shop\"");
    let ask = |id: &str, path: &str, fields: &str| {
        let fields = format!("X-Request-Id: {id}\r\n{fields}");
        serve.client().ask("GET", path, &fields, b"").unwrap()
    };
    let answer =
        ask("one", "/headers?a=b", &format!("traceparent: {PARENT}\r\ntracestate: x=y\r\n")).expect(200);
    let found = spans(&collector, "one", 5);
    let whole = &found[0];
    assert_eq!((name(whole), whole["kind"].as_u64()), ("GET probe", Some(2)));
    assert_eq!(
        (whole["traceId"].as_str(), whole["parentSpanId"].as_str()),
        (Some(TRACE), Some("b7ad6b7169203331"))
    );
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/headers"),
        ("http.response.status_code", "200"),
        ("hv.function", "probe"),
        ("hv.instance", "cold"),
        ("client.address", "127.0.0.1"),
    ] {
        assert_eq!(attribute(whole, key), value, "{key}");
    }
    let parts: Vec<_> = found[1..].iter().map(name).collect();
    assert_eq!(parts, ["queue", "clone", "run", "reset"]);
    for part in &found[1..] {
        assert_eq!((part["traceId"].as_str(), part["kind"].as_u64()), (Some(TRACE), Some(1)));
        assert!(nanos(part, "startTimeUnixNano") >= nanos(whole, "startTimeUnixNano"));
        assert!(nanos(part, "endTimeUnixNano") >= nanos(part, "startTimeUnixNano"));
    }
    // What the guest asks others is a part of its run.
    let header = format!("traceparent: 00-{TRACE}-{}-01\n", found[3]["spanId"].as_str().unwrap());
    let seen = answer.text();
    assert!(seen.contains(&header) && seen.contains("tracestate: x=y\n"), "{seen}");
    assert_eq!(seen.matches("traceparent").count(), 1, "{seen}");

    // hv begins a trace where the client has none, or none that is valid.
    let seen = ask("two", "/headers", "traceparent: nonsense\r\ntracestate: x=y\r\n").expect(200).text();
    let two = spans(&collector, "two", 5);
    let own = two[0]["traceId"].as_str().unwrap();
    assert!(own.len() == 32 && own != TRACE && two[0].get("parentSpanId").is_none(), "{}", two[0]);
    assert!(seen.contains(&format!("traceparent: 00-{own}-")) && !seen.contains("tracestate"), "{seen}");

    // Failures are errors.
    ask("three", "/crash", "").expect(502);
    let three = spans(&collector, "three", 4);
    assert_eq!(
        (three[0]["status"]["code"].as_u64(), attribute(&three[0], "error.type").as_str()),
        (Some(2), "crashed")
    );
    assert!(whole.get("status").is_none());
    serve.client().ask("BREW", "/status?code=404", "X-Request-Id: four\r\n", b"").unwrap().expect(404);
    assert_eq!(name(&spans(&collector, "four", 5)[0]), "HTTP probe");

    // What a client wants untold is not told; a later one is.
    let untold = PARENT.replace("-01", "-00");
    let seen = ask("five", "/headers", &format!("traceparent: {untold}\r\n")).expect(200).text();
    assert!(seen.contains(&format!("traceparent: 00-{TRACE}-")) && seen.contains("-00\n"), "{seen}");
    ask("six", "/ok", "").expect(200);
    spans(&collector, "six", 5);
    assert!(
        collector.told().iter().flat_map(Told::spans).all(|span| attribute(&span, "hv.request") != "five")
    );

    for told in collector.told() {
        assert!(["/otlp/v1/traces", "/otlp/v1/metrics"].contains(&told.path.as_str()), "{}", told.path);
        assert_eq!(told.field("authorization"), Some("Bearer collector-secret"));
        assert_eq!(told.field("content-type"), Some("application/json"));
        assert_eq!(told.service(), "shop");
    }
    let told = serve.metric("hv_telemetry_told_total{signal=\"traces\"}");
    assert!(told >= 5.0, "{told}");
    assert!(!serve.end().err.contains("collector-secret"));
}

#[guest_test]
fn metrics_are_told(platform: Platform) {
    let collector = Collector::start();
    let serve = start(platform, collector.address, "interval = \"200ms\"");
    (0..5).for_each(|_| drop(serve.get("/ok").expect(200)));
    let wanted = |told: &Told| {
        let metric = told.metric("hv_requests_total")?;
        let points = metric["sum"]["dataPoints"].as_array()?;
        let point = points
            .iter()
            .find(|point| attribute(point, "function") == "probe" && attribute(point, "status") == "200")?;
        (metric["sum"]["isMonotonic"] == true && point["asDouble"] == 5.0).then(|| point.clone())
    };
    let (told, point) = eventually("the metrics", || {
        collector.told().into_iter().find_map(|told| wanted(&told).map(|point| (told, point)))
    });
    assert!(nanos(&point, "timeUnixNano") > nanos(&point, "startTimeUnixNano"));
    let latency = told.metric("hv_request_seconds").unwrap();
    let point = &latency["histogram"]["dataPoints"][0];
    let counts: u64 = point["bucketCounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|count| count.as_str().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(point["count"].as_str().unwrap().parse::<u64>().unwrap(), counts);
    assert_eq!(
        point["bucketCounts"].as_array().unwrap().len(),
        point["explicitBounds"].as_array().unwrap().len() + 1
    );
    let memory = told.metric("process_resident_memory_bytes").unwrap();
    assert!(memory["gauge"]["dataPoints"][0]["asDouble"].as_f64().unwrap() > 1e6);
    serve.end();
}

#[guest_test]
fn some_requests_are_told_of_many(platform: Platform) {
    let collector = Collector::start();
    let serve = start(platform, collector.address, "sample = 5");
    let mut client = serve.client();
    (0..20).for_each(|_| drop(client.ask("GET", "/ok", "", b"").unwrap().expect(200)));
    eventually("one of five", || {
        (serve.metric("hv_telemetry_told_total{signal=\"traces\"}") == 4.0).then_some(())
    });
    serve.end();
}

#[guest_test]
fn a_collector_that_is_not_there_holds_up_nobody(platform: Platform) {
    // An address of this test alone: nobody else takes the port meanwhile.
    let place = TcpListener::bind("127.0.77.1:0").unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let serve = start(platform, address, "interval = \"1h\"");
    let mut client = serve.client();
    (0..50).for_each(|_| drop(client.ask("GET", "/ok", "", b"").unwrap().expect(200)));
    eventually("the loss", || {
        (serve.metric("hv_telemetry_lost_total{signal=\"traces\"}") == 50.0).then_some(())
    });
    let said = serve.said("it is lost until that works", 1);
    assert_eq!(said.matches("telemetry to ").count(), 1, "{said}");
    // It comes back.
    let _collector = Collector::at(address);
    eventually("the next one", || {
        client.ask("GET", "/ok", "", b"").unwrap().expect(200);
        (serve.metric("hv_telemetry_told_total{signal=\"traces\"}") > 0.0).then_some(())
    });
    serve.said("it works again", 1);
    serve.end();
}

#[guest_test]
fn a_collector_that_never_answers_holds_up_nobody(platform: Platform) {
    // The kernel accepts, and nobody reads.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let serve = start(platform, silent.local_addr().unwrap(), "interval = \"100ms\"");
    let mut client = serve.client();
    for _ in 0..300 {
        client.ask("GET", "/ok", "", b"").unwrap().expect(200);
    }
    eventually("metrics that have no room", || {
        (serve.metric("hv_telemetry_lost_total{signal=\"metrics\"}") > 0.0).then_some(())
    });
    // Nor the end of the server.
    serve.end();
}

#[guest_test]
fn a_collector_over_tls(platform: Platform) {
    let collector = Collector::start();
    let authority = Authority::new();
    let (service, client) = (authority.identity(ADDRESS), authority.identity("hv"));
    let both = service.chain.with_extension("both");
    fs::write(&both, [fs::read(&service.chain).unwrap(), fs::read(&service.key).unwrap()].concat()).unwrap();
    let options =
        format!("ssl crt {} ca-file {} verify required", both.display(), authority.file().display());
    let to = format!("server collector {}", collector.address);
    let Some(proxy) = Haproxy::start(&[(&options, &to)]) else { return };
    let table = |keys: &str| {
        format!(
            "admin = \"127.0.0.1:0\"\n[telemetry]\nendpoint = \"https://{ADDRESS}:{}\"\n{keys}\n{}",
            proxy.ports[0],
            probe("")
        )
    };
    let keys = format!(
        "ca = {:?}\nchain = {:?}\nkey = \"file:{}\"",
        authority.file(),
        client.chain,
        client.key.display()
    );
    let told = |config: &str| {
        let serve = Serve::start(platform, config);
        serve.get("/ok").expect(200);
        let told = eventually("an end of it", || {
            let told = serve.metric("hv_telemetry_told_total{signal=\"traces\"}");
            let lost = serve.metric("hv_telemetry_lost_total{signal=\"traces\"}");
            (told + lost > 0.0).then_some(told > 0.0)
        });
        serve.end();
        told
    };
    assert!(told(&table(&keys)));
    // Neither without its certificate, nor to one that the authority does not vouch for.
    assert!(!told(&table(&format!("ca = {:?}", authority.file()))));
    let other = Authority::new();
    let keys = keys.replace(authority.file().to_str().unwrap(), other.file().to_str().unwrap());
    assert!(!told(&table(&keys)));
}

#[guest_test]
fn impossible_tables_are_refused(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("lines");
    fs::write(&lines, "two\nlines\n").unwrap();
    let file = format!("\"file:{}\"", lines.display());
    for (keys, line, parts) in [
        ("", 1, ["no `endpoint`", "http://127.0.0.1:4318"]),
        ("endpoint = \"127.0.0.1:4318\"", 2, ["endpoint = \"127.0.0.1:4318\"", "write http://HOST:PORT"]),
        ("endpoint = \"ftp://example.org\"", 2, ["write http://HOST:PORT", "https://HOST:PORT"]),
        (
            "endpoint = \"http://a\"\nca = \"ca.pem\"",
            3,
            ["`ca` does not go with a URL without TLS", "https://"],
        ),
        ("endpoint = \"https://a\"\nca = \"hv.toml\"", 3, ["hv.toml\"", "no certificate that vouches"]),
        ("endpoint = \"http://a:b@c\"", 2, ["endpoint = …", "keep secrets out of it"]),
        ("endpoint = \"http://a/?b\"", 2, ["write http://HOST:PORT", ""]),
        ("endpoint = \"http://a\"\ninterval = 0", 3, ["interval = \"0\"", "at least 1ms"]),
        ("endpoint = \"http://a\"\nsample = 0", 3, ["sample = 0", "1 or more"]),
        (
            "endpoint = \"http://a\"\nheaders = { authorization = \"secret\" }",
            3,
            ["headers = …", "file:PATH"],
        ),
        (
            &format!("endpoint = \"http://a\"\nheaders = {{ host = {file} }}"),
            3,
            ["headers = \"host\"", "does not write itself"],
        ),
        (
            &format!("endpoint = \"http://a\"\nheaders = {{ a = {file} }}"),
            3,
            ["headers = …", "write one line"],
        ),
    ] {
        let config = format!("[telemetry]\n{keys}\n{}", probe(""));
        let (mut command, _folder) = checked(platform, &config, &["--check"]);
        let end = refused(&mut command, &[&format!("hv.toml:{line}: "), parts[0], parts[1]]);
        assert!(!end.err.contains("a:b@"), "{}", end.err);
    }
}
