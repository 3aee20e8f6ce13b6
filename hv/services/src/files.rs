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
pub(crate) struct Files(Sender<Job>);

impl Files {
    pub(crate) fn start() -> io::Result<Files> {
        let (jobs, receiver) = unbounded();
        for number in 0..THREADS {
            let receiver: Receiver<Job> = receiver.clone();
            jail::spawn(Kind::Files, format!("hv-files{number}"), move || {
                receiver.into_iter().for_each(|job: Job| job());
            })?;
        }
        Ok(Files(jobs))
    }

    /// Has this done, whether or not somebody waits for it.
    pub(crate) fn send(&self, job: impl FnOnce() + Send + 'static) {
        // The threads end with the process.
        let _ = self.0.send(Box::new(job));
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
