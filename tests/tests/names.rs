//! Names and arguments with control characters: whatever hv says of them, it says in lines of its own.

use hv_tests::refusal::{finished, text};
use hv_tests::{can_run_guests, command, guest};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Colours the terminal, forges a line, and turns the direction of writing round.
const HOSTILE: &str = "no\u{1b}[31m such\nhv: error: forged\r\u{9b}2J\u{202e}gpj\u{7f}";
const FORGED: &str = "hv: error: forged";

/// Expects that what a command says has no control characters but the ends of its lines, and no forged line.
#[track_caller]
fn clean(command: &mut Command) -> String {
    let end = finished(command);
    for (where_, said) in [("error", &end.err), ("output", &end.text())] {
        let bad = said.chars().find(|c| *c != '\n' && c.is_control() || matches!(c, '\u{202a}'..='\u{202e}'));
        assert_eq!(bad, None, "on standard {where_} of {command:?}:\n{said}");
        assert!(!said.lines().any(|line| line.starts_with(FORGED)), "{command:?}:\n{said}");
    }
    end.err
}

/// As [`clean`], of a refusal.
#[track_caller]
fn refused(arguments: &[&OsStr]) -> String {
    let said = clean(command().args(arguments));
    assert!(said.contains("error: "), "{arguments:?} was not refused:\n{said}");
    said
}

fn with(before: &str, name: &OsStr) -> OsString {
    let mut text = OsString::from(before);
    text.push(name);
    text
}

/// A folder with a file, a folder and a socket of hostile names, and bad content.
fn hostile_folder(folder: &TempDir, name: &OsStr) -> PathBuf {
    let inner = folder.path().join(name);
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join(name), "no image, no snapshot, no configuration = [").unwrap();
    drop(UnixListener::bind(folder.path().join("socket")).unwrap());
    fs::rename(folder.path().join("socket"), inner.join(with("socket ", name))).unwrap();
    inner
}

#[test]
fn hostile_names_and_arguments_are_escaped_wherever_they_are_printed() {
    let no_text = OsString::from_vec(b"no\xff\x1b[31m\nhv: error: forged".to_vec());
    for name in [OsStr::new(HOSTILE), &no_text] {
        let folder = TempDir::new().unwrap();
        let there = hostile_folder(&folder, name);
        let file = there.join(name);
        let hello = guest("hello");
        let run = |option: &str, value: &OsStr| {
            refused(&["run".as_ref(), hello.as_ref(), option.as_ref(), value]);
        };
        let both = |a: &str, b: &OsStr| refused(&[a.as_ref(), b]);

        // What is no command and no option.
        refused(&[name]);
        refused(&[&with("--", name)]);
        both("run", &with("--", name));
        refused(&["run".as_ref(), hello.as_ref(), &with("--memory=16M", name)]);
        refused(&["run".as_ref(), hello.as_ref(), name]);
        both("completions", name);
        both("bench", name);
        refused(&["bench".as_ref(), "--compare".as_ref(), file.as_ref()]);
        refused(&["bench".as_ref(), "--rounds".as_ref(), name]);
        // Images and snapshots that are none, and are not there.
        for image in
            [name.to_owned(), with("/", name), with("./", name), there.clone().into(), file.clone().into()]
        {
            both("run", &image);
            both("restore", &image);
            both("snapshot", &with("-o", &image));
            refused(&["snapshot".as_ref(), &image, "-o".as_ref(), "x".as_ref()]);
            refused(&["serve".as_ref(), "--function".as_ref(), &with("/x=", &image)]);
            both("serve", &with("--config=", &image));
        }
        refused(&["snapshot".as_ref(), hello.as_ref(), "-o".as_ref(), there.as_ref()]);
        refused(&["serve".as_ref(), "--function".as_ref(), name]);
        for command in ["show", "pause", "resume", "stop"] {
            refused(&[command.as_ref(), there.as_ref()]);
        }
        refused(&["set".as_ref(), there.as_ref(), "vcpus=1".as_ref()]);
        refused(&["set".as_ref(), "control".as_ref(), name]);
        // Values of options.
        for option in ["--memory", "--vcpus", "--net", "--publish", "--timeout", "--weight", "--cap", "--env"]
        {
            run(option, name);
        }
        for option in ["--platform", "--format", "--disk", "--pcap", "--control"] {
            run(option, &with("/none/", name));
        }
        run("--net", &with("tap=", name));
        for option in [",sector=", ",format=", ",ro,ro"] {
            let mut value = there.clone().into_os_string();
            value.push(option);
            value.push(name);
            run("--disk", &value);
        }
        run("--disk", file.as_ref());
        let listen = ["serve", "--function", "/x=hello", "--listen"].map(OsStr::new);
        refused(&[&listen[..], &[name]].concat());
        // Its environment.
        clean(command().arg("run").arg("--help").env("HV_PLATFORM", name));
        clean(command().arg("run").arg(&hello).env("HV_PLATFORM", name));
        clean(command().arg("doctor").env("TMPDIR", &there));
        // The folder that it is in.
        clean(command().arg("run").arg("none").current_dir(&there));
    }
}

