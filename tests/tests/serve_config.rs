//! Configurations of `hv serve`: what is refused, where it says so, and what it says to do.

use hv_tests::refusal::{finished, refused, text};
use hv_tests::serve::{Serve, checked, probe};
use hv_tests::{Platform, guest, guest_test};
use std::net::TcpListener;
use std::path::Path;

/// Expects that a configuration is refused at a line (0: no line), with these parts.
#[track_caller]
fn bad(platform: Platform, config: &str, line: usize, parts: &[&str]) {
    let (mut command, folder) = checked(platform, config, &["--check"]);
    let file = text(&folder.path().join("hv.toml")).to_owned();
    let place = if line == 0 { format!("{file}: ") } else { format!("{file}:{line}: ") };
    refused(&mut command, &[&[place.as_str()], parts].concat());
}

/// A function `f` at `/f`, with this line as the fourth.
fn function(line: &str) -> String {
    format!("[function.f]\npath = \"/f\"\nimage = {:?}\n{line}\n", guest("fn-probe"))
}

#[guest_test]
fn what_is_no_configuration(platform: Platform) {
    bad(platform, "", 0, &["no functions", "[function.hello]"]);
    bad(platform, "listen = \n", 1, &["docs/serve.md"]);
    bad(platform, "[function.f]\npath = 5\n", 2, &["invalid type", "a string or an array of strings"]);
    bad(platform, "[function.f]\npath = \"/f\"\n[function.f]\n", 3, &["duplicate"]);
    bad(platform, &function("queue = -1"), 4, &["-1"]);
    bad(platform, &function("concurrency = \"many\""), 4, &["invalid type"]);
    let (mut command, folder) = checked(platform, "", &["--check"]);
    std::fs::remove_file(folder.path().join("hv.toml")).unwrap();
    refused(&mut command, &["hv.toml: cannot read it", "No such file"]);
}

#[guest_test]
fn unknown_keys(platform: Platform) {
    bad(platform, &function("memmory = \"16M\""), 4, &["unknown key `memmory`", "did you mean `memory`?"]);
    bad(
        platform,
        &function("wall-time = \"1s\""),
        4,
        &["unknown key `wall-time`", "did you mean `wall_time`?"],
    );
    bad(platform, "lisen = \"127.0.0.1:1\"\n", 1, &["did you mean `listen`?"]);
    bad(
        platform,
        &function("colour = \"red\""),
        4,
        &["unknown key `colour`", "the keys here are path, methods"],
    );
    bad(platform, "[functions.f]\n", 1, &["unknown key `functions`", "did you mean `function`?"]);
}

#[guest_test]
fn routes(platform: Platform) {
    let image = guest("fn-probe");
    let two = |a: &str, b: &str| {
        format!(
            "[function.a]\npath = {a}\nimage = {image:?}\n\n[function.b]\npath = {b}\nimage = {image:?}\n"
        )
    };
    bad(
        platform,
        &two("\"/x\"", "[\"/y\", \"/x\"]"),
        5,
        &["/x is already the function `a`'s", "hv.toml:1", "another"],
    );
    bad(platform, &two("\"/x/*\"", "\"/x/*\""), 5, &["/x/* is already"]);
    for (path, part) in [
        ("\"x\"", "starts with /"),
        ("\"/a*\"", "behind the last /"),
        ("\"/*/b\"", "behind the last /"),
        ("\"/a b\"", "as it stands in a request"),
        ("\"/a?b\"", "as it stands in a request"),
        ("\"/metrics\"", "hv answers this path itself"),
        ("\"/healthz\"", "move hv's own to another port with `admin`"),
        ("[]", "at least one path"),
    ] {
        bad(platform, &two(path, "\"/b\""), 2, &["path = ", part]);
    }
    for (methods, part) in
        [("[]", "no request would ever fit"), ("\"get\"", "GET, POST"), ("\"G T\"", "GET, POST")]
    {
        bad(platform, &function(&format!("methods = {methods}")), 4, &["methods = ", part]);
    }
    bad(platform, "[function.\"a b\"]\npath = \"/a\"\n", 1, &["function = \"a b\"", "letters"]);
    bad(platform, "[function.f]\nimage = \"fn-hello\"\n", 1, &["`f` has no `path`", "path = \"/hello\""]);
}

