//! `hv run`: one guest in the foreground.

use super::args::{BootArgs, ForegroundArgs, Format, NetArgs, NetKind, RunArgs};
use super::control::{self, ControlSocket};
use super::name_servers::Followed;
use super::platform::platform;
use super::sampler::Sampler;
use super::signals::Signals;
use super::values::Memory;
use super::{exit, guests, jail, stats};
use hv_core::device::block::{Disk, DiskSpec};
use hv_core::device::net::user::{UserConfig, UserNet};
use hv_core::device::net::{Capture, Network, Tap};
use hv_core::device::share::{Folder, ShareSpec};
use hv_core::device::stdio::{Stderr, Stdin, Stdout};
use hv_core::domain::{Builder, Guest, Outcome, Stop};
use hv_core::engine::Engine;
use hv_core::loader::Image;
use hv_core::sched::{Share, ShareError};
use hv_host::escape::escape;
use hv_host::limits::group::MEMORY;
use hv_host::machine::EqualPages;
use hv_jail::Kind;
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// A network, and where its frames are to be written.
pub(super) type NetworkAndCapture = (Box<dyn Network>, Option<Capture>);

/// Sees a disk that was opened.
pub(super) type EachDisk<'a> = dyn FnMut(&DiskSpec, &Disk) -> Result<(), Box<dyn Error>> + 'a;

/// Boots the guest, waits for its end, and returns hv's exit code.
pub(super) fn run(args: RunArgs) -> Result<u8, Box<dyn Error>> {
    let builder = builder(&args.boot, &args.net, &args.foreground, &mut |_, _| Ok(()))?;
    // Without threads of its own, the engine runs a guest with one virtual CPU on this one.
    let platform = platform(args.boot.platform)?;
    // What is not open yet are the files of overlays and of shares.
    let (places, shares) = (jail::overlays(args.boot.disks.iter()).into_iter().collect(), &args.boot.shares);
    // For the threads of disks and shares, those that run virtual CPUs, and the one that keeps the cap.
    let workers = workers(args.boot.vcpus.most);
    let files = !args.boot.disks.is_empty() || !shares.is_empty();
    let late = files || args.foreground.cap > 0 || workers > 0;
    let control = ControlSocket::asked_for(&args.control)?;
    jail::process(args.foreground.no_jail, &*platform, Kind::Run, late, places, shares)?;
    let engine = Engine::new(platform, workers)?;
    let guest = builder.spawn(&engine)?;
    foreground(&engine, &guest, &args.foreground, control)
}

/// Describes the guest of a command line; `each_disk` is called with its disks.
pub(super) fn builder(
    boot: &BootArgs,
    net: &NetArgs,
    foreground: &ForegroundArgs,
    each_disk: &mut EachDisk<'_>,
) -> Result<Builder, Box<dyn Error>> {
    let path = guests::resolve(&boot.image)?;
    let image = Image::open(&path)?;
    let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();

    let mut builder =
        Builder::new(image).name(name).memory(boot.memory.most).promised_memory(boot.memory.promised);
    check_memory(boot.memory)?;
    builder = builder.vcpus(boot.vcpus.most).vcpus_target(boot.vcpus.target);
    builder = builder.output(Stdout).error_output(Stderr).input(Stdin);
    builder = builder.share(share(foreground)?);
    if shares_equal_pages(foreground) {
        builder = builder.share_equal_pages();
    }
    if let Some(stack) = boot.stack {
        builder = builder.stack(stack);
    }
    for argument in &boot.arguments {
        builder = builder.argument(argument);
    }
    for (key, value) in &boot.variables {
        builder = builder.variable(key, value);
    }
    for spec in &boot.disks {
        let disk = Disk::open(spec)?;
        each_disk(spec, &disk)?;
        builder = builder.disk(disk);
    }
    if let Some((network, capture)) = network(net, foreground.no_jail)? {
        builder = builder.network(network, capture);
    }
    for folder in folders(&boot.shares)? {
        builder = builder.folder(folder);
    }
    Ok(builder)
}

/// The folders of shares, opened. Their tags are different.
pub(super) fn folders(shares: &[ShareSpec]) -> Result<Vec<Folder>, Box<dyn Error>> {
    for (n, share) in shares.iter().enumerate() {
        if shares[..n].iter().any(|other| other.tag == share.tag) {
            return Err(format!("--share: two shares are called {}; name one FOLDER=TAG", share.tag).into());
        }
    }
    Ok(shares.iter().map(Folder::open).collect::<Result<_, _>>()?)
}

