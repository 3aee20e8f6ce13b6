//! What functions reach: stores, blobs and secrets of real places, through real guests.

use hv_tests::http::Client;
use hv_tests::serve::Serve;
use hv_tests::services::{Redis, a_store_works, ask, reach, refused, text, with_folders};
use hv_tests::{Platform, Running, eventually, free_port, guest, guest_test, has_tools};
use std::fs;
use std::process::Command;
use std::thread;

/// Binding, key and value are too long, or not there.
fn a_store_refuses(serve: &Serve, limit: usize) {
    let mut client = serve.client();
    let mut why = |query: &str| text(&mut client, &format!("/why?{query}"));
    assert!(why("name=other&key=a").starts_with("Denied("));
    assert!(why("name=kv&key=").starts_with("Invalid("));
    assert!(why(&format!("name=kv&key={}", "k".repeat(513))).starts_with("Invalid("));
    let large = vec![0; limit + 1];
    ask(&mut client, "PUT", "/store?name=kv&key=l", &large, 500);
    ask(&mut client, "PUT", "/store?name=kv&key=l", &large[1..], 200);
}

#[guest_test]
fn a_store_in_a_folder(platform: Platform) {
    let config = reach("[store.kv]\nfolder = \"data\"", "store = \"kv\"\nbody = \"8M\"");
    let serve = with_folders(platform, &config, &["data"]);
    a_store_works(&serve);
    a_store_refuses(&serve, 1 << 20);
    assert_eq!(fs::read(serve.folder().join("data/a%2Fb")).unwrap(), b"first");
    assert!(
        serve.metric("hv_service_operations_total{binding=\"kv\",function=\"reach\",result=\"ok\"") >= 100.0
    );
    assert!(serve.metric("result=\"denied\"") >= 1.0);
    assert!(serve.metric("hv_guest_device_bytes_total{device=\"services\"") >= 1_000_000.0);
    serve.end();
}

#[guest_test]
fn a_store_in_redis(platform: Platform) {
    if !has_tools(&["redis-server"]) {
        return;
    }
    let redis = Redis::start(&["--requirepass", "sesame"]);
    let tables = format!(
        "[store.kv]\nurl = \"redis://127.0.0.1:{}/3\"\npassword = \"file:password\"\nprefix = \"hv[*]:\"",
        redis.port
    );
    let config = reach(&tables, "store = \"kv\"\nbody = \"8M\"");
    let serve = Serve::prepared(platform, &config, |_, place| {
        fs::write(place.join("password"), "sesame\n").unwrap();
    });
    a_store_works(&serve);
    a_store_refuses(&serve, 1 << 20);
    serve.end();
}

#[guest_test]
fn a_binding_that_cannot_be_reached_is_a_503_by_its_name(platform: Platform) {
    if !has_tools(&["redis-server"]) {
        return;
    }
    let port = free_port();
    let config = reach(
        &format!("[store.far]\nurl = \"redis://127.0.0.1:{port}\"\n[store.near]\nfolder = \"near\""),
        "store = [\"far\", \"near\"]",
    );
    let serve = with_folders(platform, &config, &["near"]);
    let mut client = serve.client();
    let get = |client: &mut Client| client.ask("GET", "/store?name=far&key=a", "", b"").unwrap();
    let answer = get(&mut client).expect(503);
    assert!(answer.text().contains("binding far cannot be reached"), "{}", answer.text());
    assert!(answer.field("retry-after").is_some());
    // A function that can do without it answers as it likes; other bindings work, and other errors stay errors.
    assert!(text(&mut client, "/why?name=far&key=a").starts_with("Unreachable(\"binding far: "));
    ask(&mut client, "PUT", "/store?name=near&key=a", b"1", 200);
    ask(&mut client, "GET", "/store?name=none&key=a", b"", 500);
    assert_eq!(serve.metric("hv_failures_total{function=\"reach\",kind=\"unreachable\"}"), 1.0);
    serve.said("binding far cannot be reached", 1);
    // It comes, goes and comes again.
    for _ in 0..2 {
        let redis = Redis::at(port, &[]);
        eventually("the store", || (get(&mut client).status == 404).then_some(()));
        drop(redis);
        eventually("its end", || (get(&mut client).status == 503).then_some(()));
    }
    serve.end();
}