#[guest_test]
fn images_and_snapshots(platform: Platform) {
    bad(platform, "[function.f]\npath = \"/f\"\n", 1, &["`f` has no `image`", "or a snapshot"]);
    bad(platform, "[function.f]\npath = \"/f\"\nimage = \"./missing\"\n", 3, &["missing", "no such file"]);
    bad(platform, "[function.f]\npath = \"/f\"\nimage = \"fn-missing\"\n", 3, &["fn-missing", "no such"]);
    bad(
        platform,
        "[function.f]\npath = \"/f\"\nsnapshot = \"missing\"\n",
        3,
        &["no such folder", "hv snapshot"],
    );
    bad(platform, &function("snapshot = \"/tmp\""), 4, &["both `image` and `snapshot`", "remove one"]);
    let snapshot = "[function.f]\npath = \"/f\"\nsnapshot = \"/tmp\"\nmemory = \"16M\"\n";
    bad(platform, snapshot, 4, &["`memory` does not go with `snapshot`", "make the snapshot anew"]);
}

#[guest_test]
fn limits(platform: Platform) {
    for (line, parts) in [
        ("concurrency = 0", ["concurrency = 0", "1 or more"]),
        ("cpu_time = \"1m\"", ["cpu_time = 60s", "wall_time is 30s"]),
        ("wall_time = \"0s\"", ["wall_time = \"0s\"", "at least 1ms"]),
        ("wall_time = \"soon\"", ["wall_time = \"soon\"", "500ms, 5s, 2m or 1h"]),
        ("body = \"2000G\"", ["body = \"2000G\"", "at most 1024G"]),
        ("body = \"1X\"", ["body = \"1X\"", "`X` is no unit"]),
        ("memory = \"1000\"", ["memory = \"1000\"", "multiple of 4096"]),
        ("memory = 0", ["memory = \"0\"", "multiple of 4096"]),
        ("memory = \"16M..8M\"", ["memory = \"16M..8M\"", "as in 1M..16M"]),
        ("memory = \"0..8M\"", ["memory = \"0..8M\"", "as in 1M..16M"]),
        ("memory = \"1M..\"", ["memory = \"1M..\"", ""]),
        ("stack = \"8K\"", ["stack = \"8K\"", "multiple of 4096 bytes from 16K to 64G"]),
        ("stack = 20000", ["stack = \"20000\"", "multiple of 4096 bytes from 16K to 64G"]),
        ("weight = 0", ["weight", "1 to 65535"]),
        ("cap = 6401", ["cap", "1 to 6400"]),
        ("isolation = \"none\"", ["isolation = \"none\"", "instance"]),
        ("console = \"on\"", ["console = \"on\"", "log or off"]),
        ("env = { \"A=B\" = \"c\" }", ["env = \"A=B\"", "without `=`"]),
        ("concurrency = 1000000", ["1000004 virtual machines", "ulimit -n"]),
    ] {
        // What depends on the whole has no line.
        let (line_number, parts) = match line {
            "concurrency = 1000000" => (0, ["virtual machines", parts[1]]),
            _ => (4, parts),
        };
        bad(platform, &function(line), line_number, &parts);
    }
    bad(
        platform,
        &function("queue = 0\nqueue_time = \"1s\""),
        5,
        &["`queue_time` does not go with queue = 0"],
    );
    let many = format!("guests = 10\n{}", function("concurrency = 11"));
    bad(platform, &many, 5, &["concurrency = 11", "guests = 10", "lower this or raise that"]);
    bad(platform, "guests = 0\n", 1, &["guests = 0", "1 or more"]);
    bad(platform, "connections = 0\n", 1, &["connections = 0", "1 or more"]);
    for (key, parts) in [
        ("client_connections = 0", ["client_connections = 0", "1 or more"]),
        (
            "client_connections = 1025",
            ["client_connections = 1025", "the whole server has connections = 1024"],
        ),
        ("client_rate = 0", ["client_rate = 0", "1 or more"]),
        ("client_rate = 1000001", ["client_rate = 1000001", "at most 1000000"]),
    ] {
        bad(platform, &format!("{key}\n"), 1, &parts);
    }
    bad(platform, "drain = \"0s\"\n", 1, &["drain", "at least 1ms"]);
}

