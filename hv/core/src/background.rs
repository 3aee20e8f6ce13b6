//! Work that no caller may wait for. It runs on a thread of its own, with a bounded queue.

use crossbeam_channel::{Sender, TrySendError, bounded};
use hv_jail as jail;
use hv_jail::Kind;
use std::io;
use std::thread::JoinHandle;

/// A piece of work. Each is done once, in the order of submission.
pub(crate) trait Work: Send {
    /// Does it, on the background thread.
    fn run(self: Box<Self>);
    /// The queue is full: does the part that needs little time, on the submitting thread.
    fn refused(self: Box<Self>);
}

/// The handle of the thread. Dropping it waits for the queued work and ends the thread.
pub(crate) struct Background {
    /// Taken when it is dropped.
    queue: Option<Sender<Box<dyn Work>>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts the thread. At most `length` pieces of work can be queued.
    pub(crate) fn start(kind: Kind, name: &str, length: usize) -> io::Result<Self> {
        let (queue, jobs) = bounded::<Box<dyn Work>>(length);
        let thread = jail::spawn(kind, name, move || jobs.into_iter().for_each(|work| work.run()))?;
        Ok(Background { queue: Some(queue), thread: Some(thread) })
    }

    /// Submits work to the thread without waiting. If the queue is full, the work is refused.
    pub(crate) fn submit(&self, work: Box<dyn Work>) {
        let refused = match &self.queue {
            Some(queue) => queue.try_send(work).map_err(TrySendError::into_inner),
            None => Err(work),
        };
        if let Err(work) = refused {
            work.refused();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            // The last owner may be a piece of work, which runs on this same thread.
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Note(mpsc::Sender<&'static str>, Option<mpsc::Receiver<()>>);

    impl Work for Note {
        fn run(self: Box<Self>) {
            let _ = self.0.send("run");
            if let Some(wait) = self.1 {
                let _ = wait.recv();
            }
        }

        fn refused(self: Box<Self>) {
            let _ = self.0.send("refused");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_at_once_and_the_rest_is_done() {
        let (done, told) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        let background = Background::start(Kind::Report, "test", 2).unwrap();
        background.submit(Box::new(Note(done.clone(), Some(wait))));
        assert_eq!(told.recv(), Ok("run"), "the thread is busy from now on");
        for _ in 0..3 {
            background.submit(Box::new(Note(done.clone(), None)));
        }
        assert_eq!(told.recv(), Ok("refused"));
        drop(go);
        drop(background);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["run", "run"]);
    }
}