#[guest_test]
fn what_was_acknowledged_is_there_after_a_crash(platform: Platform) {
    let config = reach("[store.kv]\nfolder = \"data\"", "store = \"kv\"");
    let folder = tempfile::tempdir().unwrap();
    let config = config.replace("\"data\"", &format!("{:?}", folder.path()));
    let serve = Serve::start(platform, &config);
    let process = serve.process();
    // Writers until the server is killed in the middle; each knows what it was told.
    let acknowledged: Vec<u32> = thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let mut client = serve.client();
                scope.spawn(move || {
                    let mut last = 0;
                    for n in 1.. {
                        let path = format!("/store?name=kv&key=w{writer}");
                        let value = format!("{n} ").repeat(1000);
                        match client.ask("PUT", &path, "", value.as_bytes()) {
                            Ok(answer) if answer.status == 200 => last = n,
                            _ => break,
                        }
                        if n == 20 && writer == 0 {
                            Command::new("kill").args(["-9", &process.to_string()]).status().unwrap();
                        }
                    }
                    last
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    serve.finish();
    let serve = Serve::start(platform, &config);
    let mut client = serve.client();
    for (writer, last) in acknowledged.into_iter().enumerate().filter(|(_, last)| *last > 0) {
        let value = text(&mut client, &format!("/store?name=kv&key=w{writer}"));
        let words: Vec<&str> = value.split_whitespace().collect();
        assert!(words.len() == 1000 && words.iter().all(|word| *word == words[0]), "a value is half written");
        // One more may have been stored without the writer's having heard.
        let stored = words[0].parse::<u32>().unwrap();
        assert!(stored == last || stored == last + 1, "{last} was acknowledged, and {stored} is there");
    }
    serve.end();
}

#[guest_test]
fn blobs_in_a_folder_are_streams(platform: Platform) {
    let config = reach(
        "[blob.files]\nfolder = \"blobs\"\nvalue = \"64M\"",
        "blob = \"files\"\nbody = \"64M\"\nmemory = \"8M\"\nwall_time = \"2m\"\ncpu_time = \"2m\"",
    );
    let serve = with_folders(platform, &config, &["blobs"]);
    let mut client = serve.client();
    // More than the guest's memory holds.
    let large: Vec<u8> = (0..20_000_000_u32).map(|at| (at * 7 + at / 251 + at / 65_521) as u8).collect();
    ask(&mut client, "PUT", "/blob?name=files&key=large.bin", &large, 200);
    assert!(fs::read(serve.folder().join("blobs/large.bin")).unwrap() == large);
    let all = client.ask("GET", "/blob?name=files&key=large.bin", "", b"").unwrap().expect(200);
    assert_eq!(all.field("x-size"), Some("20000000"));
    assert!(all.body == large);
    let range =
        ask(&mut client, "GET", "/blob?name=files&key=large.bin&first=12345678&end=12445678", b"", 200);
    assert!(range == large[12_345_678..12_445_678]);
    let tail = ask(&mut client, "GET", "/blob?name=files&key=large.bin&first=19999999", b"", 200);
    assert_eq!(tail, large[19_999_999..]);
    assert!(ask(&mut client, "GET", "/blob?name=files&key=large.bin&first=30000000", b"", 200).is_empty());
    ask(&mut client, "GET", "/blob?name=files&key=none", b"", 404);
    assert_eq!(text(&mut client, "/blobs?name=files"), "large.bin 20000000\n");
    // One that does not come to its end is not there.
    ask(&mut client, "PUT", "/blob?name=files&key=half&size=1000", &[0; 10], 500);
    ask(&mut client, "PUT", "/blob?name=files&key=huge&size=99999999", b"", 500);
    assert_eq!(text(&mut client, "/blobs?name=files"), "large.bin 20000000\n");
    assert_eq!(ask(&mut client, "DELETE", "/blob?name=files&key=large.bin", b"", 200), b"true\n");
    assert_eq!(ask(&mut client, "DELETE", "/blob?name=files&key=large.bin", b"", 200), b"false\n");
    let left = || fs::read_dir(serve.folder().join("blobs")).unwrap().count();
    eventually("files that were given up", || (left() == 1).then_some(()));
    serve.end();
}

#[guest_test]
fn secrets_are_for_guests_and_nobody_else(platform: Platform) {
    const SECRETS: [&str; 3] = ["opensesame-Kq8vT2", "opensesame-Lw3nR9", "opensesame-Zm5bX1"];
    let config = reach(
        "admin = \"127.0.0.1:0\"",
        "secrets = { TOKEN = \"file:token\", KEY = \"credential:key\" }\nisolation = \"request\"",
    );
    let serve = Serve::prepared(platform, &config, |command, place| {
        fs::write(place.join("token"), format!("{}\n", SECRETS[0])).unwrap();
        fs::create_dir(place.join("credentials")).unwrap();
        fs::write(place.join("credentials/key"), SECRETS[1]).unwrap();
        command.env("CREDENTIALS_DIRECTORY", place.join("credentials"));
    });
    let mut client = serve.client();
    for _ in 0..3 {
        assert_eq!(text(&mut client, "/secret?key=TOKEN"), SECRETS[0]);
        assert_eq!(text(&mut client, "/secret?key=KEY"), SECRETS[1]);
    }
    ask(&mut client, "GET", "/secret?key=OTHER", b"", 500);
    // The guest that all of them were cloned from was given none.
    assert_eq!(text(&mut client, "/early"), "NoRequest");
    // What the kernel shows of the template: the memory files of the process.
    let mut files = 0;
    for entry in fs::read_dir(format!("/proc/{}/fd", serve.process())).unwrap() {
        let path = entry.unwrap().path();
        let is_memory = fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().contains("memfd:"));
        if is_memory && let Ok(bytes) = fs::read(&path) {
            files += 1;
            for secret in SECRETS {
                // On the platform `process` guests have their memory in files, too: those of the requests.
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found || platform == Platform::Process, "a template has a secret");
            }
        }
    }
    assert!(files > 0, "the template is a memory file");
    // To look took long: the server may have closed the connection.
    let mut client = serve.client();
    // A reload reads them again.
    fs::write(serve.folder().join("token"), SECRETS[2]).unwrap();
    serve.signal(libc::SIGHUP);
    eventually("the new secret", || (text(&mut client, "/secret?key=TOKEN") == SECRETS[2]).then_some(()));
    let mut admin = Client::connect(serve.admin.unwrap()).unwrap();
    let metrics = text(&mut admin, "/metrics");
    let (log, end) = (serve.log_file(), serve.end());
    for said in
        [metrics, end.err, String::from_utf8(end.out).unwrap(), fs::read_to_string(log).unwrap_or_default()]
    {
        SECRETS.iter().for_each(|secret| assert!(!said.contains(secret), "{said}"));
    }
}

