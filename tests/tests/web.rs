//! The `web` guest, asked by curl and wrk for the files of a folder, of a FAT
//! image and of an ext4 image.

use hv_tests::{Platform, Running, Service, guest_test, has_tools, system_tool, tool};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The files by their paths.
type Files = BTreeMap<String, Vec<u8>>;

/// Bytes that look random, and are the same in every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

const BIG: &str = "/big/random.bin";

fn site(root: &Path) -> Files {
    let mut files = Files::new();
    let mut put = |path: &str, bytes: &[u8]| files.insert(path.to_owned(), bytes.to_vec());
    put("/index.html", b"<!DOCTYPE html><h1>home</h1>\n");
    put("/style.css", b"h1 { color: teal }\n");
    put("/script.js", b"console.log(1)\n");
    put("/data.json", b"{}\n");
    put("/page.HTM", b"<p>old\n");
    put("/empty.txt", b"");
    put("/no-ending", b"bytes");
    put("/picture.png", &noise(5000));
    put("/picture.svg", b"<svg/>");
    put(BIG, &noise(3 << 20));
    put("/big/just over small.bin", &noise((16 << 10) + 1));
    put("/big/just small.bin", &noise(16 << 10));
    put("/docs/index.html", b"<h1>docs</h1>\n");
    put("/docs/with space.md", b"# space\n");
    put("/docs/100%25 & more; #1 +x.txt", b"encoded\n");
    put("/docs/ünïcödé 猫.txt", "猫\n".as_bytes());
    put("/docs/a/b/c/d/e/f/g/deep.txt", b"deep\n");
    put(&format!("/docs/{}.txt", "long name ".repeat(20)), b"long\n");
    put("/list/a.txt", b"a\n");
    put("/list/B & c.txt", b"b\n");
    put("/list/sub folder/x.txt", b"x\n");
    for n in 0..60 {
        put(&format!("/many/file {n}.txt"), &noise(n * 997));
    }
    for (path, bytes) in &files {
        let path = root.join(&path[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    files
}

/// What serves a site, and the disk that it does it from.
struct Web {
    service: Service,
    _disk: TempDir,
}

impl Web {
    /// `disk` is made of the folder by `make`, which gets the image's path.
    fn of(platform: Platform, files: &mut Files, make: impl FnOnce(&TempDir, &str) -> String) -> Web {
        Web::with(platform, files, &[], make)
    }

    fn with(
        platform: Platform,
        files: &mut Files,
        options: &[&str],
        make: impl FnOnce(&TempDir, &str) -> String,
    ) -> Web {
        let (root, disk) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        *files = site(root.path());
        let image = disk.path().join("disk.img");
        let value = make(&root, image.to_str().unwrap());
        let service = Service::start(platform, "web", &[options, &["--disk", &value]].concat(), "80");
        Web { service, _disk: disk }
    }

    /// From a folder of the host.
    fn folder(platform: Platform, files: &mut Files) -> Option<Web> {
        if !has_tools(&["curl"]) {
            return None;
        }
        Some(Web::of(platform, files, |root, _| root.path().to_str().unwrap().to_owned()))
    }

    /// From a FAT image.
    fn fat(platform: Platform, files: &mut Files) -> Option<Web> {
        if !has_tools(&["curl", "mkfs.fat", "mcopy"]) {
            return None;
        }
        Some(Web::of(platform, files, |root, image| {
            tool(system_tool("mkfs.fat").args(["-C", image, "40000"]));
            let mut copy = Command::new("mcopy");
            copy.env("MTOOLS_SKIP_CHECK", "1").env("LC_ALL", "C.UTF-8").args(["-s", "-i", image]);
            copy.args(fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path())).arg("::/");
            tool(&mut copy);
            image.to_owned()
        }))
    }

    /// From an ext4 image.
    fn ext4(platform: Platform, files: &mut Files) -> Option<Web> {
        if !has_tools(&["curl", "mkfs.ext4"]) {
            return None;
        }
        Some(Web::of(platform, files, |root, image| {
            tool(system_tool("mkfs.ext4").args(["-q", "-F", "-d"]).arg(root.path()).args([image, "40M"]));
            format!("{image},ro")
        }))
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{}", self.service.port, encode(path))
    }

    /// Runs curl on a path; status, head, and body.
    #[track_caller]
    fn get(&self, path: &str, options: &[&str]) -> Response {
        self.raw(&encode(path), options)
    }

    /// As [`get`](Self::get), with the path as it is.
    #[track_caller]
    fn raw(&self, path: &str, options: &[&str]) -> Response {
        let head = tempfile::NamedTempFile::new().unwrap();
        let mut curl = curl();
        curl.arg("--dump-header").arg(head.path()).args(options);
        let end = tool(curl.arg(format!("http://127.0.0.1:{}{path}", self.service.port)));
        let head = fs::read_to_string(head.path()).unwrap();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Response { status, head, body: end.out }
    }
}

fn curl() -> Command {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--path-as-is",
        "--globoff",
        "--noproxy",
        "*",
        "--max-time",
        "100",
    ]);
    curl
}

struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    #[track_caller]
    fn expect(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{}", self.head);
        self
    }
}

/// A path for a URL.
fn encode(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// All that must hold for every kind of disk.
fn serves_everything(web: Web, files: &Files, kind: &str) {
    for (path, bytes) in files {
        let whole = web.get(path, &[]).expect(200);
        assert!(whole.body == *bytes, "{path} on {kind} is different");
        assert_eq!(whole.field("content-length"), Some(bytes.len().to_string().as_str()), "{path}");
        let head = web.get(path, &["--head"]).expect(200);
        assert_eq!(head.field("content-length"), whole.field("content-length"), "{path}");
        assert_eq!(head.field("content-type"), whole.field("content-type"), "{path}");
    }
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/page.HTM", "text/html; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/script.js", "text/javascript; charset=utf-8"),
        ("/data.json", "application/json"),
        ("/empty.txt", "text/plain; charset=utf-8"),
        ("/picture.png", "image/png"),
        ("/picture.svg", "image/svg+xml"),
        ("/no-ending", "application/octet-stream"),
        (BIG, "application/octet-stream"),
    ] {
        assert_eq!(web.get(path, &[]).expect(200).field("content-type"), Some(kind), "{path}");
    }
    folders(&web, files);
    absent(&web);
    ranges(&web, files);
    web.service.end();
}

fn folders(web: &Web, files: &Files) {
    assert_eq!(web.get("/", &[]).expect(200).body, files["/index.html"]);
    assert_eq!(web.get("/docs/", &[]).expect(200).body, files["/docs/index.html"]);
    let moved = web.get("/docs", &[]).expect(301);
    assert!(moved.field("location").is_some_and(|to| to.ends_with("/docs/")), "{}", moved.head);
    assert_eq!(web.get("/docs", &["--location"]).body, files["/docs/index.html"]);

    let list = web.get("/list/", &[]).expect(200);
    assert_eq!(list.field("content-type"), Some("text/html; charset=utf-8"));
    let page = String::from_utf8(list.body).unwrap();
    for part in ["a.txt", "B &amp; c.txt", "sub folder/", "href=\"../\"", "2 bytes"] {
        assert!(page.contains(part), "{part} in {page}");
    }
    // Every link of it leads somewhere.
    let links: Vec<_> = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(links.len(), 4, "{links:?}");
    for link in links {
        web.raw(&format!("/list/{link}"), &["--no-path-as-is"]).expect(200);
    }
    let many = String::from_utf8(web.get("/many/", &[]).expect(200).body).unwrap();
    assert!((0..60).all(|n| many.contains(&format!("file {n}.txt"))), "{many}");
}

fn absent(web: &Web) {
    for path in
        ["/nothing", "/docs/nothing.txt", "/index.html/", "/style.css/x", "/many/file 99.txt", "/%", "//x"]
    {
        web.get(path, &[]).expect(404);
    }
    for path in [
        "/../etc/passwd",
        "/docs/../../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/docs/%2e%2e%2f%2e%2e%2fetc/passwd",
        "/..%5cetc",
        "/docs/..",
        "/.../../..",
    ] {
        let status = web.raw(path, &[]).status;
        assert!((400..500).contains(&status), "{path}: {status}");
    }
    for path in ["/%", "/%zz", "/%ff", "/a%00b"] {
        web.raw(path, &[]).expect(400);
    }
    web.get("/style.css?v=2", &[]).expect(404);
    web.raw("/style.css?v=2", &[]).expect(200);
    let post = web.get("/", &["--data", "x=1"]).expect(405);
    assert!(post.field("allow").is_some_and(|methods| methods.contains("GET")), "{}", post.head);
    web.get("/", &["--request", "DELETE"]).expect(405);
}

