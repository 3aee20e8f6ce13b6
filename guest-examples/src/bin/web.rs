//! An HTTP server for the files of the first share, or else of the first disk, FAT or ext4.
//!
//! ```text
//! hv run web --share docs,ro --publish 8080:80    # a folder of the host, as it is at each moment
//! hv run web --disk docs --publish 8080:80    # a folder of the host, as it was at the start
//! hv run web --disk site.img --publish 8080:80 --memory 64M
//! curl http://127.0.0.1:8080/
//! ```
#![no_std]
#![no_main]

extern crate alloc;

use alloc::rc::Rc;
use hv_guest::http::{self, Files, Request};
use hv_guest::net::{self, Serve};
use hv_guest::prelude::*;
use hv_guest::{block, fs, memory, share};

const PORT: u16 = 80;

#[hv_guest::entry]
async fn main(spawner: hv_guest::Spawner) -> Result<(), String> {
    let heap = hv_guest::heap_size();
    let files = Rc::new(match share::shares().next() {
        Some(share) => {
            println!("share {}", share.tag());
            // What changes on the host is seen, so nothing is kept, unless nothing changes.
            let kept = if share.unchanging() { heap / 8 } else { 0 };
            Files::new(fs::open_share(share).into_async(), kept)
        }
        None => Files::new(disk()?.into_async(), heap / 8),
    });
    // When the host is short of memory, files are read again.
    let cached = files.clone();
    hv_guest::spawn(async move {
        let mut pressure = memory::Pressure::new();
        loop {
            cached.give_up(pressure.next().await);
        }
    });
    // A connection's buffers are memory set aside: more of it, more under way.
    let serve = Serve { send_buffer: (heap / 640).clamp(8 << 10, 256 << 10), ..Serve::default() };
    let stack = net::up(spawner).await.map_err(|error| error.to_string())?;
    http::serve(stack, PORT, serve, async move |request: &Request<'_>| files.respond(request).await)
        .map_err(|error| error.to_string())?;
    println!("web: listening on port {PORT}");
    hv_guest::ready();

    hv_guest::shutdown().await;
    Ok(())
}

/// The files of the first disk.
fn disk() -> Result<fs::FileSystem, String> {
    let disk =
        block::disk(0).ok_or("no files: run it with --share FOLDER,ro, --disk FILE or --disk FOLDER")?;
    let root = fs::open_root(disk).map_err(|error| format!("disk 0: {error}"))?;
    println!("disk 0: {}, {} bytes", root.kind(), disk.size());
    Ok(root)
}
