//! `hv run`: one guest in the foreground.

use super::args::{Format, NetKind, PlatformKind, RunArgs};
use super::signals::Signals;
use super::{exit, guests, stats};
use crate::device::block::Disk;
use crate::device::net::user::{UserConfig, UserNet};
use crate::device::net::{Capture, Network, Tap};
use crate::device::stdio::{Stdin, Stdout};
use crate::domain::{Builder, Guest, Outcome, Stop};
use crate::engine::Engine;
use crate::loader::Image;
use crate::platform::kvm::KvmPlatform;
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// Boots the guest, waits for its end, and returns hv's exit code.
pub(super) fn run(args: RunArgs) -> Result<u8, Box<dyn Error>> {
    refuse_what_has_not_come(&args)?;
    let path = guests::resolve(&args.image)?;
    let image = Image::open(&path)?;
    let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();

    let mut builder = Builder::new(image).name(name).memory(args.memory).output(Stdout).input(Stdin);
    builder = builder.weight(args.weight).cap(args.cap);
    for argument in &args.arguments {
        builder = builder.argument(argument);
    }
    for (key, value) in &args.variables {
        builder = builder.variable(key, value);
    }
    for disk in &args.disks {
        builder = builder.disk(Disk::open(disk)?);
    }
    builder = with_network(builder, &args)?;

    // Without threads of its own, the engine runs the guest on this one.
    let engine = Engine::new(KvmPlatform::new()?, 0)?;
    let guest = builder.spawn(&engine)?;
    let signal = Arc::new(AtomicI32::new(0));
    let signals = Signals::new(guest.controller(), args.timeout, signal.clone())?;
    engine.add_source(Box::new(signals));

    let outcome = guest.wait();
    report(&args, &guest, &outcome);
    Ok(match outcome {
        Outcome::Exited(code) => code,
        Outcome::Crashed(_) => exit::CRASHED,
        Outcome::Stopped(Stop::Timeout) => exit::TIMEOUT,
        Outcome::Stopped(Stop::OutputClosed) => exit::OUTPUT_CLOSED,
        Outcome::Stopped(Stop::Interrupted | Stop::Dropped) => match signal.load(Ordering::SeqCst) {
            signal_hook::consts::SIGTERM => exit::TERMINATED,
            _ => exit::INTERRUPTED,
        },
    })
}

/// Options that the command line has, and this version does not do.
fn refuse_what_has_not_come(args: &RunArgs) -> Result<(), String> {
    if args.vcpus != 1 {
        return Err(format!("--vcpus {}: this version runs guests with one virtual CPU", args.vcpus));
    }
    if args.platform == PlatformKind::Process {
        return Err("--platform process: this version has the kvm platform only".into());
    }
    Ok(())
}

fn with_network(builder: Builder, args: &RunArgs) -> Result<Builder, Box<dyn Error>> {
    let kind = match &args.net {
        Some(kind) => kind,
        None if !args.publish.is_empty() => &NetKind::User,
        None if args.pcap.is_some() => {
            return Err("--pcap: the guest has no network to capture; add --net".into());
        }
        None => return Ok(builder),
    };
    let capture = args.pcap.as_deref().map(|path: &Path| Capture::create(path)).transpose()?;
    let network: Box<dyn Network> = match kind {
        NetKind::User => {
            let mut config = UserConfig::new(random_mac()?);
            config.publish = args.publish.clone();
            let network = UserNet::new(config)?;
            // Where the kernel chose the port, somebody has to say which.
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
    Ok(builder.network(network, capture))
}

/// A random hardware address: locally administered, unicast.
fn random_mac() -> std::io::Result<[u8; 6]> {
    let mut mac = [0; 6];
    crate::hypercall::random(&mut mac)?;
    mac[0] = mac[0] & 0xfc | 0x02;
    Ok(mac)
}

/// Prints the crash report and the statistics on standard error.
fn report(args: &RunArgs, guest: &Guest, outcome: &Outcome) {
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
    // If nobody reads standard error any more, there is nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
