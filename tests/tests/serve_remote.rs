//! Stores and blobs in services elsewhere: with TLS and without, in trouble, and with wrong keys.

use hv_tests::http::Client;
use hv_tests::serve::Serve;
use hv_tests::services::{Authority, ObjectStore, Redis, a_store_works, ask, reach, refused, text};
use hv_tests::{Platform, eventually, free_port, guest_test, has_tools};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;

/// What a function that passes blobs on may do.
const KEYS: &str = "blob = \"files\"\nbody = \"64M\"\nmemory = \"8M\"\nwall_time = \"2m\"\ncpu_time = \"2m\"";

fn bucket(keys: &str) -> String {
    reach(&format!("[blob.files]\n{keys}"), KEYS)
}

fn start(platform: Platform, config: &str) -> Serve {
    Serve::prepared(platform, config, |_, place| ObjectStore::secrets(place))
}

/// What blobs do, wherever they are.
fn blobs_work(serve: &Serve, size: u32) {
    let mut client = serve.client();
    let large: Vec<u8> = (0..size).map(|at| (at * 7 + at / 251 + at / 65_521) as u8).collect();
    let get =
        |client: &mut Client, query: &str| ask(client, "GET", &format!("/blob?name=files&{query}"), b"", 200);
    ask(&mut client, "PUT", "/blob?name=files&key=large.bin", &large, 200);
    let all = client.ask("GET", "/blob?name=files&key=large.bin", "", b"").unwrap().expect(200);
    assert_eq!(all.field("x-size"), Some(&*size.to_string()));
    assert!(all.body == large);
    let (first, end) = (size / 3, size / 3 + 100_000);
    let range = get(&mut client, &format!("key=large.bin&first={first}&end={end}"));
    assert!(range == large[first as usize..end as usize]);
    let tail = get(&mut client, &format!("key=large.bin&first={}", size - 1));
    assert_eq!(tail, large[size as usize - 1..]);
    for beyond in ["first=99999999", "first=5&end=5", "first=99999999&end=99999999"] {
        assert!(get(&mut client, &format!("key=large.bin&{beyond}")).is_empty(), "{beyond}");
    }
    // None, and a small one, which goes another way; keys with all that means something to URLs.
    ask(&mut client, "GET", "/blob?name=files&key=none", b"", 404);
    for key in ["", "-_.~", "%2F", "%20%3F%23%25%26%3D%2B%5B%5D", "%C3%84", "a%2F%2Fb", "%2E%2E%2E"] {
        let (path, key) = (format!("/blob?name=files&key=s{key}"), format!("key=s{key}"));
        ask(&mut client, "PUT", &path, key.as_bytes(), 200);
        assert_eq!(get(&mut client, &key), key.as_bytes());
        ask(&mut client, "PUT", &path, b"", 200);
        assert!(get(&mut client, &key).is_empty());
        assert_eq!(ask(&mut client, "DELETE", &path, b"", 200), b"true\n");
        assert_eq!(ask(&mut client, "DELETE", &path, b"", 200), b"false\n");
    }
    // One that does not come to its end is not there.
    ask(&mut client, "PUT", "/blob?name=files&key=half&size=1000", &[0; 10], 500);
    ask(&mut client, "PUT", "/blob?name=files&key=half&size=1000000", &[0; 200_000], 500);
    assert_eq!(text(&mut client, "/blobs?name=files"), format!("large.bin {size}\n"));
}

#[guest_test]
fn blobs_in_a_bucket(platform: Platform) {
    let Some(store) = ObjectStore::start(None) else { return };
    let config = bucket(&store.keys("http://127.0.0.1"));
    let serve = start(platform, &config);
    blobs_work(&serve, 20_000_000);
    let mut client = serve.client();
    // More than a page of keys, and those of others beside them.
    let mut listed = String::from("large.bin 20000000\n");
    for at in 0..300 {
        ask(&mut client, "PUT", &format!("/blob?name=files&key=n%2F{at:03}"), b"1", 200);
        listed += &format!("n/{at:03} 1\n");
    }
    assert_eq!(text(&mut client, "/blobs?name=files"), listed);
    assert_eq!(text(&mut client, "/blobs?name=files&key=n%2F29").lines().count(), 10);
    serve.end();
    // With a prefix, its guests see what is below it, and nothing else.
    let prefixed = start(platform, &format!("{}\n", config.replace("region =", "prefix = \"n/\"\nregion =")));
    let mut client = prefixed.client();
    assert_eq!(text(&mut client, "/blobs?name=files&key=29").lines().next(), Some("290 1"));
    for outside in ["..%2Flarge.bin", "..", ".%2F000", "x%2F..%2F000"] {
        let answer = client.ask("GET", &format!("/blob?name=files&key={outside}"), "", b"").unwrap();
        assert_eq!(answer.status, 500, "{outside}");
    }
    ask(&mut client, "GET", "/blob?name=files&key=%2Flarge.bin", b"", 404);
    assert_eq!(prefixed.metric("binding=\"files\",function=\"reach\",result=\"invalid\""), 4.0);
    prefixed.end();
}