#[guest_test]
fn addresses(platform: Platform) {
    bad(platform, "listen = \"localhost\"\n", 1, &["listen = \"localhost\"", "127.0.0.1:8080"]);
    bad(platform, "listen = []\n", 1, &["at least one address"]);
    bad(platform, "admin = \"9090\"\n", 1, &["admin = \"9090\""]);
    bad(platform, "log_format = \"xml\"\n", 1, &["text or json"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for key in ["listen", "admin"] {
        let config = format!("{key} = \"{address}\"\n{}", function(""))
            .replace("admin", if key == "admin" { "listen = \"127.0.0.1:0\"\nadmin" } else { "admin" });
        let (mut command, _folder) = checked(platform, &config, &[]);
        refused(&mut command, &[&format!("{key} = \"{address}\""), "in use", "another port"]);
    }
    let nowhere = format!("log = \"/none/access.log\"\nlisten = \"127.0.0.1:0\"\n{}", function(""));
    let (mut command, _folder) = checked(platform, &nowhere, &[]);
    refused(&mut command, &["/none/access.log", "a folder that you may write"]);
}

#[guest_test]
fn a_guest_that_is_no_function(platform: Platform) {
    let config = |name: &str, more: &str| {
        format!("listen = \"127.0.0.1:0\"\n[function.f]\npath = \"/f\"\nimage = {:?}\n{more}\n", guest(name))
    };
    let refuse = |config: String, parts: &[&str]| {
        let (mut command, _folder) = checked(platform, &config, &[]);
        // What the guest printed comes before.
        let end = finished(&mut command).expect(2);
        let last = end.err.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("hv: error: ") && last.contains("hv.toml:2: the function `f`"),
            "{}",
            end.err
        );
        for part in parts {
            assert!(last.contains(part), "{part:?} in: {last}");
        }
    };
    refuse(config("hello", ""), &["ended before it was ready", "exit code 0"]);
    refuse(
        config("hostile", "args = \"endless-loop\"\nready_time = \"300ms\""),
        &["not ready for requests within 300ms", "serve"],
    );
    let small = config("fn-probe", "memory = \"16K\"");
    refuse(small, &["16 KiB of memory are too little"]);
}

#[guest_test]
fn the_example_of_the_documentation_is_right(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/hv.toml");
    let mut example = std::fs::read_to_string(example).unwrap();
    for name in ["fn-hello", "fn-image", "fn-json"] {
        example = example.replace(&format!("{name:?}"), &format!("{:?}", guest(name)));
    }
    std::fs::write(folder.path().join("hv.toml"), example).unwrap();
    let check = |format: &str| {
        let mut command = platform.command();
        command.args(["serve", "--check", "--format", format, "--config"]).arg(folder.path().join("hv.toml"));
        finished(&mut command).expect(0).text()
    };
    assert_eq!(
        check("text"),
        "hello: /hello\nimage: /image/*\njson: /json /json/*\n3 functions, at most 1024 requests in guests\n"
    );
    let json: serde_json::Value = serde_json::from_str(&check("json")).unwrap();
    assert_eq!(json["functions"][2]["paths"][1], "/json/*");
}

#[guest_test]
fn the_small_case_needs_no_file(platform: Platform) {
    let serve = |arguments: &[&str]| {
        let mut command = platform.command();
        command.arg("serve").args(arguments);
        command
    };
    let hello = format!("/hello={}", text(&guest("fn-hello")));
    let end = finished(&mut serve(&["--function", &hello, "--function", "/*=fn-none", "--check"])).expect(2);
    assert!(end.err.contains("--function /*=fn-none") && end.err.contains("no such"), "{}", end.err);
    refused(&mut serve(&["--function", "hello", "--check"]), &["--function", "write /path=IMAGE"]);
    let twice = ["--function", &hello, "--function", &hello, "--check"];
    refused(&mut serve(&twice), &["/hello is already", "another path"]);
    let neither = finished(&mut serve(&[])).expect(2);
    assert!(neither.err.contains("--config") && neither.err.contains("--function"), "{}", neither.err);
    let other = format!("/other={}", text(&guest("fn-hello")));
    let end = finished(&mut serve(&["--function", &hello, "--function", &other, "--check"])).expect(0);
    assert!(end.text().starts_with("fn-hello: /hello\nfn-hello-2: /other\n"), "{}", end.text());
}

#[guest_test]
fn a_check_builds_nothing_unless_it_is_told(platform: Platform) {
    let target = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str]| {
        let mut command = platform.command();
        // Guests are found from the checkout; what cargo would do is seen.
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        command.env("CARGO", "/bin/false").env("CARGO_TARGET_DIR", target.path());
        command.args(["serve", "--function", "/hello=fn-hello", "--check"]).args(arguments);
        command
    };
    refused(&mut check(&[]), &["fn-hello` is not built, and --check builds nothing", "add --build"]);
    refused(&mut check(&["--build"]), &["building the guest `fn-hello` failed"]);
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0, "nothing was made");
    std::fs::create_dir(target.path().join("guest")).unwrap();
    std::fs::copy(guest("fn-hello"), target.path().join("guest/fn-hello")).unwrap();
    let end = finished(&mut check(&[])).expect(0);
    assert!(end.err.contains("function fn-hello: ready in"), "it was tried: {}", end.err);
    let lines = "fn-hello: /hello\nfn-hello: tried as it was built before; a start would build it anew\n";
    assert!(end.text().starts_with(lines), "{}", end.text());
    let json: serde_json::Value =
        serde_json::from_str(&finished(&mut check(&["--format", "json"])).expect(0).text()).unwrap();
    assert_eq!(json["would_build"], serde_json::json!(["fn-hello"]));
}

