//! Threads that work on files: a file system may make them wait, and nobody else is to wait for it.

use crossbeam_channel::{Receiver, Sender, unbounded};
use hv_jail as jail;
use hv_jail::Kind;
use std::io;
use tokio::sync::oneshot;

/// How many there are.
const THREADS: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// The threads. At most as many jobs wait as guests have calls.
#[derive(Clone)]
pub(crate) struct Files {
    jobs: Sender<Job>,
    waiting: Receiver<Job>,
}

impl Files {
    /// Jobs wait until the threads are [started](Self::start).
    pub(crate) fn new() -> Files {
        let (jobs, waiting) = unbounded();
        Files { jobs, waiting }
    }

    /// Starts the threads, which live as long as the process.
    pub(crate) fn start(&self) -> io::Result<()> {
        for number in 0..THREADS {
            let waiting = self.waiting.clone();
            jail::spawn(Kind::Files, format!("hv-files{number}"), move || {
                waiting.into_iter().for_each(|job: Job| job());
            })?;
        }
        Ok(())
    }

    /// Has this done, whether or not somebody waits for it.
    pub(crate) fn send(&self, job: impl FnOnce() + Send + 'static) {
        // The threads end with the process.
        let _ = self.jobs.send(Box::new(job));
    }

    /// Does this on one of the threads.
    pub(crate) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, wait) = oneshot::channel();
        self.send(move || drop(done.send(job())));
        wait.await.expect("the threads end with the process")
    }

    /// As [`run`](Self::run), for a thread that may wait.
    pub(crate) fn run_blocking<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, wait) = crossbeam_channel::bounded(1);
        self.send(move || drop(done.send(job())));
        wait.recv().expect("the threads end with the process")
    }
}
