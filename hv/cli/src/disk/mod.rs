//! `hv disk`: images without a guest.

mod change;
mod look;
mod progress;

use super::args::{DiskArgs, DiskCommand, ImageArgs, ImageFormat, NewArgs, Packing};
use hv_disk::qcow2::{Compression, CreateOptions, Qcow2};
use hv_disk::{Chain, Format, ImageError, OpenOptions, open_path};
use hv_host::escape::escape;
use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;

/// Does it, and returns hv's exit code.
pub(super) fn run(args: DiskArgs) -> Result<u8, Box<dyn Error>> {
    match args.command {
        DiskCommand::Create(args) => change::create(&args),
        DiskCommand::Info(args) => look::info(&args),
        DiskCommand::Convert(args) => change::convert(&args),
        DiskCommand::Resize(args) => change::resize(&args),
        DiskCommand::Check(args) => look::check(&args),
        DiskCommand::Map(args) => look::map(&args),
        DiskCommand::Compare(args) => look::compare(&args),
        DiskCommand::Commit(args) => change::commit(&args),
        DiskCommand::Rebase(args) => change::rebase(&args),
        DiskCommand::Snapshot(args)
            if args.create.is_some() || args.apply.is_some() || args.delete.is_some() =>
        {
            change::snapshot(&args)
        }
        DiskCommand::Snapshot(args) => look::snapshots(&args),
    }
}

impl From<ImageFormat> for Format {
    fn from(format: ImageFormat) -> Format {
        match format {
            ImageFormat::Raw => Format::Raw,
            ImageFormat::Qcow2 => Format::Qcow2,
        }
    }
}

/// How the image of some arguments is opened.
fn options(args: &ImageArgs, writable: bool) -> OpenOptions {
    OpenOptions {
        writable,
        folders: args.bases.clone(),
        unlocked: args.force_share,
        ..OpenOptions::default()
    }
}

fn opened(args: &ImageArgs, options: &OpenOptions) -> Result<Chain, ImageError> {
    open_path(&args.image, args.input_format.map(Into::into), options)
}

/// The image as qcow2, for what raw images do not have.
fn qcow2(chain: &Chain, path: &Path) -> Result<Arc<Qcow2>, String> {
    chain.qcow2.clone().ok_or_else(|| format!("{}: a raw image has none of that", escape(path)))
}

/// An error with the file that it is about.
fn about(path: &Path) -> impl Fn(io::Error) -> String {
    move |error| format!("{}: {error}", escape(path))
}

/// The format of a new file.
fn format_of(path: &Path, said: Option<ImageFormat>) -> Format {
    match said {
        Some(format) => format.into(),
        None if path.extension().is_some_and(|extension| extension == "qcow2") => Format::Qcow2,
        None => Format::Raw,
    }
}

fn new_options(args: &NewArgs, size: u64) -> CreateOptions {
    CreateOptions {
        version: args.qcow2_version,
        cluster_size: args.cluster_size,
        refcount_bits: args.refcount_bits,
        extended_l2: args.extended_l2,
        compression: match args.compression {
            Packing::Zlib => Compression::Zlib,
            Packing::Zstd => Compression::Zstd,
        },
        ..CreateOptions::new(size)
    }
}

fn print(text: &str) -> Result<(), io::Error> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// A size as people read it.
fn human(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift {
            let whole = bytes as f64 / (1u64 << shift) as f64;
            return if bytes.is_multiple_of(1 << shift) {
                format!("{whole} {unit}")
            } else {
                format!("{whole:.2} {unit}")
            };
        }
    }
    format!("{bytes} bytes")
}