#[guest_test]
fn arguments_come_before_the_file(platform: Platform) {
    let serve = Serve::with(platform, &probe(""), &["--log", "off", "--listen", "127.0.0.1:0"]);
    serve.get("/ok").expect(200);
    assert!(!serve.log_file().exists());
    serve.end();
}

#[guest_test]
fn equal_pages_are_for_one_tenant(platform: Platform) {
    let image = guest("fn-probe");
    let table = |name: &str, tenant: &str| {
        let path = format!("path = \"/{name}\"\nimage = {image:?}\nshare_equal_pages = true");
        format!("[function.{name}]\n{path}\n{tenant}\n")
    };
    let tenants = "[tenant.bank]\n[tenant.shop]\n";
    for (first, second) in [("tenant = \"bank\"", "tenant = \"shop\""), ("", "tenant = \"shop\"")] {
        let config = format!("{tenants}{}{}", table("a", first), table("b", second));
        let parts = ["share_equal_pages", "function a", "hv.toml:3", "functions of one tenant only"];
        bad(platform, &config, 8, &parts);
    }
    let same = format!("{tenants}{}{}", table("a", "tenant = \"shop\""), table("b", "tenant = \"shop\""));
    let (mut command, _folder) = checked(platform, &same, &["--check"]);
    match platform {
        Platform::Kvm => drop(finished(&mut command).expect(0)),
        Platform::Process => {
            refused(
                &mut command,
                &["hv.toml:3", "`a`", "equal pages cannot be shared on the platform process"],
            );
        }
    }
}

