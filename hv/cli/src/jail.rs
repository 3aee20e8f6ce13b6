//! The jail of this process, and `hv jail`, which prints what it allows.

use super::args::{Format, JailArgs, JailPlatform};
use super::stats;
use hv_core::device::block::DiskSpec;
use hv_core::device::share::ShareSpec;
use hv_jail as jail;
use hv_jail::{JailError, Kind, Place, Plan, Platform, Row, Use};
use serde_json::json;
use std::error::Error;
use std::io::Write;
use std::path::Path;

/// Jails this process unless it is told not to. `late`: threads are made later. Whatever it opens later has to be among the places, or in one of
/// its guests' shares.
pub(super) fn process(
    no_jail: bool,
    platform: &dyn hv_core::platform::Platform,
    main: Kind,
    late: bool,
    mut places: Vec<Place>,
    shares: &[ShareSpec],
) -> Result<(), JailError> {
    stats::prepare();
    if no_jail {
        return Ok(());
    }
    let platform = match platform.kind() {
        hv_core::platform::PlatformKind::Process => Platform::Process,
        _ => Platform::Kvm,
    };
    places.extend(folders(shares));
    for missing in jail::jail(Plan { main, platform, late, shares: !shares.is_empty(), places })? {
        tracing::warn!("{missing}");
    }
    Ok(())
}

/// Where disks with an overlay keep what is written, if there is one.
pub(super) fn overlays<'a>(mut disks: impl Iterator<Item = &'a DiskSpec>) -> Option<Place> {
    disks.any(|disk| disk.overlay).then(temporary)
}

/// The folders of shares.
fn folders(shares: &[ShareSpec]) -> impl Iterator<Item = Place> {
    let usage = |share: &ShareSpec| if share.read_only { Use::Read } else { Use::Share };
    shares.iter().map(move |share| Place { path: share.path.clone(), usage: usage(share) })
}

/// Where files without a name are made.
pub(super) fn temporary() -> Place {
    // In its jail, hv cannot ask for the current folder.
    let folder = std::env::temp_dir();
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    // The first error is reported again.
    let _ = tempfile::env::override_temp_dir(&folder);
    Place { path: folder, usage: Use::Temporary }
}

/// The folder of a file, since a new version of the file may be another file.
pub(super) fn beside(file: &Path, usage: Use) -> Place {
    let folder = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    Place { path: folder.into(), usage }
}

/// A folder itself, or the folder that a file is in.
pub(super) fn at(path: &Path, usage: Use) -> Place {
    if path.is_dir() { Place { path: path.into(), usage } } else { beside(path, usage) }
}

/// Prints the tables, and returns hv's exit code.
pub(super) fn run(args: &JailArgs) -> Result<u8, Box<dyn Error>> {
    let platform = match args.platform {
        JailPlatform::Kvm => Platform::Kvm,
        JailPlatform::Process => Platform::Process,
    };
    let kinds =
        Kind::ALL.into_iter().map(|kind| (kind.name(), kind.about(), rows(jail::rows(kind, platform))));
    let common = ("all", "every thread", rows(jail::common_rows(platform)));
    let tables = [common].into_iter().chain(kinds);
    let mut text = String::new();
    match args.format {
        Format::Text => {
            for (name, about, rows) in tables {
                text += &format!("{name}: {about} ({} calls)\n", rows.len());
                for row in rows {
                    text += &format!("  {row}\n      {}\n", row.why());
                }
            }
            text += "Landlock: no file but those that were named, no abstract socket of a process outside\n";
            text += match platform {
                Platform::Kvm => "  no signal to a process outside\n",
                Platform::Process => {
                    "  signals are not restricted: guests are outside. Only the calls above hold, which take descriptors of processes\n"
                }
            };
        }
        Format::Json => {
            let tables: serde_json::Map<_, _> =
                tables.map(|(name, _, rows)| (name.into(), rows.into_iter().map(object).collect())).collect();
            text += &format!("{}\n", serde_json::Value::Object(tables));
        }
    }
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}

/// In the order of their names.
fn rows(rows: impl Iterator<Item = &'static Row>) -> Vec<&'static Row> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|row| row.to_string());
    rows
}

fn object(row: &Row) -> serde_json::Value {
    let checks: Vec<_> = row
        .checks()
        .map(|check| json!({ "argument": check.argument(), "mask": check.mask(), "value": check.value() }))
        .collect();
    json!({ "call": row.name(), "number": row.number(), "allowed": row.to_string(), "checks": checks, "why": row.why(), "other_hosts": row.is_for_other_hosts() })
}