#[guest_test]
fn blobs_over_tls_with_the_bucket_in_the_name(platform: Platform) {
    let authority = Authority::new();
    let service = authority.identity("pictures.localhost");
    let Some(store) = ObjectStore::start(Some((&service.chain, &service.key))) else { return };
    let keys = format!(
        "{}addressing = \"virtual-host\"\nca = {:?}",
        store.keys("https://localhost"),
        authority.file()
    );
    let serve = start(platform, &bucket(&keys));
    blobs_work(&serve, 3_000_000);
    serve.end();
    // An authority that does not vouch for it, and a name that its certificate does not have.
    let other = Authority::new();
    for keys in [
        keys.replace(authority.file().to_str().unwrap(), other.file().to_str().unwrap()),
        keys.replace("virtual-host", "path"),
    ] {
        let serve = start(platform, &bucket(&keys));
        let answer = serve.get("/blob?name=files&key=a").expect(503);
        assert!(answer.text().contains("binding files cannot be reached"), "{}", answer.text());
        serve.end();
    }
    // It was not the service.
    let serve = start(platform, &bucket(&keys));
    serve.get("/blob?name=files&key=large.bin").expect(200);
    serve.end();
}

#[guest_test]
fn a_bucket_in_trouble_is_a_503_by_its_name(platform: Platform) {
    let Some(store) = ObjectStore::start(None) else { return };
    let unreached = |config: &str, status: u16| {
        let serve = start(platform, config);
        let answer = serve.get("/blob?name=files&key=a").expect(status);
        assert!(
            status != 503 || answer.text().contains("binding files cannot be reached"),
            "{}",
            answer.text()
        );
        serve.end();
    };
    let keys = store.keys("http://127.0.0.1");
    unreached(&bucket(&keys), 404);
    unreached(&bucket(&keys.replace("pictures", "others")), 503);
    unreached(&bucket(&keys.replace("file:secret", "file:access")), 503);
    unreached(&bucket(&keys.replace("eu-test-1", "eu-test-2")), 503);
    let port = free_port();
    unreached(&bucket(&keys.replace(&store.port.to_string(), &port.to_string())), 503);
}

/// A server that answers each connection with these bytes, and counts them.
fn answering(answers: &'static [&'static [u8]]) -> (u16, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heads) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for (stream, answer) in listener.incoming().zip(answers) {
            let mut stream: TcpStream = stream.unwrap();
            sender.send(read_head(&mut stream)).unwrap();
            let _ = stream.write_all(answer);
        }
    });
    (port, heads)
}

/// What a client sends up to the end of a head, or of its connection.
fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let (mut head, mut bytes) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut bytes) {
            Ok(count @ 1..) => head.extend_from_slice(&bytes[..count]),
            _ => break,
        }
    }
    head
}