#[guest_test]
fn tenants(platform: Platform) {
    let image = guest("fn-probe");
    // The tenant's keys are from line 2 on, the function's from line 7 on.
    let both = |tenant: &str, function: &str| {
        format!("[tenant.shop]\n{tenant}\n\n[function.f]\npath = \"/f\"\nimage = {image:?}\n{function}\n")
    };
    let of_shop = |tenant: &str, function: &str| both(tenant, &format!("tenant = \"shop\"\n{function}"));
    for (tenant, parts) in [
        ("colour = 1", ["unknown key `colour`", "the keys here are weight, cap, quota"]),
        ("wheight = 1", ["unknown key `wheight`", "did you mean `weight`?"]),
        ("weight = 0", ["weight", "1 to 65535"]),
        ("cap = 6401", ["cap", "1 to 6400"]),
        ("concurrency = 0", ["concurrency = 0", "1 or more"]),
        ("quota = \"half\"", ["quota = \"half\"", "as in 50ms/100ms"]),
        ("quota = \"50ms\"", ["quota = \"50ms\"", "as in 50ms/100ms"]),
        ("quota = \"50ms/soon\"", ["quota = \"soon\"", "500ms, 5s, 2m or 1h"]),
        ("quota = \"0s/100ms\"", ["quota", "at least 1 ms"]),
        ("quota = \"1ms/1ms\"", ["quota", "10 ms to 1 hour"]),
        ("quota = \"1s/2h\"", ["quota", "10 ms to 1 hour"]),
        ("quota = \"65s/1s\"", ["quota of 65s in each 1s", "as 64 processors have"]),
    ] {
        bad(platform, &both(tenant, ""), 2, &parts);
    }
    bad(platform, &both("", "tenant = \"shp\""), 7, &["there is no such tenant", "did you mean `shop`?"]);
    bad(platform, &both("", "tenant = \"bank\""), 7, &["tenant = \"bank\"", "add a table [tenant.bank]"]);
    bad(platform, "[tenant.\"a b\"]\n", 1, &["tenant = \"a b\"", "letters"]);
    for (tenant, function, parts) in [
        ("concurrency = 4", "concurrency = 5", ["concurrency = 5", "its tenant `shop` has concurrency = 4"]),
        ("cap = 50", "cap = 51", ["cap = 51", "its tenant `shop` has cap = 50"]),
        (
            "quota = \"1s/10s\"",
            "quota = \"11ms/100ms\"",
            ["quota = \"11ms/100ms\"", "1s in each 10s; lower this"],
        ),
    ] {
        bad(platform, &of_shop(tenant, function), 8, &parts);
    }
    bad(platform, "memory = \"63M\"\n", 1, &["memory = \"63M\"", "at least 64M"]);
    let more = format!("memory = \"1G\"\n{}", of_shop("memory = \"2G\"", ""));
    bad(platform, &more, 3, &["memory = \"2G\"", "the whole server has memory = 1073741824 bytes"]);
    let parts = ["memory = \"17M\"", "its tenant `shop` has memory = 16777216 bytes for all instances"];
    bad(platform, &of_shop("memory = \"16M\"", "memory = \"17M\""), 8, &parts);
    let large = format!("memory = \"64M\"\n{}", function("memory = \"60M\""));
    bad(platform, &large, 2, &["an instance of the function `f` needs 61440 KiB", "MIN..MAX"]);
    let many = format!("guests = 10\n{}", of_shop("concurrency = 11", ""));
    bad(platform, &many, 3, &["concurrency = 11", "guests = 10", "lower this or raise that"]);
    // Tenants take no paths from each other. Functions of one tenant, and those of none, may.
    let routes = |a: &str, b: &str, of_b: &str| {
        format!(
            "[tenant.a]\n[tenant.b]\n[function.a]\npath = {a:?}\nimage = {image:?}\ntenant = \"a\"\n\n\
             [function.b]\npath = {b:?}\nimage = {image:?}\n{of_b}\n"
        )
    };
    for (a, b, line, parts) in [
        ("/x/*", "/x/y", 8, ["the path /x/y of the tenant `b`", "one of /x/*, which is the tenant `a`'s"]),
        (
            "/x/y/*",
            "/x/*",
            3,
            ["the path /x/y/* of the tenant `a`", "one of /x/*, which is the tenant `b`'s"],
        ),
        ("/*", "/x", 8, ["the path /x of the tenant `b`", "as in /b/*"]),
    ] {
        bad(platform, &routes(a, b, "tenant = \"b\""), line, &parts);
    }
    for of_b in ["tenant = \"a\"", ""] {
        let (mut command, _folder) = checked(platform, &routes("/x/*", "/x/y", of_b), &["--check"]);
        finished(&mut command).expect(0);
    }
}
