//! What leaves images as they are: info, check, map, compare, snapshots.

use super::progress::Bar;
use super::{about, human, opened, options, print, qcow2};
use crate::args::{CheckArgs, CompareDisksArgs, Format, InfoArgs, InternalArgs, MapArgs, RepairKind};
use hv_disk::copy::{each_chunk, first_difference};
use hv_disk::qcow2::header::{Header, LAZY_REFCOUNTS, autoclear, incompatible};
use hv_disk::qcow2::{Compression, Qcow2, Repair, Snapshot, snapshots as list};
use hv_disk::{Chain, Image, OpenOptions, Run, open_path};
use hv_host::escape::escape;
use serde_json::{Value, json};
use std::error::Error;
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

/// Exit codes beyond 0.
const WRONG: u8 = 1;
const LEAKS: u8 = 3;

fn text_of(bytes: &[u8]) -> String {
    escape(&String::from_utf8_lossy(bytes).into_owned()).to_string()
}

fn compression(header: &Header) -> &'static str {
    match header.compression {
        Compression::Zlib => "zlib",
        Compression::Zstd => "zstd",
    }
}

/// The part of qcow2, with the keys that `qemu-img info` has.
fn details(header: &Header) -> Value {
    let mut data = json!({
        "compat": if header.version == 2 { "0.10" } else { "1.1" },
        "compression-type": compression(header),
        "refcount-bits": 1u32 << header.refcount_order,
    });
    if header.version == 3 {
        data["lazy-refcounts"] = json!(header.compatible & LAZY_REFCOUNTS != 0);
        data["corrupt"] = json!(header.incompatible & incompatible::CORRUPT != 0);
        data["extended-l2"] = json!(header.is_extended());
    }
    if let Some(name) = header.data_file.as_deref().filter(|_| header.has_data_file()) {
        data["data-file"] = json!(String::from_utf8_lossy(name));
        data["data-file-raw"] = json!(header.autoclear & autoclear::RAW_DATA_FILE != 0);
    }
    json!({ "type": "qcow2", "data": data })
}

fn snapshot_json(snapshot: &Snapshot) -> Value {
    json!({
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_size,
        "date-sec": snapshot.date.0,
        "date-nsec": snapshot.date.1,
        "vm-clock-sec": snapshot.vm_clock / 1_000_000_000,
        "vm-clock-nsec": snapshot.vm_clock % 1_000_000_000,
    })
}

fn snapshots_of(image: Option<&Qcow2>, chain: &Chain) -> std::io::Result<Vec<Snapshot>> {
    image.map_or(Ok(Vec::new()), |image| list(&chain.files[0], image.header()))
}

/// Says what an image is.
pub(super) fn info(args: &InfoArgs) -> Result<u8, Box<dyn Error>> {
    let path = &args.image.image;
    // What is behind it need not be there.
    let chain = opened(&args.image, &OpenOptions { alone: true, ..options(&args.image, false) })?;
    let metadata = chain.files[0].shared().metadata().map_err(about(path))?;
    let on_disk = metadata.blocks() * 512;
    let header = chain.qcow2.as_ref().map(|image| image.header());
    let kept = snapshots_of(chain.qcow2.as_deref(), &chain).map_err(about(path))?;
    let text = match args.format {
        Format::Json => {
            let mut object = json!({
                "filename": path.to_string_lossy(),
                "format": if header.is_some() { "qcow2" } else { "raw" },
                "virtual-size": chain.image.size(),
                "actual-size": on_disk,
                "dirty-flag": header.is_some_and(|header| header.incompatible & incompatible::DIRTY != 0),
            });
            if let Some(header) = header {
                object["cluster-size"] = json!(header.cluster_size());
                object["format-specific"] = details(header);
                if let Some(name) = &header.backing {
                    object["backing-filename"] = json!(String::from_utf8_lossy(name));
                }
                if let Some(format) = &header.backing_format {
                    object["backing-filename-format"] = json!(String::from_utf8_lossy(format));
                }
            }
            if !kept.is_empty() {
                object["snapshots"] = kept.iter().map(snapshot_json).collect();
            }
            serde_json::to_string_pretty(&object)? + "\n"
        }
        Format::Text => {
            let mut text = format!("image          {}\n", escape(path));
            let mut line = |name: &str, value: String| {
                let _ = writeln!(text, "{name:<14} {value}");
            };
            line("format", if header.is_some() { "qcow2" } else { "raw" }.into());
            line("disk", format!("{} ({} bytes)", human(chain.image.size()), chain.image.size()));
            line("on the host", human(on_disk));
            if let Some(header) = header {
                line("version", header.version.to_string());
                line("cluster", human(header.cluster_size()));
                line("refcounts", format!("{} bits", 1u32 << header.refcount_order));
                line("compression", compression(header).into());
                line("subclusters", if header.is_extended() { "32" } else { "none" }.into());
                if let Some(name) = &header.backing {
                    let format = header.backing_format.as_deref().map_or("not said".into(), text_of);
                    line("backing file", format!("{} (format: {format})", text_of(name)));
                }
                if let Some(name) = header.data_file.as_deref().filter(|_| header.has_data_file()) {
                    line("data file", text_of(name));
                }
                for (bit, state) in [(incompatible::DIRTY, "not closed"), (incompatible::CORRUPT, "corrupt")]
                {
                    if header.incompatible & bit != 0 {
                        line("state", format!("{state}: hv disk check"));
                    }
                }
            }
            for snapshot in &kept {
                line("snapshot", format!("{} {}", escape(&snapshot.id), escape(&snapshot.name)));
            }
            text
        }
    };
    print(&text)?;
    Ok(0)
}