#[guest_test]
fn a_snapshot_has_no_secret(platform: Platform) {
    let place = tempfile::tempdir().unwrap();
    let snapshot = place.path().join("reach.snap");
    let mut command = platform.command();
    command.args(["snapshot", "--function"]).arg(guest("fn-reach")).arg("-o").arg(&snapshot);
    Running::new(&mut command).finish().expect(0);
    fs::write(place.path().join("token"), "opensesame-Kq8vT2").unwrap();
    let config = format!(
        "[function.reach]\npath = \"/*\"\nsnapshot = {snapshot:?}\nsecrets = {{ TOKEN = \"file:{}\" }}\n",
        place.path().join("token").display()
    );
    let serve = Serve::start(platform, &config);
    assert_eq!(serve.get("/secret?key=TOKEN").expect(200).text(), "opensesame-Kq8vT2");
    serve.end();
    for entry in fs::read_dir(&snapshot).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(10).any(|window| window == b"opensesame"));
    }
}

#[guest_test]
fn wrong_bindings_and_secrets_are_refused_in_one_line(platform: Platform) {
    let cases = [
        ("[store.a]", "", "hv.toml:1: binding = \"a\": add folder = \"data\" or url = "),
        ("[store.a]\nfolder = \"none\"", "", "hv.toml:2: folder = "),
        ("[store.a]\nfolder = \"/\"\nurl = \"redis://h\"", "", "hv.toml:2: `folder` does not go with `url`"),
        ("[store.a]\nurl = \"redis://h\"\nbytes = 1", "", "hv.toml:3: `bytes` does not go with `url`"),
        ("[store.a]\nurl = \"http://h\"", "", "hv.toml:2: url = …: write redis://HOST:PORT"),
        ("[store.a]\nurl = \"redis://u:sesame@h\"", "", "hv.toml:2: url = …: keep the password out of it"),
        ("[store.a]\nfolder = \"/\"\nvalue = \"1G\"", "", "hv.toml:3: value = "),
        ("[blob.a]", "", "hv.toml:1: binding = \"a\": add folder = \"data\""),
        ("[store.a]\nfoldr = \"/\"", "", "hv.toml:2: unknown key `foldr`; did you mean `folder`?"),
        (
            "[store.visits]\nfolder = \"/\"",
            "store = \"visit\"",
            "hv.toml:6: store = \"visit\": there is no table [store.visit]; did you mean \"visits\"?",
        ),
        ("", "blob = \"b\"", "there is no table [blob.b]; add one"),
        (
            "",
            "secrets = { A = \"sesame\" }",
            "hv.toml:5: secrets = …: write \"file:PATH\" or \"credential:NAME\"",
        ),
        ("", "secrets = { A = \"file:none\" }", "none\": No such file"),
        ("", "secrets = { A = \"credential:a\" }", "CREDENTIALS_DIRECTORY is not set"),
        ("", "secrets = { A = \"credential:../a\" }", "a credential has a name without slashes"),
        ("", "secrets = { \"A B\" = \"file:a\" }", "use 1 to 64 letters"),
        ("", "secrets = { A = \"file:large\" }", "a secret has at most 64K"),
    ];
    for (tables, keys, expected) in cases {
        let said = refused(platform, &reach(tables, keys), |place| {
            fs::write(place.join("large"), [b'x'; (64 << 10) + 1]).unwrap();
        });
        assert!(said.contains(expected), "{said}\nis not: {expected}");
        assert!(said.trim_end().lines().count() == 1 && !said.contains("sesame"), "{said}");
    }
}
