//! Guests that meddle with their process, in an engine of this process.

use hv::crash::CrashReport;
use hv::device::stdio::Buffer;
use hv::{Builder, Engine, Guest, Image, Outcome, Stop};
use hv_tests::{Platform, eventually, guest};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An engine, with the images of a guest that meddles and of one that behaves.
pub(crate) struct Neighbours {
    pub(crate) engine: Engine,
    raw: Arc<Image>,
    hello: Arc<Image>,
}

/// A guest that meddles, with what it prints.
pub(crate) struct Meddler {
    pub(crate) guest: Guest,
    pub(crate) output: Buffer,
}

impl Neighbours {
    pub(crate) fn new(platform: Platform, workers: usize) -> Neighbours {
        let image = |name| Arc::new(Image::open(&guest(name)).unwrap());
        Neighbours { engine: platform.engine(workers), raw: image("raw"), hello: image("hello") }
    }

    /// Starts the guest `raw`.
    pub(crate) fn meddler(&self, arguments: &[&str]) -> Meddler {
        let output = Buffer::default();
        let mut builder = Builder::new(self.raw.clone()).memory(1 << 20).output(output.clone());
        for argument in arguments {
            builder = builder.argument(argument);
        }
        Meddler { guest: builder.spawn(&self.engine).unwrap(), output }
    }

    /// Runs the guest `raw` to its crash.
    #[track_caller]
    pub(crate) fn crash(&self, arguments: &[&str]) -> CrashReport {
        match self.meddler(arguments).guest.wait() {
            Outcome::Crashed(report) => *report,
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    /// Expects that a guest which does nothing wrong is served as ever.
    #[track_caller]
    pub(crate) fn behave(&self) {
        let output = Buffer::default();
        let builder = Builder::new(self.hello.clone()).memory(1 << 20).output(output.clone());
        let outcome = builder.spawn(&self.engine).unwrap().wait();
        assert!(matches!(outcome, Outcome::Exited(0)), "{outcome:?}");
        assert!(output.text().starts_with("Hello"), "{}", output.text());
    }

    /// Has the guest `raw` do these things, some at a time. Each may end or not; if not, it is
    /// stopped. Returns how many ended by themselves.
    pub(crate) fn endure(&self, cases: &[Vec<String>]) -> usize {
        const AT_ONCE: usize = 16;
        const TIME: Duration = Duration::from_millis(100);
        let mut ended = 0;
        for cases in cases.chunks(AT_ONCE) {
            let start = Instant::now();
            let guests: Vec<_> = cases
                .iter()
                .map(|case| self.meddler(&case.iter().map(String::as_str).collect::<Vec<_>>()))
                .collect();
            for Meddler { guest, .. } in &guests {
                while guest.outcome().is_none() && start.elapsed() < TIME {
                    std::thread::sleep(Duration::from_millis(1));
                }
                match guest.outcome() {
                    Some(_) => ended += 1,
                    None => guest.stop(Stop::Interrupted),
                }
                guest.wait();
            }
        }
        self.behave();
        ended
    }

    /// Where the stub's code and its data start and end, as a guest sees it.
    pub(crate) fn segments(&self) -> [u64; 4] {
        let Meddler { guest, output } = self.meddler(&["segments"]);
        let outcome = guest.wait();
        assert!(matches!(outcome, Outcome::Exited(0)), "{outcome:?}");
        let numbers: Vec<u64> = output.text().split_whitespace().map(|n| n.parse().unwrap()).collect();
        let segments: [u64; 4] = numbers.try_into().unwrap();
        assert!(segments.is_sorted() && segments[0] > 0, "{segments:x?}");
        segments
    }
}

impl Meddler {
    /// Waits until it has printed this.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        eventually(text, || self.output.text().contains(text).then_some(()));
    }

    /// Expects that it does not end, and ends it.
    #[track_caller]
    pub(crate) fn stop(self) {
        assert!(self.guest.outcome().is_none(), "{:?}", self.guest.outcome());
        self.guest.stop(Stop::Interrupted);
        let outcome = self.guest.wait();
        assert!(matches!(outcome, Outcome::Stopped(Stop::Interrupted)), "{outcome:?}");
    }
}