/// Lists internal snapshots.
pub(super) fn snapshots(args: &InternalArgs) -> Result<u8, Box<dyn Error>> {
    let path = &args.image.image;
    let chain = opened(&args.image, &OpenOptions { alone: true, ..options(&args.image, false) })?;
    let kept = snapshots_of(Some(&*qcow2(&chain, path)?), &chain).map_err(about(path))?;
    let text = match args.format {
        Format::Json => {
            serde_json::to_string_pretty(&kept.iter().map(snapshot_json).collect::<Value>())? + "\n"
        }
        Format::Text => kept.iter().fold(String::new(), |mut text, snapshot| {
            let (id, name, size) = (escape(&snapshot.id), escape(&snapshot.name), human(snapshot.disk_size));
            let _ = writeln!(text, "{id}\t{name}\t{size}");
            text
        }),
    };
    print(&text)?;
    Ok(0)
}

/// Checks an image.
pub(super) fn check(args: &CheckArgs) -> Result<u8, Box<dyn Error>> {
    let path = &args.image.image;
    let repair = match args.repair {
        None => Repair::None,
        Some(RepairKind::Leaks) => Repair::Leaks,
        Some(RepairKind::All) => Repair::All,
    };
    let writable = repair != Repair::None;
    let chain = opened(
        &args.image,
        &OpenOptions { alone: true, repair: writable, ..options(&args.image, writable) },
    )?;
    let found = qcow2(&chain, path)?.check(repair).map_err(about(path))?;
    let text = match args.format {
        Format::Json => {
            let object = json!({
                "filename": path.to_string_lossy(),
                "format": "qcow2",
                "check-errors": 0,
                "corruptions": found.corruptions,
                "leaks": found.leaks,
                "corruptions-fixed": found.corruptions_fixed,
                "leaks-fixed": found.leaks_fixed,
                "total-clusters": found.total,
                "allocated-clusters": found.allocated,
                "compressed-clusters": found.compressed,
                "image-end-offset": found.end,
                "problems": found.problems,
            });
            serde_json::to_string_pretty(&object)? + "\n"
        }
        Format::Text => {
            let mut text: String = found.problems.iter().map(|problem| format!("{problem}\n")).collect();
            if found.leaks_fixed + found.corruptions_fixed > 0 {
                let _ = writeln!(
                    text,
                    "repaired: {} errors, {} leaks",
                    found.corruptions_fixed, found.leaks_fixed
                );
            }
            let verdict = match (found.corruptions, found.leaks) {
                (0, 0) => "whole".to_owned(),
                (0, leaks) => format!("whole; {leaks} clusters are lost (hv disk check --repair leaks)"),
                (errors, leaks) => {
                    format!("{errors} errors, {leaks} clusters are lost (hv disk check --repair all)")
                }
            };
            let _ = writeln!(text, "{verdict}: {} of {} clusters have data", found.allocated, found.total);
            text
        }
    };
    print(&text)?;
    Ok(match (found.corruptions, found.leaks) {
        (0, 0) => 0,
        (0, _) => LEAKS,
        _ => WRONG,
    })
}

/// Which image of a chain each of its files belongs to: 0 is the top. A data file belongs to the image before it.
fn depths(chain: &Chain) -> Vec<usize> {
    let mut depths = vec![0; chain.files.len()];
    let mut image = chain.qcow2.as_ref().is_some_and(|image| image.header().has_data_file());
    for at in 1..depths.len() {
        // Only the top may have a data file that is written; each image of the chain that has one is followed by it.
        depths[at] = depths[at - 1] + usize::from(!image);
        image = false;
    }
    depths
}

