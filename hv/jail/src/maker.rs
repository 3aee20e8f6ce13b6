//! The thread that makes threads.
//!
//! A thread inherits the filter of the one that makes it. If hv's I/O thread made the threads of a disk, it
//! would have to be allowed all that they are. So threads with a filter ask this thread. It handles no
//! guest's data, and its filter allows what those of the threads that it makes allow.

use super::{Kind, Platform, filter};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::io;
use std::thread::{Builder, JoinHandle};

type Body = Box<dyn FnOnce() + Send>;

struct ThreadRequest {
    name: String,
    body: Body,
    made: Sender<io::Result<JoinHandle<()>>>,
}

/// Asks for threads.
pub(super) struct ThreadMaker(Sender<ThreadRequest>);

impl ThreadMaker {
    /// Starts the thread. It lives as long as the process.
    pub(super) fn start(
        platform: Platform,
        shares: bool,
        makes: &'static [Kind],
        filters: bool,
    ) -> io::Result<ThreadMaker> {
        let (requests, receiver) = unbounded();
        Builder::new().name("hv-maker".into()).spawn(move || {
            if filters {
                super::confine(Kind::Maker, filter::no_clone3);
                super::confine(Kind::Maker, || filter::program(Kind::Maker, platform, shares, makes));
            }
            work(&receiver);
        })?;
        Ok(ThreadMaker(requests))
    }

    /// Makes a thread.
    pub(super) fn make(&self, name: String, body: Body) -> io::Result<JoinHandle<()>> {
        let (made, wait) = bounded(1);
        let gone = || io::Error::other("the thread that makes threads has ended");
        self.0.send(ThreadRequest { name, body, made }).map_err(|_| gone())?;
        wait.recv().map_err(|_| gone())?
    }
}

fn work(requests: &Receiver<ThreadRequest>) {
    for request in requests {
        let _ = request.made.send(Builder::new().name(request.name).spawn(request.body));
    }
}