#[guest_test]
fn second_tries_are_few_and_answers_are_not_believed(platform: Platform) {
    const BUSY: &[u8] = b"HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
    // Answers, what the client gets for them, and how often the service is asked.
    let cases: [(&'static [&'static [u8]], &str, u16, usize); 12] = [
        (&[BUSY, b"", GOOD], "/blob?", 200, 3),
        (&[BUSY, BUSY, BUSY, GOOD], "/blob?", 503, 3),
        (&[b"no HTTP\r\n\r\n", b"", b"", GOOD], "/blob?", 503, 3),
        (&[b"HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n", GOOD], "/blob?", 500, 1),
        // What breaks off, in the head or in the body, which the guest has begun to pass on.
        (&[b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"], "/blob?first=0&end=9&", 500, 1),
        // Other ranges than those that were asked for, and sizes that cannot be.
        (
            &[b"HTTP/1.1 206 P\r\ncontent-range: bytes 4-9/10\r\ncontent-length: 6\r\n\r\n......"],
            "/blob?first=5&",
            500,
            1,
        ),
        (
            &[b"HTTP/1.1 206 P\r\ncontent-range: bytes 5-9/*\r\ncontent-length: 5\r\n\r\n....."],
            "/blob?first=5&",
            500,
            1,
        ),
        (&[b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n....."], "/blob?", 500, 1),
        // Lists that are none, or have no end.
        (&[b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n<a/>\n"], "/blobs?", 500, 1),
        (&[b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n"], "/blobs?", 503, 1),
        (
            &[b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"],
            "/blob?",
            500,
            1,
        ),
        (
            &[b"HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"],
            "/blob?",
            503,
            1,
        ),
    ];
    for (answers, path, status, asked) in cases {
        let (port, heads) = answering(answers);
        let keys = format!(
            "url = \"http://127.0.0.1:{port}\"\nbucket = \"pictures\"\naccess_key = \"file:access\"\nsecret_key = \"file:secret\""
        );
        let serve = start(platform, &bucket(&keys));
        let answer = serve.get(&format!("{path}name=files&key=a"));
        let heads: Vec<_> = heads.try_iter().collect();
        assert_eq!((answer.status, heads.len()), (status, asked), "{answers:?}: {}", answer.text());
        for head in heads {
            let head = String::from_utf8(head).unwrap();
            assert!(head.starts_with("GET /pictures") && head.contains("X-Amz-Signature="), "{head}");
            assert!(!head.contains("testing"), "{head}");
        }
        serve.end();
    }
}

#[guest_test]
fn a_store_over_tls(platform: Platform) {
    if !has_tools(&["redis-server"]) {
        return;
    }
    let authority = Authority::new();
    let (service, client) = (authority.identity("127.0.0.1"), authority.identity("hv"));
    let port = free_port();
    let (file, number) = (authority.file(), port.to_string());
    let options = [
        ("--tls-port", &*number),
        ("--port", "0"),
        ("--tls-cert-file", service.chain.to_str().unwrap()),
        ("--tls-key-file", service.key.to_str().unwrap()),
        ("--tls-ca-cert-file", file.to_str().unwrap()),
        ("--tls-auth-clients", "yes"),
        ("--requirepass", "sesame"),
    ];
    let options: Vec<&str> = options.into_iter().flat_map(|(option, value)| [option, value]).collect();
    let redis = Redis::at(port, &options);
    let store = format!(
        "[store.kv]\nurl = \"rediss://127.0.0.1:{port}/1\"\npassword = \"file:password\"\nca = {file:?}\n"
    );
    let shown = format!("chain = {:?}\nkey = \"file:{}\"\n", client.chain, client.key.display());
    let start = |store: String| {
        Serve::prepared(platform, &reach(&store, "store = \"kv\"\nbody = \"8M\""), |_, place| {
            fs::write(place.join("password"), "sesame").unwrap();
        })
    };
    let serve = start(format!("{store}{shown}"));
    a_store_works(&serve);
    // It goes and comes again.
    drop(redis);
    let mut asking = serve.client();
    let get = |client: &mut Client| client.ask("GET", "/store?name=kv&key=a", "", b"").unwrap().status;
    eventually("its end", || (get(&mut asking) == 503).then_some(()));
    let _redis = Redis::at(port, &options);
    eventually("the store", || (get(&mut asking) == 404).then_some(()));
    serve.end();
    // Without its certificate hv is nobody there; and another authority does not vouch for the service.
    let other = Authority::new();
    for store in [
        store.clone(),
        format!("{store}{shown}").replace(file.to_str().unwrap(), other.file().to_str().unwrap()),
    ] {
        let serve = start(store);
        let answer = serve.get("/store?name=kv&key=a").expect(503);
        assert!(answer.text().contains("binding kv cannot be reached"), "{}", answer.text());
        serve.end();
    }
}

#[guest_test]
fn wrong_services_are_refused_in_one_line(platform: Platform) {
    let s3 = "[blob.a]\nurl = \"https://s3.test\"\nbucket = \"pictures\"\naccess_key = \"file:text\"\nsecret_key = \"file:text\"\n";
    let redis = "[store.a]\nurl = \"rediss://h\"\n";
    let cases = [
        ("[blob.a]", "", "hv.toml:1: binding = \"a\": add folder = \"data\" or url = "),
        (
            "[blob.a]\nurl = \"s3://b\"\nbucket = \"abc\"",
            "",
            "hv.toml:2: url = …: write http://HOST:PORT or https://",
        ),
        ("[blob.a]\nurl = \"https://s3.test\"", "", "hv.toml:2: url = …: name its bucket"),
        (
            "[blob.a]\nurl = \"https://a:sesame@s3.test\"\nbucket = \"abc\"",
            "",
            "hv.toml:2: url = …: write http",
        ),
        (
            "[blob.a]\nurl = \"https://s3.test\"\nbucket = \"abc\"",
            "",
            "hv.toml:2: url = …: say who hv is there",
        ),
        ("[blob.a]\nfolder = \"/\"\nbucket = \"abc\"", "", "hv.toml:3: `bucket` does not go with `folder`"),
        ("[store.a]\nfolder = \"/\"\nprefix = \"abc\"", "", "hv.toml:3: `prefix` does not go with `folder`"),
        (s3, "bucket = \"a/b\"", "hv.toml:3: bucket = \"a/b\": the name of a bucket has"),
        (s3, "region = \"a/b\"", "hv.toml:6: region = \"a/b\": write the region"),
        (s3, "addressing = \"host\"", "hv.toml:6: addressing = \"host\": write \"path\""),
        (s3, "prefix = \"a/../b\"", "hv.toml:6: prefix = \"a/../b\": no part of it"),
        (s3, "value = \"6G\"", "hv.toml:6: value = 6442450944: a service of the S3 kind takes at most 5G"),
        (s3, "bytes = \"6G\"", "hv.toml:6: `bytes` does not go with `url`"),
        (
            s3,
            "access_key = \"sesame\"",
            "hv.toml:4: access_key = …: write \"file:PATH\" or \"credential:NAME\"",
        ),
        (s3, "secret_key = \"file:none\"", "none\": No such file"),
        (s3, "ca = \"text\"", "it has no certificate that vouches for others"),
        (s3, "ca = \"none\"", "none\": No such file"),
        (s3, "user = \"a\"", "hv.toml:6: unknown key `user`"),
        (s3, "chain = \"text\"", "hv.toml:6: `chain` does not go with a certificate in part"),
        (redis, "chain = \"text\"\nkey = \"file:text\"", "text\": it has no certificate"),
        (redis, "bucket = \"abc\"", "hv.toml:3: unknown key `bucket`"),
        (
            "[store.a]\nurl = \"redis://h\"\n",
            "ca = \"text\"",
            "hv.toml:3: `ca` does not go with a URL without TLS",
        ),
    ];
    for (table, further, expected) in cases {
        // A key that is there already is replaced.
        let key = further.split(" =").next().unwrap();
        let mut lines: Vec<&str> = table.lines().collect();
        match lines.iter().position(|line| !key.is_empty() && line.starts_with(&format!("{key} ="))) {
            Some(at) => lines[at] = further,
            None => lines.push(further),
        }
        let said = refused(platform, &reach(&lines.join("\n"), ""), |place: &Path| {
            fs::write(place.join("text"), "no certificate").unwrap();
        });
        assert!(said.contains(expected), "{said}\nis not: {expected}");
        assert!(said.trim_end().lines().count() == 1 && !said.contains("sesame"), "{said}");
    }
}

#[guest_test]
fn a_blob_is_acknowledged_when_the_service_has_all_of_it(platform: Platform) {
    // It answers to the head alone.
    const EARLY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The connection stays: its end with bytes that nobody has read would be a reset, which may overtake the answer.
    let service = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        stream.write_all(EARLY).unwrap();
        stream
    });
    let keys = format!(
        "url = \"http://127.0.0.1:{port}\"\nbucket = \"pictures\"\naccess_key = \"file:access\"\nsecret_key = \"file:secret\""
    );
    let serve = start(platform, &bucket(&keys));
    let mut client = serve.client();
    client
        .send(b"PUT /blob?name=files&key=a HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n")
        .unwrap();
    client.send(&[0; 200_000]).unwrap();
    assert_eq!(client.answer("PUT").unwrap().status, 500);
    drop(service.join());
    serve.end();
}
