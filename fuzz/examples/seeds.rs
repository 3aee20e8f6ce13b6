//! Writes the seeds of every target into a folder: `cargo run --example seeds FOLDER`.

use hv_fuzz::TARGETS;
use std::path::PathBuf;
use xxhash_rust::xxh3::xxh3_64;

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).unwrap_or("corpus".into()));
    for target in TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for seed in (target.seeds)() {
            std::fs::write(folder.join(format!("seed-{:016x}", xxh3_64(&seed))), seed)?;
        }
    }
    Ok(())
}
