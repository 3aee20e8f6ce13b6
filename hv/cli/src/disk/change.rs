//! What makes and changes images: create, convert, resize, commit, rebase.

use super::progress::Bar;
use super::{about, format_of, new_options, opened, options, qcow2};
use crate::args::{CommitArgs, ConvertArgs, CreateArgs, InternalArgs, RebaseArgs, ResizeArgs};
use hv_disk::copy::{copy_part, each_chunk, is_zero, pack_part};
use hv_disk::qcow2::{CreateError, Layer, create as create_qcow2};
use hv_disk::{Chain, Format, Image, OpenOptions, open_path};
use hv_host::escape::escape;
use std::error::Error;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Makes, goes back to or deletes a snapshot inside an image.
pub(super) fn snapshot(args: &InternalArgs) -> Result<u8, Box<dyn Error>> {
    let path = &args.image.image;
    let chain = opened(&args.image, &OpenOptions { alone: true, ..options(&args.image, true) })?;
    let image = qcow2(&chain, path)?;
    let done = match (&args.create, &args.apply, &args.delete) {
        (Some(name), ..) => image.take_snapshot(name),
        (_, Some(which), _) => image.apply_snapshot(which),
        (.., Some(which)) => image.delete_snapshot(which),
        (None, None, None) => Ok(()),
    };
    done.map_err(about(path))?;
    Ok(0)
}