fn ranges(web: &Web, files: &Files) {
    for path in [BIG, "/picture.png", "/big/just over small.bin"] {
        let bytes = &files[path];
        let len = bytes.len();
        for (asked, start, end) in [
            ("0-0", 0, 1),
            ("0-99", 0, 100),
            ("1000-1999", 1000, 2000),
            ("511-512", 511, 513),
            ("4000-", 4000, len),
            ("-1", len - 1, len),
            ("-700", len - 700, len),
            ("-99999999", 0, len),
            ("100-99999999", 100, len),
        ] {
            let part = web.get(path, &["--range", asked]).expect(206);
            assert!(part.body == bytes[start..end], "{path}: {asked}");
            let place = format!("bytes {start}-{}/{len}", end - 1);
            assert_eq!(part.field("content-range"), Some(place.as_str()));
            assert_eq!(part.field("content-length"), Some((end - start).to_string().as_str()));
        }
        let behind = format!("{len}-");
        for asked in [behind.as_str(), "99999999-", "99999999-100000000", "-0"] {
            let refused = web.get(path, &["--range", asked]).expect(416);
            assert_eq!(refused.field("content-range"), Some(format!("bytes */{len}").as_str()), "{asked}");
        }
        // A range that makes no sense is ignored.
        for asked in ["Range: bytes=5-1", "Range: lines=1-2", "Range: bytes=x-y", "Range: bytes=1-2,4-5"] {
            assert!(web.get(path, &["--header", asked]).expect(200).body == *bytes, "{asked}");
        }
    }
    web.get("/empty.txt", &["--range", "0-0"]).expect(416);
}

#[guest_test]
fn a_folder(platform: Platform) {
    let mut files = Files::new();
    if let Some(web) = Web::folder(platform, &mut files) {
        serves_everything(web, &files, "a folder");
    }
}

#[guest_test]
fn a_fat_image(platform: Platform) {
    let mut files = Files::new();
    if let Some(web) = Web::fat(platform, &mut files) {
        serves_everything(web, &files, "FAT");
    }
}

#[guest_test]
fn an_ext4_image(platform: Platform) {
    let mut files = Files::new();
    if let Some(web) = Web::ext4(platform, &mut files) {
        serves_everything(web, &files, "ext4");
    }
}

#[guest_test]
fn fat_ignores_the_case_of_names_and_ext4_does_not(platform: Platform) {
    let mut files = Files::new();
    for web in [Web::folder(platform, &mut files), Web::fat(platform, &mut files)].into_iter().flatten() {
        assert_eq!(web.get("/DOCS/INDEX.HTML", &[]).expect(200).body, files["/docs/index.html"]);
    }
    if let Some(web) = Web::ext4(platform, &mut files) {
        web.get("/DOCS/INDEX.HTML", &[]).expect(404);
    }
}

#[guest_test]
fn connections_are_kept(platform: Platform) {
    let mut files = Files::new();
    let Some(web) = Web::folder(platform, &mut files) else { return };
    let connections = |options: &[&str]| {
        let mut curl = curl();
        curl.args(options).args(["--write-out", "%{num_connects}\n"]);
        for path in ["/", "/style.css", BIG, "/nothing", "/docs", "/list/"] {
            curl.args(["--output", "/dev/null"]).arg(web.url(path));
        }
        let text = tool(&mut curl).text();
        text.lines().map(|line| line.parse::<u32>().unwrap()).sum::<u32>()
    };
    assert_eq!(connections(&[]), 1);
    assert_eq!(connections(&["--head"]), 1);
    assert_eq!(connections(&["--header", "Connection: close"]), 6);
    assert_eq!(connections(&["--http1.0"]), 6);
    web.service.end();
}

