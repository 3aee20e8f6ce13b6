//! `hv restore`: a guest that was saved goes on in the foreground.

use super::args::{NetKind, RestoreArgs};
use super::platform::platform;
use super::{jail, run};
use crate::device::block::{Disk, DiskSpec};
use crate::device::stdio::{Stderr, Stdin, Stdout};
use crate::domain::Restore;
use crate::engine::Engine;
use crate::escape::escape;
use crate::jail::Kind;
use crate::sched::Share;
use crate::snapshot::Snapshot;
use hv_abi::device::{BLOCK, FUNCTION, NET};
use std::error::Error;
use std::sync::Arc;

/// Restores the guest, waits for its end, and returns hv's exit code.
pub(super) fn run(args: RestoreArgs) -> Result<u8, Box<dyn Error>> {
    let platform = platform(args.platform)?;
    let snapshot = Arc::new(Snapshot::open_for(&args.snapshot, &*platform)?);
    let has = |kind: u32| snapshot.saved().devices.iter().filter(|device| device.kind == kind).count();
    if has(FUNCTION) > 0 {
        let path = escape(&args.snapshot);
        return Err(format!(
            "{path}: a function, which needs requests: name it in a configuration of `hv serve` (snapshot = \"{path}\")"
        )
        .into());
    }
    let mut restore = Restore::new(snapshot.clone()).output(Stdout).error_output(Stderr).input(Stdin);
    restore = restore.share(Share::new(args.foreground.weight, args.foreground.cap)?);
    let disks = disks(&args, &snapshot, has(BLOCK))?;
    for (n, spec) in disks.iter().enumerate() {
        let disk = Disk::open(spec)?;
        if let Some(record) = snapshot.disks().get(n) {
            record.check(&disk)?;
        }
        restore = restore.disk(disk);
    }
    // Nothing about the network is in a snapshot but that there was one.
    let default = (has(NET) > 0).then_some(NetKind::User);
    if let Some((network, capture)) = run::network(&args.net, default)? {
        restore = restore.network(network, capture);
    }
    let places = jail::overlays(disks.iter()).into_iter().collect();
    let late = !disks.is_empty() || args.foreground.cap > 0;
    jail::process(args.foreground.no_jail, &*platform, Kind::Run, late, places)?;
    let engine = Engine::new(platform, 0)?;
    let guest = restore.spawn(&engine)?;
    run::foreground(&engine, &guest, &args.foreground)
}

/// The disks that were given, or those that the guest had.
fn disks(args: &RestoreArgs, snapshot: &Snapshot, wanted: usize) -> Result<Vec<DiskSpec>, String> {
    let mut specs = match args.disks.is_empty() {
        true => snapshot.disks().iter().map(|record| record.spec.clone()).collect(),
        false => args.disks.clone(),
    };
    if specs.len() != wanted {
        let given = specs.len();
        return Err(format!(
            "the guest had {wanted} disks, and gets {given}; name each with --disk, in their order"
        ));
    }
    if args.disk_overlay {
        for spec in specs.iter_mut().filter(|spec| !spec.read_only) {
            (spec.overlay, spec.direct) = (true, false);
        }
    }
    Ok(specs)
}