/// Says where data is.
pub(super) fn map(args: &MapArgs) -> Result<u8, Box<dyn Error>> {
    let path = &args.image.image;
    let chain = opened(&args.image, &options(&args.image, false))?;
    let depths = depths(&chain);
    let (mut at, size) = (0, chain.image.size());
    let (mut rows, mut text) = (Vec::new(), String::from("offset\tbytes\tkind\tfile\tat\n"));
    while at < size {
        let run = chain.image.map(at, size - at).map_err(about(path))?;
        let (len, kind, file, offset) = match run {
            Run::Data { file, offset, len, .. } => (len, "data", Some(file), Some(offset)),
            Run::Packed(file, len) => (len, "compressed", Some(file), None),
            Run::Zeroes(len) => (len, "zero", None, None),
            Run::Other => return Err("a part of the disk is nowhere".into()),
        };
        match args.format {
            Format::Json => {
                let mut row = json!({ "start": at, "length": len, "zero": kind == "zero", "data": kind != "zero", "compressed": kind == "compressed" });
                if let Some(file) = file {
                    row["depth"] = json!(depths[file]);
                    row["filename"] = json!(chain.files[file].path().to_string_lossy());
                }
                if let Some(offset) = offset {
                    row["offset"] = json!(offset);
                }
                rows.push(row);
            }
            Format::Text => {
                let file = file.map_or("-".to_owned(), |file| escape(chain.files[file].path()).to_string());
                let offset = offset.map_or("-".to_owned(), |offset| offset.to_string());
                let _ = writeln!(text, "{at}\t{len}\t{kind}\t{file}\t{offset}");
            }
        }
        at += len;
    }
    if args.format == Format::Json {
        text = serde_json::to_string_pretty(&rows)? + "\n";
    }
    print(&text)?;
    Ok(0)
}

/// Compares two disks.
pub(super) fn compare(args: &CompareDisksArgs) -> Result<u8, Box<dyn Error>> {
    let options = options(&args.image, false);
    let one = opened(&args.image, &options)?;
    let other = open_path(&args.other, args.other_format.map(Into::into), &options)?;
    let (first, second) = (&*one.image, &*other.image);
    let (common, all) = (first.size().min(second.size()), first.size().max(second.size()));
    let found = Mutex::new(None::<u64>);
    let note = |byte: u64| {
        let mut found = found.lock().expect("no panic while held");
        *found = Some(found.map_or(byte, |known| known.min(byte)));
    };
    let longer = if first.size() > second.size() { first } else { second };
    let mut bar = Bar::new("compare", all);
    if !(args.strict && first.size() != second.size()) {
        let compared = each_chunk(
            all,
            |offset, len| {
                let both = common.saturating_sub(offset).min(len);
                if let Some(byte) = first_difference(first, second, offset, both)? {
                    note(byte);
                }
                if let Some(byte) = not_zero(longer, offset + both, len - both)? {
                    note(byte);
                }
                Ok(())
            },
            |done| bar.at(done),
        );
        compared.map_err(|error| error.to_string())?;
    }
    drop(bar);
    let sizes = args.strict && first.size() != second.size();
    let difference = found.into_inner().expect("no panic while held");
    let same = !sizes && difference.is_none();
    let text = match (args.format, difference) {
        (Format::Json, _) => {
            let sizes = [first.size(), second.size()];
            format!("{}\n", json!({ "same": same, "first-difference": difference, "sizes": sizes }))
        }
        (Format::Text, Some(byte)) => format!("they differ from byte {byte} on\n"),
        (Format::Text, None) if sizes => format!("they have {} and {} bytes\n", first.size(), second.size()),
        (Format::Text, None) => "they are the same\n".into(),
    };
    print(&text)?;
    Ok(if same { 0 } else { WRONG })
}

/// The first byte of a part that is not zero.
fn not_zero(image: &dyn Image, offset: u64, len: u64) -> std::io::Result<Option<u64>> {
    let end = offset + len;
    let mut at = offset;
    while at < end {
        match image.map(at, end - at)? {
            Run::Zeroes(len) => at += len,
            Run::Data { len, .. } | Run::Packed(_, len) => {
                let mut bytes = vec![0; len as usize];
                image.read(&mut bytes, at)?;
                if let Some(byte) = bytes.iter().position(|byte| *byte != 0) {
                    return Ok(Some(at + byte as u64));
                }
                at += len;
            }
            Run::Other => return Err(std::io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(None)
}
