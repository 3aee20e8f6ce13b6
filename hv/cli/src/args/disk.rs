//! Options of `hv disk`.

use super::Format;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use hv_host::units;
use std::path::PathBuf;

/// Formats of disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImageFormat {
    /// The file's bytes are the disk's.
    Raw,
    /// qcow2.
    Qcow2,
}

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Packing {
    /// Deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// What `hv disk check` repairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RepairKind {
    /// Clusters that nothing names become free.
    Leaks,
    /// Refcounts become right as well.
    All,
}

/// Options of `hv disk`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv disk create new.qcow2 1G
  hv disk convert data.img data.qcow2
  hv disk info data.qcow2
  hv disk check data.qcow2 --format json
  hv disk compare data.img data.qcow2

docs/disks.md has recipes.")]
pub struct DiskArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DiskCommand,
}

/// What `hv disk` can do.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// Make an empty image.
    Create(CreateArgs),
    /// Say what an image is.
    Info(InfoArgs),
    /// Copy a disk to a new image of any format.
    Convert(ConvertArgs),
    /// Make a disk larger or smaller.
    Resize(ResizeArgs),
    /// Look whether an image is whole; exit code 1 if not, 3 if space is lost only.
    Check(CheckArgs),
    /// Say where the data of a disk is.
    Map(MapArgs),
    /// Compare two disks; exit code 1 if they differ.
    Compare(CompareDisksArgs),
    /// Write what an image has into its backing file, and empty it.
    Commit(CommitArgs),
    /// Put an image onto another backing file.
    Rebase(RebaseArgs),
    /// List, make, go back to or delete snapshots inside an image.
    Snapshot(InternalArgs),
}

/// An image, and how it is opened.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// The image.
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// Its format, where its name does not end in .qcow2 or its bytes say something else.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub input_format: Option<ImageFormat>,
    /// A folder, beside the image's own, that its backing files may be in. Repeatable.
    #[arg(long = "base", value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub bases: Vec<PathBuf>,
    /// Read it although another program may be writing it: what is read may be of no one moment, and look damaged.
    #[arg(long)]
    pub force_share: bool,
}

/// How new qcow2 images are.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// Bytes of a cluster: 512 to 2M, a power of two.
    #[arg(long, value_name = "SIZE", value_parser = units::size, default_value = "64K")]
    pub cluster_size: u64,
    /// The version of qcow2: 3, or 2 for programs older than 2012.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub qcow2_version: u32,
    /// Bits of a refcount: 1 to 64, a power of two.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub refcount_bits: u32,
    /// Subclusters: 32 parts of a cluster are written each by itself.
    #[arg(long)]
    pub extended_l2: bool,
    /// How clusters are compressed where they are.
    #[arg(long, value_enum, default_value_t = Packing::Zlib)]
    pub compression: Packing,
}

/// Options of `hv disk create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv disk create data.qcow2 20G
  hv disk create data.img 64M
  hv disk create mine.qcow2 --backing golden.qcow2 --backing-format qcow2")]
pub struct CreateArgs {
    /// The new file. It is qcow2 if its name ends in .qcow2, raw otherwise.
    #[arg(value_hint = ValueHint::FilePath)]
    pub image: PathBuf,
    /// Bytes of the disk, such as 20G. Left out: those of the backing file.
    #[arg(value_parser = units::size, required_unless_present = "backing")]
    pub size: Option<u64>,
    /// Another format than its name says.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub output_format: Option<ImageFormat>,
    /// What is seen where nothing was written: another image, by its name as seen from the new one.
    #[arg(long, value_name = "FILE", requires = "backing_format", value_hint = ValueHint::FilePath)]
    pub backing: Option<PathBuf>,
    /// The format of the backing file.
    #[arg(long, value_enum, value_name = "FORMAT", requires = "backing")]
    pub backing_format: Option<ImageFormat>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub new: NewArgs,
}

/// Options of `hv disk info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub image: ImageArgs,
    /// How it is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Options of `hv disk snapshot`.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("action").required(false),
    after_help = "Examples:
  hv disk snapshot data.qcow2
  hv disk snapshot data.qcow2 --create before-upgrade
  hv disk snapshot data.qcow2 --apply before-upgrade
  hv disk snapshot data.qcow2 --delete before-upgrade"
)]
pub struct InternalArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub image: ImageArgs,
    /// Keep what the disk has now under this name.
    #[arg(long, value_name = "NAME", group = "action")]
    pub create: Option<String>,
    /// Have the disk as it was kept under this name or number; what it has now is gone.
    #[arg(long, value_name = "NAME", group = "action")]
    pub apply: Option<String>,
    /// Give up what was kept under this name or number.
    #[arg(long, value_name = "NAME", group = "action")]
    pub delete: Option<String>,
    /// How the list is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Options of `hv disk convert`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv disk convert disk.img disk.qcow2
  hv disk convert --compress --compression zstd disk.img small.qcow2
  hv disk convert overlay.qcow2 flat.img")]
pub struct ConvertArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub image: ImageArgs,
    /// The new file. It is qcow2 if its name ends in .qcow2, raw otherwise.
    #[arg(value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Another format than its name says.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub output_format: Option<ImageFormat>,
    /// Compress clusters.
    #[arg(short, long)]
    pub compress: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub new: NewArgs,
}

/// Options of `hv disk resize`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv disk resize data.qcow2 40G
  hv disk resize --shrink data.qcow2 10G        what was behind 10 GiB is gone")]
pub struct ResizeArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub image: ImageArgs,
    /// The new size.
    #[arg(value_parser = units::size)]
    pub size: u64,
    /// Let what is behind the new size go.
    #[arg(long)]
    pub shrink: bool,
}

/// Options of `hv disk check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub image: ImageArgs,
    /// Repair what can be repaired.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub repair: Option<RepairKind>,
    /// How it is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Options of `hv disk map`.
#[derive(Debug, Args)]
pub struct MapArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub image: ImageArgs,
    /// How it is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Options of `hv disk compare`.
#[derive(Debug, Args)]
pub struct CompareDisksArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub image: ImageArgs,
    /// The other image.
    #[arg(value_hint = ValueHint::FilePath)]
    pub other: PathBuf,
    /// The format of the other image.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub other_format: Option<ImageFormat>,
    /// Disks of different sizes differ, even if there are zeroes behind the smaller one.
    #[arg(long)]
    pub strict: bool,
    /// How it is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Options of `hv disk commit`.
#[derive(Debug, Args)]
pub struct CommitArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub image: ImageArgs,
}

/// Options of `hv disk rebase`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv disk rebase mine.qcow2 --backing newer.qcow2 --backing-format qcow2
  hv disk rebase mine.qcow2                                   without any: it gets all that it needs
  hv disk rebase --unsafe mine.qcow2 --backing moved.img --backing-format raw")]
pub struct RebaseArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub image: ImageArgs,
    /// The new backing file, by its name as seen from the image. Left out: none.
    #[arg(long, value_name = "FILE", requires = "backing_format", value_hint = ValueHint::FilePath)]
    pub backing: Option<PathBuf>,
    /// Its format.
    #[arg(long, value_enum, value_name = "FORMAT", requires = "backing")]
    pub backing_format: Option<ImageFormat>,
    /// Change the name only: the new file has to have the content of the old one, which need not be there.
    #[arg(long = "unsafe")]
    pub only_name: bool,
}