/// A new file, which is removed if it is not finished.
struct NewFile {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self, String> {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        match file {
            Ok(file) => Ok(NewFile { path: path.into(), file, finished: false }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(format!("{}: it is there already; remove it, or take another name", escape(path)))
            }
            Err(error) => Err(about(path)(error)),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes an empty image.
pub(super) fn create(args: &CreateArgs) -> Result<u8, Box<dyn Error>> {
    let path = &args.image;
    let format = format_of(path, args.output_format);
    let backing = args.backing.as_ref().zip(args.backing_format);
    if format == Format::Raw && backing.is_some() {
        return Err(format!("{}: a raw image has no backing file; name it *.qcow2", escape(path)).into());
    }
    let size = match (args.size, backing) {
        (Some(size), _) => size,
        (None, Some((backing, format))) => {
            let behind = path.parent().unwrap_or(Path::new("")).join(backing);
            open_path(&behind, Some(format.into()), &OpenOptions::default())?.image.size()
        }
        (None, None) => unreachable!("one of them is required"),
    };
    let mut new = NewFile::create(path)?;
    match format {
        Format::Raw => new.file.set_len(size).map_err(about(path))?,
        Format::Qcow2 => {
            let mut options = new_options(&args.new, size);
            options.backing =
                backing.map(|(backing, format)| (backing.as_os_str().as_bytes().to_vec(), format.into()));
            create_qcow2(&new.file, &options).map_err(|error| refused(path, error))?;
        }
    }
    new.finished = true;
    Ok(0)
}

fn refused(path: &Path, error: CreateError) -> String {
    format!("{}: {error}", escape(path))
}

/// Copies a disk to a new image.
pub(super) fn convert(args: &ConvertArgs) -> Result<u8, Box<dyn Error>> {
    let from = opened(&args.image, &options(&args.image, false))?;
    let (path, size) = (&args.output, from.image.size());
    let format = format_of(path, args.output_format);
    if args.compress && format == Format::Raw {
        return Err(
            format!("{}: a raw image has no compressed clusters; name it *.qcow2", escape(path)).into()
        );
    }
    let mut new = NewFile::create(path)?;
    match format {
        Format::Raw => new.file.set_len(size).map_err(about(path))?,
        Format::Qcow2 => {
            create_qcow2(&new.file, &new_options(&args.new, size)).map_err(|error| refused(path, error))?;
        }
    }
    let to = open_path(path, Some(format), &OpenOptions { writable: true, ..OpenOptions::default() })?;
    let unit = if format == Format::Qcow2 { args.new.cluster_size } else { 4096 };
    let mut bar = Bar::new("convert", size);
    let copied = each_chunk(
        size,
        |offset, len| match &to.qcow2 {
            Some(image) if args.compress => pack_part(&*from.image, image, offset, len),
            _ => copy_part(&*from.image, &*to.image, offset, len, unit),
        },
        |done| bar.at(done),
    );
    drop(bar);
    copied.map_err(|error| format!("{} to {}: {error}", escape(&args.image.image), escape(path)))?;
    finish(&to, path)?;
    new.finished = true;
    Ok(0)
}

fn finish(chain: &Chain, path: &Path) -> Result<(), String> {
    chain.image.flush().and_then(|()| chain.image.close()).map_err(about(path))
}

/// Makes a disk larger or smaller.
pub(super) fn resize(args: &ResizeArgs) -> Result<u8, Box<dyn Error>> {
    let path = &args.image.image;
    let chain = opened(&args.image, &options(&args.image, true))?;
    if args.size < chain.image.size() && !args.shrink {
        let old = chain.image.size();
        return Err(format!(
            "{}: it has {old} bytes now, and what is behind {} would be lost; --shrink if it is to be",
            escape(path),
            args.size
        )
        .into());
    }
    match &chain.qcow2 {
        None => chain.files[0].shared().set_len(args.size).map_err(about(path))?,
        Some(image) => image.resize(args.size).map_err(about(path))?,
    }
    Ok(0)
}

/// Writes what an image has into its backing file.
pub(super) fn commit(args: &CommitArgs) -> Result<u8, Box<dyn Error>> {
    let path = &args.image.image;
    // Without what is behind it, which is opened to be written.
    let chain = opened(&args.image, &OpenOptions { alone: true, ..options(&args.image, true) })?;
    let image = qcow2(&chain, path)?;
    let Some(name) = image.header().backing.clone() else {
        return Err(format!("{}: it has no backing file to commit to", escape(path)).into());
    };
    let (_, behind) = hv_disk::open_backing(&chain, &options(&args.image, true))?;
    let size = image.size();
    if size > behind.image.size() {
        let name = String::from_utf8_lossy(&name).into_owned();
        return Err(format!(
            "{}: its disk is larger than that of its backing file; `hv disk resize {} {size}` first",
            escape(path),
            escape(&name)
        )
        .into());
    }
    let mut bar = Bar::new("commit", size);
    let copied = each_chunk(
        size,
        |offset, len| {
            let (mut at, end) = (offset, offset + len);
            while at < end {
                let (layer, len) = image.layer(at, end - at)?;
                match layer {
                    Layer::Behind => {}
                    Layer::Zeroes => behind.image.zero(at, len)?,
                    Layer::Data => {
                        let mut bytes = vec![0; len as usize];
                        image.read(&mut bytes, at)?;
                        behind.image.write(&bytes, at)?;
                    }
                }
                at += len;
            }
            Ok(())
        },
        |done| bar.at(done),
    );
    drop(bar);
    copied.map_err(about(path))?;
    // Only then is the image emptied.
    finish(&behind, path)?;
    image.make_empty().map_err(about(path))?;
    Ok(0)
}

/// Puts an image onto another backing file.
pub(super) fn rebase(args: &RebaseArgs) -> Result<u8, Box<dyn Error>> {
    let path = &args.image.image;
    let alone = args.only_name;
    let chain = opened(&args.image, &OpenOptions { alone, ..options(&args.image, true) })?;
    let image = qcow2(&chain, path)?;
    let backing = args.backing.as_ref().zip(args.backing_format);
    if !args.only_name {
        let new = match backing {
            None => None,
            Some((name, format)) => {
                let behind = path.parent().unwrap_or(Path::new("")).join(name);
                Some(open_path(&behind, Some(format.into()), &options(&args.image, false))?)
            }
        };
        let size = image.size();
        let mut bar = Bar::new("rebase", size);
        let cluster = image.header().cluster_size();
        let copied = each_chunk(
            size,
            |offset, len| {
                for at in (offset..offset + len).step_by(cluster as usize) {
                    keep(
                        &image,
                        new.as_ref().map(|chain| &*chain.image),
                        at,
                        cluster.min(offset + len - at),
                    )?;
                }
                Ok(())
            },
            |done| bar.at(done),
        );
        drop(bar);
        copied.map_err(about(path))?;
    }
    let name = backing.map(|(name, format)| (name.as_os_str().as_bytes(), Format::from(format)));
    image.set_backing(name).map_err(about(path))?;
    finish(&chain, path)?;
    Ok(0)
}

/// Gives an image of its own what would change under it.
fn keep(
    image: &hv_disk::qcow2::Qcow2,
    new: Option<&dyn Image>,
    offset: u64,
    len: u64,
) -> std::io::Result<()> {
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let (layer, count) = image.layer(at, end - at)?;
        if layer == Layer::Behind {
            let mut now = vec![0; count as usize];
            image.read(&mut now, at)?;
            let mut then = vec![0; count as usize];
            if let Some(new) = new {
                let there = new.size().saturating_sub(at).min(count);
                if there > 0 {
                    new.read(&mut then[..there as usize], at)?;
                }
            }
            if now != then {
                match is_zero(&now) {
                    true => image.zero(at, count)?,
                    false => image.write(&now, at)?,
                }
            }
        }
        at += count;
    }
    Ok(())
}
