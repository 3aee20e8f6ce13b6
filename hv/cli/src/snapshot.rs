//! `hv snapshot`: boots a guest, and saves it to a folder.

use super::args::{Format, SnapshotArgs};
use super::platform::platform;
use super::{jail, run, stats};
use hv_core::device::block::DiskRecord;
use hv_core::device::function::FunctionDevice;
use hv_core::device::services::ServicesDevice;
use hv_core::domain::{CaptureError, Guest, Outcome, Stop};
use hv_core::engine::Engine;
use hv_core::snapshot::{Snapshot, Written};
use hv_host::escape::escape;
use hv_jail::{Kind, Place, Use};
use serde_json::json;
use std::error::Error;
use std::io::Write;
use std::time::{Duration, Instant};

/// Why there is nothing to save.
#[derive(Debug, thiserror::Error)]
enum Unready {
    #[error(
        "the guest was not ready within {0:?}: it has to call hv_guest::ready(); give it more time \
             (--ready-timeout), or say when to save it wherever it is (--after)"
    )]
    Late(Duration),
    #[error("the guest ended with exit code {0} before it was saved; nothing is written")]
    Exited(u8),
    #[error("the guest crashed before it was saved ({0}); nothing is written")]
    Crashed(String),
    #[error("--timeout ended the guest before it was saved; nothing is written")]
    Timeout,
}

/// Boots the guest, saves it, and returns hv's exit code.
pub(super) fn run(args: SnapshotArgs) -> Result<u8, Box<dyn Error>> {
    Snapshot::check_place(&args.output)?;
    // In its jail, hv cannot ask for the current folder.
    let output = std::path::absolute(&args.output)?;
    let mut disks = Vec::new();
    let mut builder = run::builder(&args.boot, &args.net, &args.foreground, &mut |spec, disk| {
        disks.push(DiskRecord::new(spec, disk)?);
        Ok(())
    })?;
    if args.function {
        // Whether it will be given services is not known yet.
        builder = builder.services(ServicesDevice::new(None)).function(FunctionDevice::new());
    }
    if args.after.is_none() {
        builder = builder.pause_at_ready();
    }
    let platform = platform(args.boot.platform)?;
    let mut places = vec![jail::beside(&args.output, Use::All)];
    places.extend(jail::overlays(args.boot.disks.iter()));
    places.extend(args.boot.disks.iter().map(|disk| Place { path: disk.path.clone(), usage: Use::Read }));
    jail::process(args.foreground.no_jail, &*platform, Kind::Snapshot, true, places, &args.boot.shares)?;
    let engine = Engine::new(platform, run::workers(args.boot.vcpus.most))?;
    let begin = Instant::now();
    let guest = builder.spawn(&engine)?;
    let signal = run::watch(&engine, &guest, &args.foreground)?;
    hv_jail::enter(Kind::Snapshot);
    if let Some(stop) = pause(&guest, &args)? {
        return Ok(run::exit_of(stop, &signal));
    }
    let boot = begin.elapsed();
    let begin = Instant::now();
    let mut snapshot = match guest.capture_and_end() {
        // It was ended meanwhile by a signal, or --timeout.
        Err(CaptureError::NotPaused) => {
            guest.wait();
            return match ended(&guest)? {
                Some(stop) => Ok(run::exit_of(stop, &signal)),
                None => Err(CaptureError::NotPaused.into()),
            };
        }
        captured => captured?,
    };
    disks.iter_mut().try_for_each(DiskRecord::update)?;
    snapshot.set_disks(disks);
    let capture = begin.elapsed();
    let begin = Instant::now();
    let written = snapshot.write(&output)?;
    report(&args, &guest, &[("boot", boot), ("capture", capture), ("write", begin.elapsed())], written);
    Ok(0)
}

/// Waits until the guest is paused where it is to be saved. Returns what stopped it, if it was stopped
/// before.
fn pause(guest: &Guest, args: &SnapshotArgs) -> Result<Option<Stop>, Unready> {
    /// Much longer than it takes to stop a guest.
    const STOPPED: Duration = Duration::from_secs(60);
    match args.after {
        None if !guest.wait_paused(args.ready_timeout) => return Err(Unready::Late(args.ready_timeout)),
        None => {}
        Some(after) if !guest.wait_paused(after) => {
            guest.pause();
            guest.wait_paused(STOPPED);
        }
        Some(_) => {}
    }
    ended(guest)
}

/// Why there is nothing to save, or what stopped the guest, if it has ended.
fn ended(guest: &Guest) -> Result<Option<Stop>, Unready> {
    match guest.outcome() {
        None => Ok(None),
        Some(Outcome::Exited(code)) => Err(Unready::Exited(code)),
        Some(Outcome::Crashed(report)) => Err(Unready::Crashed(report.reason.clone())),
        Some(Outcome::Stopped(Stop::Timeout)) => Err(Unready::Timeout),
        Some(Outcome::Stopped(stop)) => Ok(Some(stop)),
    }
}

/// Prints how long it took, and what it takes.
fn report(args: &SnapshotArgs, guest: &Guest, phases: &[(&str, Duration)], written: Written) {
    let path = escape(&args.output).to_string();
    let text = match args.foreground.format {
        Format::Text => {
            let phases =
                phases.iter().map(|(name, time)| format!("{name} {:.1} ms", time.as_secs_f64() * 1000.0));
            let phases = phases.collect::<Vec<_>>().join(", ");
            let mut text = format!(
                "hv: saved {path}: {phases}; {} KiB of {} KiB of memory stored, image {} KiB, state {} KiB\n",
                written.stored >> 10,
                written.memory >> 10,
                written.image.div_ceil(1024),
                written.state.div_ceil(1024),
            );
            if args.foreground.stats {
                text += &stats::text(guest);
            }
            text
        }
        Format::Json => {
            let phases: serde_json::Map<_, _> =
                phases.iter().map(|(name, time)| (name.to_string(), json!(time.as_nanos() as u64))).collect();
            let Written { memory, stored, image, state } = written;
            let bytes = json!({ "memory": memory, "stored": stored, "image": image, "state": state });
            let mut object = json!({ "snapshot": path, "phases_ns": phases, "bytes": bytes });
            if args.foreground.stats {
                object["stats"] = stats::json(guest);
            }
            format!("{object}\n")
        }
    };
    // Standard error may be closed: an error of the write is ignored.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
