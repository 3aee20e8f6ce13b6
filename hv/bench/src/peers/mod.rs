//! Other systems beside hv: a program that says hello, from its start to its first byte and to its end.
//!
//! Each peer is a program of this host that is started as its users start it, in turn with hv. What it runs is made here: a static
//! program in an OCI bundle, a kernel that writes to a serial port. One that is missing or fails is named, and the others go on.
#![forbid(unsafe_code)]

mod files;
mod run;
mod text;

pub use text::table;

use crate::result::SCHEMA;
use fastrand::Rng;
use files::Files;
use hv_host::escape::escape;
use hv_host::machine::Machine;
use hv_stats::{Estimate, Verdict, order};
use serde::Serialize;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the printed object is, in its field `kind`.
pub const KIND: &str = "peers";

/// The peer that the others are compared with.
const HV: &str = "hv";

/// Where a program is, instead of where the PATH says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The peer's name.
    pub peer: String,
    /// Its program.
    pub program: PathBuf,
}

/// A peer that can be measured.
struct Peer {
    name: &'static str,
    /// What it says of itself, or of its file.
    version: String,
    /// The program and its arguments; [`ID`] stands for a name that no other run has.
    command: Vec<OsString>,
    note: &'static str,
}

/// What stands in a command line for a name that no other run has.
const ID: &str = "{id}";

/// What a peer came to.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub version: String,
    /// The command line, word by word, with what cannot be printed escaped.
    pub command: Vec<String>,
    /// What is to be known for a fair reading.
    pub note: String,
    /// From the start of the program to the first byte of what it prints: nanoseconds.
    pub first_byte_ns: Estimate,
    /// To its end, which has been waited for.
    pub whole_ns: Estimate,
    /// The whole by that of hv on KVM in the same round; null for hv itself.
    pub by_hv: Option<Estimate>,
    /// What that says.
    pub verdict: Option<Verdict>,
}

/// A peer that was not measured.
#[derive(Debug, Serialize)]
pub struct Left {
    /// Its name.
    pub name: String,
    /// Why, and the remedy.
    pub reason: String,
}

/// All peers.
#[derive(Debug, Serialize)]
pub struct Peers {
    /// The version of this format.
    pub schema: u32,
    /// [`KIND`].
    pub kind: &'static str,
    /// Rounds that were asked for.
    pub rounds: u32,
    /// The seed of the order.
    pub seed: u64,
    /// The host.
    pub machine: Machine,
    /// Those that were measured; hv comes first.
    pub peers: Vec<Measured>,
    /// Those that were not.
    pub left: Vec<Left>,
}

/// Runs all peers that are there, in turn.
///
/// # Errors
///
/// If the files that peers run cannot be made.
pub fn measure(
    hv: &Path,
    hello: &Path,
    places: &[Place],
    rounds: u32,
    seed: u64,
    step: &mut dyn FnMut(u32, &str),
) -> io::Result<Peers> {
    let files = Files::new()?;
    let mut left = Vec::new();
    let mut there: Vec<Peer> = Vec::new();
    for found in files.peers(hv, hello, places) {
        match found {
            Ok(peer) => there.push(peer),
            Err(missing) => left.push(missing),
        }
    }
    let mut times: Vec<Vec<run::Times>> = there.iter().map(|_| Vec::new()).collect();
    let mut rng = Rng::with_seed(seed);
    let mut runs = 0;
    // Round 0 warms up: what is read from disks is in memory then.
    for round in 0..=rounds {
        for turn in order::once(there.len(), &mut rng) {
            if left.iter().any(|left| left.name == there[turn].name) {
                continue;
            }
            step(round, there[turn].name);
            runs += 1;
            let id = format!("hv-bench-{}-{runs}", std::process::id());
            let named = |word: &OsString| if word == ID { OsString::from(&id) } else { word.clone() };
            let command: Vec<_> = there[turn].command.iter().map(named).collect();
            match run::once(&command) {
                Ok(taken) if round > 0 => times[turn].push(taken),
                Ok(_) => {}
                Err(reason) => left.push(Left { name: there[turn].name.into(), reason }),
            }
        }
    }
    let own = there.iter().position(|peer| peer.name == HV).map(|at| times[at].clone()).unwrap_or_default();
    let peers = there.iter().zip(&times).filter(|(peer, _)| left.iter().all(|left| left.name != peer.name));
    let peers = peers.map(|(peer, times)| assembled(peer, times, &own, seed)).collect();
    Ok(Peers { schema: SCHEMA, kind: KIND, rounds, seed, machine: Machine::of_this_host(), peers, left })
}

fn assembled(peer: &Peer, times: &[run::Times], own: &[run::Times], seed: u64) -> Measured {
    let ratios = times.iter().zip(own).map(|(its, own)| its.whole.as_secs_f64() / own.whole.as_secs_f64());
    let by_hv = (peer.name != HV && !own.is_empty()).then(|| Estimate::of(ratios, seed));
    let of = |part: fn(&run::Times) -> std::time::Duration| {
        Estimate::of(times.iter().map(|times| part(times).as_nanos() as f64), seed)
    };
    Measured {
        name: peer.name.into(),
        version: peer.version.clone(),
        command: peer.command.iter().map(|word| escape(word).to_string()).collect(),
        note: peer.note.into(),
        first_byte_ns: of(|times| times.first_byte),
        whole_ns: of(|times| times.whole),
        verdict: by_hv.as_ref().map(|ratio| Verdict::of(ratio, hv_stats::verdict::EFFECT)),
        by_hv,
    }
}

/// The program of a peer: where it was said to be, or where the PATH has it.
fn program(name: &str, program: &str, places: &[Place]) -> Option<PathBuf> {
    if let Some(place) = places.iter().find(|place| place.peer == name) {
        return Some(place.program.clone());
    }
    let folders = std::env::var_os("PATH")?;
    // Container runtimes are for root.
    let more = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&folders).chain(more).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The first line that a program says of its version.
fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let line = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned();
    line.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests;
