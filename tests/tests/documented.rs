//! Every command and configuration of the documents runs, as it stands, as a stranger would run it: in a folder with hv,
//! images and files, jailed, as root and as an ordinary user, on both platforms.

#[path = "documented/blocks.rs"]
mod blocks;
#[path = "documented/stranger.rs"]
mod stranger;

use blocks::{Block, Shown};
use hv_tests::{Finished, Running, has_tools, hv};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use stranger::{Stranger, User};

/// Commands that are not run here, as they stand in the documents, and why.
const NOT_RUN: [(&str, &str); 17] = [
    ("cargo test --workspace", "this test is part of it"),
    ("hv bench", "measures for minutes, without a jail; tests/bench.rs runs groups of it"),
    ("hv bench exits --quick", "as above"),
    ("hv bench clock-page", "as above"),
    ("hv bench clock-page hypercall", "as above"),
    ("hv bench --list", "needs the sources of its guests beside it; tests/bench.rs runs it"),
    ("hv bench --list block", "as above"),
    ("hv bench all --format json > old.json", "as above"),
    ("hv bench all --compare old.json --report bench.html", "as above"),
    ("hv bench density --guests 2000", "as above"),
    (
        "cargo bench -p hv-benches --no-fail-fast | grep -E '^(ratio|speed|kv|time|serve|failed)'",
        "measures for minutes",
    ),
    ("cargo install --path hv", "builds hv for release, and writes to the user's home"),
    (".ci/fuzz", "part of .ci/run"),
    (".ci/fuzz 600", "takes ten minutes"),
    (".ci/fuzz 600 block", "takes ten minutes"),
    (
        "cargo test --manifest-path fuzz/Cargo.toml --no-default-features",
        "builds a workspace of its own; part of .ci/run",
    ),
    (
        "hv completions bash > /etc/bash_completion.d/hv",
        "writes to the host's own folders; see `completions_are_printed`",
    ),
];

fn reason(line: &str) -> Option<&'static str> {
    NOT_RUN.iter().find(|(not_run, _)| *not_run == line).map(|(_, reason)| *reason)
}

/// All blocks of commands.
fn all() -> Vec<Block> {
    let mut all = blocks::console();
    all.push(blocks::table());
    all.extend(blocks::help(hv()));
    all
}

#[test]
fn what_is_not_run_is_still_in_the_documents() {
    let lines: BTreeSet<_> =
        all().into_iter().flat_map(|block| block.commands).map(|command| command.line).collect();
    let gone: Vec<_> = NOT_RUN.iter().filter(|(line, _)| !lines.contains(*line)).collect();
    assert!(gone.is_empty(), "remove these: {gone:#?}");
}

/// A configuration of a document is one of hv (run below, by the console blocks or here), or of a guest's project.
#[test]
fn every_configuration_is_known() {
    let here = || Stranger::new(User::Own, "process");
    for document in blocks::documents() {
        for text in blocks::fenced(&document, "toml") {
            if text.contains("[package]") {
                continue;
            }
            assert!(text.contains("[function."), "{}: what is this?\n{text}", document.display());
            let stranger = here();
            fs::write(stranger.folder().join("hv.toml"), &text).unwrap();
            // The files that the example of TLS names.
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new(vec!["example.org".to_owned()]).unwrap();
            let put = |name, text| fs::write(stranger.folder().join(name), text).unwrap();
            put("example.org.pem", certificate.self_signed(&key).unwrap().pem());
            put("example.org.key", key.serialize_pem());
            // And those of secrets, stores and blobs.
            put("redis.password", "secret".into());
            for name in ["token", "shop.token", "archive.id", "archive.key"] {
                put(name, "secret".into());
            }
            put("otlp.header", "Bearer secret".into());
            put("api.token", "a-token-that-nobody-guesses".into());
            for folder in ["visits", "pictures", "state", "carts"] {
                fs::create_dir(stranger.folder().join(folder)).unwrap();
            }
            serve(&stranger, "hv serve --config hv.toml", &[]);
        }
    }
}

// ---------------------------------------------------------------- whoever runs them, on what

/// Users and platforms that there are here.
fn ways() -> Vec<(User, &'static str)> {
    if !has_tools(&["unshare", "nsenter", "setpriv", "ip", "curl", "bash"]) {
        return Vec::new();
    }
    let mut ways = Vec::new();
    for user in [User::Own, User::Ordinary] {
        for platform in ["kvm", "process"] {
            let tried = Running::new(&mut Stranger::new(user, platform).shell("hv run hello")).finish();
            match tried.code() {
                Some(0) => ways.push((user, platform)),
                // Namespaces that may not be made, a device that may not be opened.
                _ => hv_tests::skip(format_args!("needs {platform} for {user:?}: {}", tried.err.trim())),
            }
        }
    }
    ways
}