/// The share of the processors that was asked for.
pub(super) fn share(args: &ForegroundArgs) -> Result<Share, ShareError> {
    Share::new(args.weight, args.cap)
}

/// Whether the guest is to share equal pages. Says so if the host does not do that yet.
pub(super) fn shares_equal_pages(args: &ForegroundArgs) -> bool {
    if args.share_equal_pages && EqualPages::of_this_host() == EqualPages::Stopped {
        let _ = writeln!(
            std::io::stderr(),
            "hv: warning: --share-equal-pages: no pages are shared before the kernel's KSM is started ({})",
            EqualPages::REMEDY
        );
    }
    args.share_equal_pages
}

/// Whether this host has what a guest is promised, if that is not all of its memory.
fn check_memory(memory: Memory) -> Result<(), String> {
    if memory.promised >= memory.most {
        return Ok(());
    }
    let available = hv_host::machine::available_memory();
    let group = MEMORY.lowest();
    let limit = group.as_ref().map(|(limit, file)| (*limit, file.as_str()));
    lacks_memory(memory.promised, available, limit).map_or(Ok(()), Err)
}

/// Why a guest cannot be promised so many bytes, on a host with so many available and such a limit of the control group, which
/// a file has.
fn lacks_memory(promised: u64, available: Option<u64>, group: Option<(u64, &str)>) -> Option<String> {
    let mib = promised.div_ceil(1 << 20);
    if let Some((limit, file)) = group.filter(|(limit, _)| promised > *limit) {
        return Some(format!(
            "--memory: {mib} MiB cannot be promised to a guest, since the control group of hv has {} MiB ({}); promise less, or raise its limit",
            limit >> 20,
            escape(file)
        ));
    }
    available.filter(|available| promised > *available).map(|available| {
        format!(
            "--memory: {mib} MiB cannot be promised to a guest, since {} MiB of this host's memory are available; promise less, or end other programs",
            available >> 20
        )
    })
}

/// Ends a guest at signals and its time limit, and prints its state at SIGQUIT. Returns which signal ended
/// it.
pub(super) fn watch(
    engine: &Engine,
    guest: &Guest,
    args: &ForegroundArgs,
) -> std::io::Result<Arc<AtomicI32>> {
    let signal = Arc::new(AtomicI32::new(0));
    let signals = Signals::new(guest.controller(), args.timeout, signal.clone(), args.format)?;
    engine.add_source(Box::new(signals));
    if args.stats {
        engine.add_source(Box::new(Sampler(guest.controller())));
    }
    Ok(signal)
}

/// Waits for the end of a guest, reports it, and returns hv's exit code.
pub(super) fn foreground(
    engine: &Engine,
    guest: &Guest,
    args: &ForegroundArgs,
    control: Option<ControlSocket>,
) -> Result<u8, Box<dyn Error>> {
    let signal = watch(engine, guest, args)?;
    // After that: a client that has the guest stopped does it by a signal.
    control::serve(control, engine, guest, share(args)?);
    hv_jail::enter(Kind::Run);
    let outcome = guest.wait();
    report(args, guest, &outcome);
    Ok(match outcome {
        Outcome::Exited(code) => code,
        Outcome::Crashed(_) => exit::CRASHED,
        Outcome::Stopped(stop) => exit_of(stop, &signal),
    })
}

/// The exit code after a guest that was stopped; says why if nothing else does.
pub(super) fn exit_of(stop: Stop, signal: &AtomicI32) -> u8 {
    match stop {
        Stop::Timeout => exit::TIMEOUT,
        Stop::OutputClosed => exit::OUTPUT_CLOSED,
        // `hv run` sets no budget.
        Stop::MemoryBudget => exit::CRASHED,
        Stop::OutputFailed(number) => {
            let error = std::io::Error::from_raw_os_error(number);
            let _ = writeln!(
                std::io::stderr(),
                "hv: error: standard output cannot be written, and the guest was ended: {error}"
            );
            exit::OUTPUT_FAILED
        }
        Stop::Interrupted | Stop::Dropped => match signal.load(Ordering::SeqCst) {
            signal_hook::consts::SIGTERM => exit::TERMINATED,
            signal_hook::consts::SIGHUP => exit::HUNG_UP,
            _ => exit::INTERRUPTED,
        },
    }
}

