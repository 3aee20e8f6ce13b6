//! Finding a console, a disk and a network: by probing hardware, and by reading start-info.
#![forbid(unsafe_code)]

use crate::hardware::block::VirtioDisk;
use crate::hardware::console::VirtioConsole;
use crate::hardware::{ata, net, uart};
use crate::meter::failed;
use alloc::string::String;
use hv_guest::{block_on, console, executor};

/// Probes and initialises a UART, an ATA disk, and the virtio devices for disk
/// and network, as a guest has to that knows nothing of its machine.
pub fn probe() -> Result<(), String> {
    let mut uart = uart::open()?;
    let ata = ata::AtaDisk::open()?;
    let disk = VirtioDisk::open()?;
    if ata.sectors() != disk.sectors() {
        return Err("two ways to the same disk, and two sizes".into());
    }
    net::up()?;
    uart.send_bytes_exact(b"up\n");
    Ok(())
}

/// Initialises a virtio console, disk and network whose places it knows: a machine with nothing but virtio.
pub fn probe_virtio() -> Result<(), String> {
    let mut console = VirtioConsole::open()?;
    if VirtioDisk::open()?.sectors() == 0 {
        return Err("an empty disk".into());
    }
    net::up()?;
    console.write(b"up\n");
    Ok(())
}

/// Looks the same devices up in start-info, and makes them ready.
pub fn look() -> Result<(), String> {
    let disk = hv_guest::block::disk(0).ok_or("the guest was given no disk")?;
    if disk.sectors() == 0 {
        return Err("an empty disk".into());
    }
    block_on(hv_guest::net::up(executor::spawner())).map_err(|error| failed("the network", error))?;
    console::write(b"up\n");
    Ok(())
}
