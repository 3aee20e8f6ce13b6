//! ⚠ What a guest's client notices of the guest's neighbours: its 99th percentile beside each attack, against the
//! same alone, in windows that take turns. On both platforms, with as many workers as there are processors.
//!
//! `cargo bench -p hv-benches --bench neighbours [-- PART]` measures those whose name has the part in it; `--list` names them.

#[path = "neighbours/guests.rs"]
mod guests;
#[path = "neighbours/server.rs"]
mod server;

use hv_benches::neighbour::{Pairs, be_elsewhere, window};
use hv_benches::suite::Suite;
use std::process::ExitCode;
use std::time::Duration;

/// How long a window is, and how many pairs of them there are.
const WINDOW: Duration = Duration::from_millis(600);
const PAIRS: usize = 6;
/// What an attack, or its end, is given to become what it is.
const SETTLE: Duration = Duration::from_millis(100);

/// What is attacked, and by whom.
struct Selection {
    suite: Suite,
}

impl Selection {
    /// Measures the client's question alone and beside an attack, which lasts as long as what `attack` returns.
    fn measure<A>(&self, platform: &str, what: &str, ask: &mut dyn FnMut(), mut attack: impl FnMut() -> A) {
        assert!(names(platform).any(|name| name == what), "{what} is not in the list");
        self.suite.run(&format!("{platform} {what}"), || {
            let mut pairs = Pairs::default();
            for _ in 0..self.suite.times(PAIRS) {
                let alone = window(WINDOW, ask);
                let attacked = attack();
                std::thread::sleep(SETTLE);
                let beside = window(WINDOW, ask);
                drop(attacked);
                std::thread::sleep(SETTLE);
                pairs.add(alone, beside);
            }
            println!("{}", pairs.line(platform, what));
        });
    }
}

/// What is measured on a platform.
fn names(platform: &str) -> impl Iterator<Item = String> {
    let kvm = platform == "kvm";
    let of_guests = guests::ATTACKS.iter().filter(move |what| !kvm || **what != guests::ASLEEP);
    of_guests
        .map(|what| format!("echo: {what}"))
        .chain(server::ATTACKS.iter().map(|what| format!("serve: {what}")))
}

fn main() -> ExitCode {
    let selection = Selection { suite: Suite::of_arguments() };
    let platforms = [hv_tests::Platform::Kvm, hv_tests::Platform::Process];
    let all = platforms
        .iter()
        .flat_map(|platform| names(platform.name()).map(move |what| format!("{} {what}", platform.name())));
    if selection.suite.lists(all) {
        return selection.suite.end();
    }
    if std::env::var_os("HV_BIN").is_none() {
        // SAFETY: there is no other thread yet.
        unsafe { std::env::set_var("HV_BIN", hv_tests::release_hv()) };
    }
    for platform in platforms {
        match platform.choose() {
            Ok(on) => guests::measure(&selection, platform.name(), on),
            Err(error) => {
                println!("skipped: needs the platform {platform}: {error}");
                continue;
            }
        }
        server::measure(&selection, platform);
    }
    selection.suite.end()
}

/// Runs the client of a neighbour as if it were elsewhere; says so if it cannot be.
fn as_client<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            if !be_elsewhere() {
                println!("note: the client has no priority: its own wait for a processor is in the figures");
            }
            run()
        });
        client.join().expect("it does not panic")
    })
}