#[guest_test]
fn many_at_once(platform: Platform) {
    let mut files = Files::new();
    let two = |files: &mut Files| {
        let from_folder = |root: &TempDir, _: &str| root.path().to_str().unwrap().to_owned();
        has_tools(&["curl"]).then(|| Web::with(platform, files, &["--vcpus", "2"], from_folder))
    };
    let webs = [Web::folder(platform, &mut files), Web::ext4(platform, &mut files), two(&mut files)];
    for web in webs.into_iter().flatten() {
        let paths: Vec<&String> = files.keys().collect();
        let all: Vec<_> = (0..32)
            .map(|n| {
                let path = if n % 4 == 0 { BIG } else { paths[n * 7 % paths.len()] };
                (path, Running::new(curl().arg("--fail").arg(web.url(path)).stdin(Stdio::null())))
            })
            .collect();
        for (path, running) in all {
            assert!(running.finish().expect(0).out == files[path], "{path} is different");
        }
        web.service.end();
    }
}

/// Loads the server with wrk; no answer may be an error.
fn load(web: &Web, path: &str) {
    let mut wrk = Command::new("wrk");
    let text =
        tool(wrk.args(["-t", "1", "-c", "64", "-d", "2", "--timeout", "30"]).arg(web.url(path))).text();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{path}:\n{text}");
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")).expect("a summary");
    assert_ne!(requests.0, "0", "{path}:\n{text}");
}

#[guest_test]
fn wrk_finds_no_errors(platform: Platform) {
    if !has_tools(&["wrk"]) {
        return;
    }
    let mut files = Files::new();
    for web in
        [Web::folder(platform, &mut files), Web::fat(platform, &mut files), Web::ext4(platform, &mut files)]
            .into_iter()
            .flatten()
    {
        for path in ["/", BIG] {
            load(&web, path);
        }
        // It is as well as before.
        assert!(web.get(BIG, &[]).expect(200).body == files[BIG]);
        web.service.end();
    }
}

#[guest_test]
fn without_a_disk_or_a_network_it_says_what_is_missing(platform: Platform) {
    let end = platform.ran("web", &["--net", "user"], &[]).expect(1);
    assert!(end.err.contains("--disk"), "{}", end.err);
    let folder = TempDir::new().unwrap();
    let end = platform.ran("web", &["--disk", folder.path().to_str().unwrap()], &[]).expect(1);
    assert!(end.err.contains("--net user") && end.err.contains("--publish"), "{}", end.err);
}

#[guest_test]
fn what_cannot_be_read_is_never_half_of_a_good_answer(platform: Platform) {
    if !has_tools(&["curl", "mkfs.fat", "mcopy"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (file, image) = (folder.path().join("big"), folder.path().join("disk.img"));
    fs::write(&file, noise(6 << 20)).unwrap();
    let image_text = image.to_str().unwrap();
    tool(system_tool("mkfs.fat").args(["-C", image_text, "16000"]));
    tool(Command::new("mcopy").args(["-i", image_text]).arg(&file).arg("::"));
    let service = Service::start(platform, "web", &["--disk", &format!("{image_text},ro")], "80");
    let get = || {
        let url = format!("http://127.0.0.1:{}/big", service.port);
        Command::new("curl").args(["-s", "-w", "%{http_code}", "-o", "/dev/null", &url]).output().unwrap()
    };
    let end = get();
    assert!(end.status.success() && end.stdout == b"200");
    // The disk becomes shorter than the guest was told: its reads of what is gone fail.
    let disk = fs::File::options().write(true).open(&image).unwrap();
    disk.set_len(4 << 20).unwrap();
    let end = get();
    assert!(!end.status.success(), "a body that was cut was taken for a whole one");
    assert_eq!(end.stdout, b"200");
    disk.set_len(64 << 10).unwrap();
    let end = get();
    assert!(end.status.success() && end.stdout == b"500", "{}", String::from_utf8_lossy(&end.stdout));
    service.guest.signal(libc::SIGTERM);
    let end = service.guest.finish().expect(0);
    let said = end.text() + &end.err;
    assert!(said.contains("connection is reset"), "{said}");
}
