//! System calls of hv's threads, from the logs of `.ci/jail-usage` (strace).

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// A call that a thread made under its filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// The thread's kind, as `hv jail` names it.
    pub kind: &'static str,
    /// The call's name.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<u64>,
}

/// All calls in the log of one process. What comes before a thread's filter is left out.
pub fn calls(log: &str) -> Vec<Call> {
    let mut main = None;
    let mut confined = HashMap::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let Some((thread, comm, name, arguments)) = parts(line) else { continue };
        if name == "execve" {
            // The wrapper runs hv in its own place; builds of guests run other programs.
            main = main.or_else(|| Some((thread, main_kind(arguments)?)));
            continue;
        }
        let Some((main_thread, main_kind)) = main else { continue };
        let kind = if thread == main_thread { Some(main_kind) } else { kind_of(comm) };
        let Some(kind) = kind else { continue };
        let under = match confined.get(thread) {
            Some(kind) => Some(*kind),
            // A thread that is made late has the filter of the one that made it, until it puts on its own.
            None if ["disk", "tick", "pool", "deploy"].contains(&kind) => Some("maker"),
            // Until it has its name, it has the maker's.
            None if kind == "maker" && confined.values().any(|kind| *kind == "maker") => Some("maker"),
            None => None,
        };
        let arguments: Vec<_> = arguments.split([',', ')', '<']).map_while(number).collect();
        if name == "seccomp" && arguments.first() == Some(&1) {
            confined.insert(thread, kind);
        }
        let Some(kind) = under else { continue };
        calls.push(Call { kind, name: name.into(), arguments });
    }
    calls
}

/// All calls in the logs of a folder, each of them once.
pub fn folder(path: &Path) -> Vec<Call> {
    let mut all = std::collections::HashSet::new();
    for entry in fs::read_dir(path).expect("the folder of the logs") {
        let bytes = fs::read(entry.expect("an entry").path()).expect("a log");
        all.extend(calls(&String::from_utf8_lossy(&bytes)));
    }
    all.into_iter().collect()
}

/// `123<name> call(arguments…` into its parts.
fn parts(line: &str) -> Option<(&str, &str, &str, &str)> {
    let (thread, rest) = line.split_once('<')?;
    let (comm, rest) = rest.split_once("> ")?;
    let (name, arguments) = rest.split_once('(')?;
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        .then_some((thread, comm, name, arguments))
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// What the main thread will be: the first argument of hv.
fn main_kind(arguments: &str) -> Option<&'static str> {
    let words: Vec<_> = arguments.split('"').skip(1).step_by(2).collect();
    match *words.get(2)? {
        "run" | "restore" => Some("run"),
        "snapshot" => Some("snapshot"),
        "serve" => Some("serve"),
        _ => None,
    }
}

fn kind_of(comm: &str) -> Option<&'static str> {
    Some(match comm {
        "hv-io" => "io",
        "hv-tick" => "tick",
        "hv-pool" => "pool",
        "hv-deploy" | "hv-ending" => "deploy",
        "hv-log" => "log",
        "hv-maker" => "maker",
        _ if comm.starts_with("hv-cpu") => "cpu",
        _ if comm.starts_with("disk ") => "disk",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_kind_from_the_filter_on() {
        let log = "\
7<strace> execve(\"/x/hv\", [\"/x/hv\", \"run\", \"hello\"], 0x1 /* 2 vars */) = 0
7<hv> openat(0xffffff9c, 0x7ffc, 0x80000, 0) = 0x3
8<hv-io> seccomp(0x1, 0, 0x7ff0) = 0
8<hv-io> read(0x3, 0x7f, 0x8 <unfinished ...>
7<hv> seccomp(0x1, 0, 0x7ff0) = 0
7<hv> ioctl(0x8, 0xae80, 0)          = 0
8<hv-io> <... read resumed>)        = 0x8
9<hv-maker> seccomp(0x1, 0, 0x7ff0) = 0
10<hv-maker> rseq(0x7f, 0x20, 0, 0x53053053) = 0
10<disk 0> sched_getaffinity(0x1, 0x20, 0x7f) = 0x20
10<disk 0> seccomp(0x1, 0, 0x7ff0) = 0
10<disk 0> preadv(0x5, 0x7f, 0x1, 0, 0) = 0x200
";
        let found: Vec<_> =
            calls(log).into_iter().map(|call| (call.kind, call.name, call.arguments)).collect();
        let call = |kind, name: &str, arguments: &[u64]| (kind, name.to_owned(), arguments.to_vec());
        assert_eq!(
            found,
            [
                call("io", "read", &[3, 0x7f, 8]),
                call("run", "ioctl", &[8, 0xae80, 0]),
                call("maker", "rseq", &[0x7f, 0x20, 0, 0x5305_3053]),
                call("maker", "sched_getaffinity", &[1, 0x20, 0x7f]),
                call("maker", "seccomp", &[1, 0, 0x7ff0]),
                call("disk", "preadv", &[5, 0x7f, 1, 0, 0]),
            ]
        );
    }
}