#[test]
fn every_command_runs() {
    let mut seen = BTreeSet::new();
    for (user, platform) in ways() {
        for block in all() {
            // The project of the guide is a test of its own.
            if block.commands.iter().any(|command| command.line == "cargo build --release") {
                continue;
            }
            println!("== {} ({user:?}, {platform})", block.place);
            run_block(&Stranger::new(user, platform), &block.commands, false);
            // By absolute paths as well: whoever it is, hv opens the same files.
            if user == User::Own && seen.insert((platform, format!("{:?}", block.commands))) {
                run_block(&Stranger::new(user, platform), &block.commands, true);
            }
        }
    }
}

/// Runs the commands of a block one after the other; those after a server beside it.
fn run_block(stranger: &Stranger, commands: &[Shown], absolute: bool) {
    let mut commands = commands.iter().filter(|command| reason(&command.line).is_none()).peekable();
    while let Some(command) = commands.next() {
        let line = as_typed(&command.line);
        let line = if absolute { stranger.absolute(&line) } else { line };
        let mut clients = Vec::new();
        while let Some(client) = commands.next_if(|next| next.line.starts_with("curl ")) {
            clients.push(client);
        }
        println!("   {line}");
        prepare(stranger, &line);
        let controlled = controlled(stranger, &line);
        if line.starts_with("hv serve") && !line.contains("--check") {
            serve(stranger, &line, &clients);
        } else {
            once(stranger, &line, &clients);
        }
        if let Some(guest) = controlled {
            guest.end(&[0, 143]);
        }
    }
}

/// The guest that a command is about.
fn controlled(stranger: &Stranger, line: &str) -> Option<stranger::Live> {
    let words: Vec<_> = line.split(' ').collect();
    let ["hv", "set" | "show" | "pause" | "resume" | "stop", socket, ..] = words[..] else { return None };
    let path = stranger.folder().join(socket);
    let guest = stranger.start(&format!("hv run my-guest --vcpus 1..4 --memory 256M --control {socket}"));
    hv_tests::eventually("the control socket", || UnixStream::connect(&path).ok());
    Some(guest)
}

/// What `cargo run --release --` runs is hv.
fn as_typed(line: &str) -> String {
    match line.strip_prefix("cargo run --release -- ") {
        Some(arguments) => format!("hv {arguments}"),
        None => line.to_owned(),
    }
}

/// A snapshot that a command restores is made beforehand as an example of `hv snapshot --help` makes it.
fn prepare(stranger: &Stranger, line: &str) {
    let words: Vec<_> = line.split(' ').collect();
    let ["hv", "restore", snapshot, ..] = words[..] else { return };
    let name = Path::new(snapshot).file_name().unwrap().to_str().unwrap();
    if !stranger.folder().join(name).exists() {
        let blocks = blocks::help(hv());
        let examples = blocks.iter().flat_map(|block| &block.commands);
        let output = format!("-o {name} ");
        let example = examples.map(|example| &example.line).find(|line| line.contains(&output));
        let example = example.unwrap_or_else(|| panic!("no example of --help makes {name}"));
        // To its end: its guest may say that it listens before it is saved.
        assert!(stranger.start(example).succeeds(), "{example}");
    }
    if line.contains("copy-of-data.img") {
        let copied = Command::new("cp")
            .args(["-p", "data.img", "copy-of-data.img"])
            .current_dir(stranger.folder())
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "a copy of data.img");
    }
}

/// A server: its clients, reloads, its end.
fn serve(stranger: &Stranger, line: &str, clients: &[&Shown]) {
    let mut live = stranger.start(line);
    live.wait_for("listening on", 1);
    ask(stranger, &live, clients);
    live.running.signal(libc::SIGHUP);
    live.wait_for("0 functions deployed", 1);
    let config = line.split(' ').skip_while(|word| *word != "--config").nth(1);
    if let Some(config) = config {
        let file = stranger.folder().join(config);
        let text = fs::read_to_string(&file).unwrap();
        let image = stranger.folder().join("data.img");
        let added = |options: &str| {
            format!(
                "{text}\n[function.added]\npath = \"/added\"\nimage = \"fn-hello\"\ndisks = \"{}{options}\"\n",
                image.display()
            )
        };
        fs::write(&file, added(",ro")).unwrap();
        live.running.signal(libc::SIGHUP);
        live.wait_for("1 functions deployed", 1);
        fs::write(&file, added(",ro,sector=4096")).unwrap();
        live.running.signal(libc::SIGHUP);
        live.wait_for("1 functions deployed", 2);
        fs::write(&file, text).unwrap();
    }
    ask(stranger, &live, clients);
    live.end(&[0]);
}