/// How many threads run the virtual CPUs of one guest: as many as can run at the same time. For one there is the thread that waits.
pub(super) fn workers(vcpus: usize) -> usize {
    match vcpus {
        1 => 0,
        _ => std::thread::available_parallelism().map_or(1, |processors| processors.get()).min(vcpus),
    }
}

/// The network that was asked for.
pub(super) fn network(args: &NetArgs, no_jail: bool) -> Result<Option<NetworkAndCapture>, Box<dyn Error>> {
    let kind = match &args.net {
        Some(kind) => kind,
        None if !args.publish.is_empty() => &NetKind::User { host_loopback: false },
        None if args.pcap.is_some() => {
            return Err("--pcap: the guest has no network to capture; add --net".into());
        }
        None => return Ok(None),
    };
    let capture = args.pcap.as_deref().map(|path: &Path| Capture::create(path)).transpose()?;
    let network: Box<dyn Network> = match kind {
        NetKind::User { host_loopback } => {
            let mut config = UserConfig::new(random_mac()?);
            config.host_loopback = *host_loopback;
            config.publish = args.publish.clone();
            let followed = if no_jail { None } else { name_servers() };
            if let Some(followed) = &followed {
                config.resolv_conf = followed.path();
            }
            let network = UserNet::new(config)?;
            // As long as this process lives.
            std::mem::forget(followed);
            // If the kernel chose the port, it is printed.
            let chosen =
                args.publish.iter().zip(network.published()).filter(|(asked, _)| asked.host.port() == 0);
            for (_, publish) in chosen {
                let _ = writeln!(std::io::stderr(), "hv: published {publish}");
            }
            Box::new(network)
        }
        NetKind::Tap(_) if !args.publish.is_empty() => {
            return Err("--publish: ports are published by `--net user`; on a tap the guest has an address of its own".into());
        }
        NetKind::Tap(name) => Box::new(Tap::open(name, random_mac()?)?),
        NetKind::Switch(name) => {
            return Err(
                format!("--net switch={name}: this version has no switches; use user or tap=NAME").into()
            );
        }
    };
    Ok(Some((network, capture)))
}

/// A file with the host's name servers, for a network whose jail lets it open none.
fn name_servers() -> Option<Followed> {
    let followed = Followed::new();
    if let Err(error) = &followed {
        tracing::debug!("another file that becomes /etc/resolv.conf is not seen: {error}");
    }
    followed.ok()
}

/// A random hardware address: locally administered, unicast.
fn random_mac() -> std::io::Result<[u8; 6]> {
    let mut mac = [0; 6];
    hv_core::hypercall::random(&mut mac)?;
    mac[0] = mac[0] & 0xfc | 0x02;
    Ok(mac)
}

/// Prints the crash report and the statistics on standard error.
fn report(args: &ForegroundArgs, guest: &Guest, outcome: &Outcome) {
    let mut text = String::new();
    match (args.format, outcome) {
        (Format::Text, Outcome::Crashed(report)) => text += &report.to_string(),
        (Format::Text, Outcome::Stopped(Stop::Timeout)) => text += "hv: the guest was ended by --timeout\n",
        _ => {}
    }
    if args.stats && args.format == Format::Text {
        text += &stats::text(guest);
    }
    if args.format == Format::Json && (args.stats || matches!(outcome, Outcome::Crashed(_))) {
        let mut object = serde_json::json!({ "outcome": outcome });
        if args.stats {
            object["stats"] = stats::json(guest);
        }
        text += &format!("{object}\n");
    }
    // Standard error may be closed: an error of the write is ignored.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_has_to_be_there() {
        let lacks = |promised: u64, available, group| lacks_memory(promised << 20, available, group);
        let (much, little) = (Some(1000 << 20), Some(9 << 20));
        assert_eq!(lacks(10, much, None), None);
        assert_eq!(lacks(10, None, None), None, "the host does not say");
        assert!(lacks(10, little, None).unwrap().contains("since 9 MiB of this host's memory are available"));
        let group = Some((5 << 20, "/sys/fs/cgroup/memory.max"));
        assert!(lacks(10, much, group).unwrap().contains("has 5 MiB (/sys/fs/cgroup/memory.max)"));
    }
}
