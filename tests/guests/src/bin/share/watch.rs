//! What changes on the host.

use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::Poll;
use hv_guest::abi::Errno;
use hv_guest::abi::io::share::{CHANGES_WAITING, WATCHED_MAX};
use hv_guest::block_on;
use hv_guest::embassy_time::{Duration, with_timeout};
use hv_guest::fs::FileSystem;
use hv_guest::prelude::*;
use hv_guest::share::{CHANGES_NOW, OPEN_READ, ROOT, Share, Watch};

/// Prints what changes in a folder, until something of the name `end` is made.
pub(crate) async fn until_the_end(files: FileSystem, path: &str) {
    let mut watch = files.watch(path).unwrap();
    println!("watching");
    loop {
        let change = match watch.next().await {
            Ok(change) => change,
            Err(error) => {
                println!("{error}");
                return;
            }
        };
        let pair = if change.pair.is_some() { ", paired" } else { "" };
        println!("{:?} {}{}{pair}", change.kind, change.name, if change.is_dir { "/" } else { "" });
        if change.name == "end" {
            return;
        }
    }
}

/// Waits for changes that do not come, twice on one watch; then watches what cannot be watched.
pub(crate) async fn and_go(share: Share, path: &str) {
    let mut watch = Watch::new(share, ROOT, path.as_bytes()).unwrap();
    for _ in 0..2 {
        match with_timeout(Duration::from_millis(30), watch.next()).await {
            Err(_) => println!("nothing"),
            Ok(event) => println!("{event:?}"),
        }
    }
    // With a request under way.
    drop(watch);
    println!("{:?}", Watch::new(share, ROOT, b"fifo").unwrap_err());
    println!("{:?}", share.watch(ROOT).block().unwrap_err());
}

/// Watches and fetches more than is allowed.
pub(crate) fn for_good(share: Share, path: &str) {
    let open = || share.open(ROOT, path.as_bytes(), OPEN_READ).block().unwrap();
    let handles: Vec<u64> = (0..=WATCHED_MAX).map(|_| open()).collect();
    let (last, watched) = handles.split_last().unwrap();
    for handle in watched {
        assert_eq!(share.watch(*handle).block(), Ok(0));
    }
    assert_eq!(share.watch(*last).block(), Err(Errno::TooManyOpen));
    let mut buffer = [0; 512];
    assert_eq!(share.changes(*last, 0, &mut buffer).block(), Err(Errno::Invalid));
    assert_eq!(share.changes(watched[0], 1 << 9, &mut buffer).block(), Err(Errno::Invalid));
    assert_eq!(share.changes(watched[0], 0, &mut buffer[..100]).block(), Err(Errno::Invalid));
    assert_eq!(share.changes(watched[0], CHANGES_NOW, &mut buffer).block(), Ok(0));
    block_on(fetches_without_end(share, &watched[..CHANGES_WAITING + 8]));
    handles[CHANGES_WAITING + 8..].iter().for_each(|handle| share.close(*handle));
    // There is room again.
    let again = open();
    while share.watch(again).block() == Err(Errno::TooManyOpen) {}
    assert_eq!(share.changes(again, CHANGES_NOW, &mut buffer).block(), Ok(0));
}

/// Waits for changes of all these handles at the same time: 8 more than may wait. The others are answered when their handles are closed.
async fn fetches_without_end(share: Share, handles: &[u64]) {
    let mut buffers = vec![[0; 512]; handles.len()];
    let calls = handles.iter().zip(&mut buffers).map(|(handle, buffer)| share.changes(*handle, 0, buffer));
    let mut calls: Vec<_> = calls.map(Some).collect();
    let (mut refused, mut closed, mut told) = (0, 0, false);
    poll_fn(|context| {
        for slot in &mut calls {
            let Some(Poll::Ready(outcome)) = slot.as_mut().map(|call| Pin::new(call).poll(context)) else {
                continue;
            };
            *slot = None;
            match outcome {
                Err(Errno::Busy) => refused += 1,
                Err(Errno::BadHandle) => closed += 1,
                other => panic!("{other:?}"),
            }
        }
        if refused == 8 && !told {
            told = true;
            handles.iter().for_each(|handle| share.close(*handle));
        }
        if calls.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    assert_eq!((refused, closed), (8, CHANGES_WAITING));
}