/// Anything else: to its end, or until it has run for a while.
fn once(stranger: &Stranger, line: &str, clients: &[&Shown]) {
    let tool = line.split('|').nth(1).and_then(|after| after.split_whitespace().next());
    if tool.is_some_and(|tool| !has_tools(&[tool])) {
        return;
    }
    if line.contains("tap=") && !stranger.start("test -w /dev/net/tun").succeeds() {
        hv_tests::skip("needs a /dev/net/tun that this user may open");
        return;
    }
    let live = stranger.start(line);
    ask(stranger, &live, clients);
    let codes: &[i32] = match line {
        line if line.contains("crash -- ") => &[101],
        // Guests cannot run on every host; it says so.
        line if line.starts_with("hv doctor") => &[0, 1],
        // Asked to end, guests do so, or are ended.
        _ => &[0, 143],
    };
    live.end(codes);
}

/// What clients do, and that they see what the document shows.
fn ask(stranger: &Stranger, live: &stranger::Live, clients: &[&Shown]) {
    for client in clients {
        let quiet = client.line.replacen("curl ", "curl -sS --max-time 60 ", 1);
        let Finished { status, out, err } = Running::new(&mut stranger.beside(live, &quiet)).finish();
        assert!(status.success(), "{}: {err}: {}", client.line, live.said());
        let wanted: String = client.output.iter().map(|line| format!("{line}\n")).collect();
        if !wanted.is_empty() {
            assert_eq!(String::from_utf8_lossy(&out), wanted, "{}", client.line);
        }
    }
}

#[test]
fn completions_are_printed() {
    let printed = Running::new(Command::new(hv()).args(["completions", "bash"])).finish().expect(0);
    assert!(printed.text().contains("complete -F _hv"), "{}", printed.text());
}

// ---------------------------------------------------------------- the guide's project

/// Writes the project of docs/guests.md as the guide says, with the path to the SDK that this checkout has.
fn project(folder: &Path) {
    let guide = blocks::workspace().join("docs/guests.md");
    let manifest = blocks::fenced(&guide, "toml").into_iter().find(|text| text.contains("[package]"));
    let sdk = blocks::workspace().join("guest-sdk/sdk");
    let manifest = manifest.expect("the guide has a Cargo.toml");
    assert!(manifest.contains("\"../hv/guest-sdk/sdk\""), "{manifest}");
    let manifest = manifest.replace("../hv/guest-sdk/sdk", sdk.to_str().unwrap());
    let sources = blocks::fenced(&guide, "rust");
    let source = |part: &str| sources.iter().find(|text| text.contains(part)).expect(part);
    fs::create_dir_all(folder.join("src")).unwrap();
    // It stands below the workspace of this checkout, and is none of it.
    fs::write(folder.join("Cargo.toml"), manifest + "\n[workspace]\n").unwrap();
    fs::write(folder.join("build.rs"), source("cargo::rustc-link-arg")).unwrap();
    fs::write(folder.join("src/main.rs"), source("net::serve(stack")).unwrap();
    // The versions that this checkout was tested with.
    fs::copy(blocks::workspace().join("guest-sdk/Cargo.lock"), folder.join("Cargo.lock")).unwrap();
}

#[test]
fn the_guides_project_is_checked_built_and_run() {
    let target = stranger::target("documented");
    // Kept from run to run with what was built of it.
    let folder = target.join("my-guest");
    project(&folder);
    for arguments in [&["check", "--all-targets"][..], &["build", "--release"]] {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&folder).arg("--quiet").args(arguments).env("CARGO_TARGET_DIR", &target);
        // The guide's profile optimises across all crates, which takes minutes; this shows that it builds and runs.
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        let built = cargo.output().expect("cargo runs");
        assert!(built.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&built.stderr));
    }
    let guide = blocks::console();
    let is_build = |command: &Shown| command.line == "cargo build --release";
    let block = guide.iter().find(|block| block.commands.iter().any(is_build)).expect("the guide builds it");
    for (user, platform) in ways() {
        let stranger = Stranger::new(user, platform);
        fs::create_dir_all(stranger.folder().join("target/release")).unwrap();
        let built = target.join("release/my-guest");
        fs::copy(built, stranger.folder().join("target/release/my-guest")).unwrap();
        let rest: Vec<_> = block.commands.iter().filter(|command| !is_build(command)).cloned().collect();
        let run = rest.first().expect("it is run");
        let live = stranger.start(&run.line);
        for shown in &run.output {
            assert!(live.said().contains(shown), "{shown}: {}", live.said());
        }
        for client in &rest[1..] {
            let mut client = stranger.beside(&live, &client.line);
            let mut client = Running::new(&mut client);
            use std::io::{BufRead, BufReader, Write};
            client.child.stdin.take().unwrap().write_all(b"echo this\r\n").unwrap();
            let mut line = String::new();
            BufReader::new(client.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line.trim(), "echo this");
        }
        live.end(&[0]);
    }
}