#[test]
fn hostile_configurations_are_quoted_in_a_line() {
    let folder = TempDir::new().unwrap();
    let inner = hostile_folder(&folder, OsStr::new(HOSTILE));
    let file = inner.join(HOSTILE);
    let value = HOSTILE.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect::<String>();
    let image = guest("fn-hello");
    let image = text(&image);
    for config in [
        format!("\"{value}\" = 1"),
        format!("listen = \"{value}\""),
        format!("log = \"{value}/x\"\n[function.a]\npath = \"/\"\nimage = \"{image}\""),
        format!("[function.\"{value}\"]\npath = \"/\""),
        format!("[function.a]\npath = \"{value}\"\nimage = \"{image}\""),
        format!("[function.a]\npath = \"/\"\nimage = \"{value}\""),
        format!("[function.a]\npath = \"/\"\nsnapshot = \"{value}\""),
        format!("[function.a]\npath = \"/\"\nimage = \"{image}\"\nmemory = \"{value}\""),
        format!("[function.a]\npath = \"/\"\nimage = \"{image}\"\ndisks = \"{value}\""),
        format!("[function.a]\npath = \"/\"\nimage = \"{image}\"\n\"{value}\" = 1"),
        "key = \u{1b}[31m".into(),
    ] {
        fs::write(&file, &config).unwrap();
        for check in [true, false] {
            let mut serve = command();
            serve.arg("serve").arg("--config").arg(&file);
            if check {
                serve.arg("--check");
            }
            let said = clean(&mut serve);
            // Whether the log can be written is not looked at beforehand.
            assert!(
                check && said.is_empty() || said.starts_with("hv: error: ") && said.lines().count() == 1,
                "{config}\n{said}"
            );
        }
    }
}

#[test]
fn what_a_folder_cannot_show_is_left_out_with_a_warning_in_a_line() {
    if !can_run_guests() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let inner = hostile_folder(&folder, OsStr::new(HOSTILE));
    fs::write(inner.join("readme"), "there").unwrap();
    let said = clean(command().arg("run").arg(guest("hello")).arg("--disk").arg(&inner));
    assert!(said.contains("2 entries are left out: ") && said.lines().count() == 1, "{said}");
}

/// Source files below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension.as_bytes() == b"rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_message_of_hv_prints_a_path_as_it_is() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hv");
    let mut files = Vec::new();
    sources(&top, &mut files);
    assert!(files.len() > 100);
    for file in files {
        let name = text(file.strip_prefix(&top).unwrap());
        let source = fs::read_to_string(&file).unwrap();
        let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
        if name != "host/src/escape.rs"
            && name != "core/build.rs"
            && !name.split('/').any(|part| part.starts_with("tests"))
        {
            assert!(!source.contains(".display()"), "hv/{name} prints a path by `.display()`: use `escape`");
        }
    }
}
