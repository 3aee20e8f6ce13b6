//! `hv bench peers`: other systems beside hv.

use super::super::args::{Format, PeersArgs};
use super::super::guests;
use super::print;
use super::progress::ProgressLine;
use hv_bench::peers::{Place, measure, table};
use hv_bench::runner::RunProgress;
use std::error::Error;

pub(super) fn run(args: &PeersArgs) -> Result<u8, Box<dyn Error>> {
    let hello = match &args.images {
        Some(folder) => folder.join("hello"),
        None => guests::resolve("hello")?,
    };
    let places: Vec<Place> =
        args.peers.iter().cloned().map(|(peer, program)| Place { peer, program }).collect();
    // A number that every reader of JSON keeps exactly.
    let seed = args.seed.map_or_else(|| u64::from(hv_host::clock::wall_clock() as u32), u64::from);
    let hv = std::env::current_exe()?;
    let mut line = ProgressLine::new();
    let peers = measure(&hv, &hello, &places, args.rounds, seed, &mut |round, peer| {
        line.step(round, args.rounds, peer);
    });
    line.clear();
    let peers = peers?;
    print(&match args.format {
        Format::Text => table(&peers),
        Format::Json => serde_json::to_string_pretty(&peers)? + "\n",
    })?;
    Ok(0)
}
