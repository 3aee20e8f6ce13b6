//! `hv restore`: a guest that was saved goes on in the foreground.

use super::args::RestoreArgs;
use super::control::ControlSocket;
use super::platform::platform;
use super::{jail, run};
use hv_abi::device::{FUNCTION, SHARE};
use hv_core::device::block::{Disk, DiskRecord, DiskSpec};
use hv_core::device::stdio::{Stderr, Stdin, Stdout};
use hv_core::domain::Restore;
use hv_core::engine::Engine;
use hv_core::snapshot::{DisksError, Snapshot};
use hv_host::escape::escape;
use hv_jail::Kind;
use std::error::Error;
use std::sync::Arc;

/// Restores the guest, waits for its end, and returns hv's exit code.
pub(super) fn run(args: RestoreArgs) -> Result<u8, Box<dyn Error>> {
    let platform = platform(args.platform)?;
    let snapshot = Arc::new(Snapshot::open_for(&args.snapshot, &*platform)?);
    let path = escape(&args.snapshot);
    if snapshot.saved().count(FUNCTION) > 0 {
        return Err(format!(
            "{path}: a function, which needs requests: name it in a configuration of `hv serve` (snapshot = \"{path}\")"
        )
        .into());
    }
    let specs = disks(&args, &snapshot);
    check_devices(&args, &snapshot, specs.len()).map_err(|what| format!("{path}: {what}"))?;
    let mut restore = Restore::new(snapshot.clone()).output(Stdout).error_output(Stderr).input(Stdin);
    restore = restore.share(run::share(&args.foreground)?);
    if run::shares_equal_pages(&args.foreground) {
        restore = restore.share_equal_pages();
    }
    let disks = specs.iter().map(Disk::open).collect::<Result<Vec<_>, _>>()?;
    snapshot.check_disks(&disks).map_err(|error| match error {
        DisksError::Record(error) => error.to_string(),
        error => format!("{path}: {error}"),
    })?;
    for disk in disks {
        restore = restore.disk(disk);
    }
    if let Some((network, capture)) = run::network(&args.net, args.foreground.no_jail)? {
        restore = restore.network(network, capture);
    }
    for folder in run::folders(&args.shares)? {
        restore = restore.folder(folder);
    }
    let places = jail::overlays(specs.iter()).into_iter().collect();
    let workers = run::workers(snapshot.saved().cpus.len());
    let late = !specs.is_empty() || !args.shares.is_empty() || args.foreground.cap > 0 || workers > 0;
    let control = ControlSocket::asked_for(&args.control)?;
    jail::process(args.foreground.no_jail, &*platform, Kind::Run, late, places, &args.shares)?;
    let engine = Engine::new(platform, workers)?;
    let guest = restore.spawn(&engine)?;
    run::foreground(&engine, &guest, &args.foreground, control)
}

/// The disks that were given, or, if the user says so, those where the guest had them.
fn disks(args: &RestoreArgs, snapshot: &Snapshot) -> Vec<DiskSpec> {
    let mut specs = match args.trust_record {
        true => snapshot.disks().iter().map(DiskRecord::trusted).collect(),
        false => args.disks.clone(),
    };
    if args.disk_overlay {
        for spec in specs.iter_mut().filter(|spec| !spec.read_only) {
            (spec.overlay, spec.direct) = (true, false);
        }
    }
    specs
}

/// Whether the guest gets what it had. The error names everything that is missing, with the options that give
/// it.
fn check_devices(args: &RestoreArgs, snapshot: &Snapshot, disks: usize) -> Result<(), String> {
    let mut lacks = Vec::new();
    if let Err(error) = snapshot.check_disk_count(disks) {
        lacks.push(match snapshot.disk_count() {
            0 => format!("{error}; leave out --disk"),
            _ => format!(
                "{error}; name each with --disk, in their order (--trust-record takes them from where they were)"
            ),
        });
    }
    let network = args.net.net.is_some() || !args.net.publish.is_empty();
    match (snapshot.network_count() > 0, network) {
        (true, false) => {
            lacks.push("the guest was saved with a network, and gets none; connect it with --net".into())
        }
        (false, true) => {
            lacks.push("the guest was saved without a network; leave out --net and --publish".into())
        }
        _ => {}
    }
    let shares = snapshot.saved().count(SHARE);
    if shares != args.shares.len() {
        lacks.push(format!(
            "the guest was saved with {shares} shares, and gets {}; name each with --share FOLDER=TAG, in their order",
            args.shares.len()
        ));
    }
    if lacks.is_empty() { Ok(()) } else { Err(lacks.join("; ")) }
}
