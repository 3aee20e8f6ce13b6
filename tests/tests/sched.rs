//! Fair shares of the processors, measured on real guests as ratios of CPU
//! time, and how soon a guest that wakes up runs while others spin.

use hv::device::stdio::Buffer;
use hv::sched::{SLICE, ShareError};
use hv::{Builder, Engine, Guest, Image, Outcome, Share, Stop};
use hv_tests::{Platform, console, eventually, guest, guest_test, refusal};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn image(name: &str) -> Arc<Image> {
    Arc::new(Image::open(&guest(name)).unwrap())
}

/// A guest that uses all that it gets, and has begun to.
fn spinner(engine: &Engine, image: &Arc<Image>, weight: u32, cap: u32) -> Guest {
    let output = Buffer::default();
    let builder = Builder::new(image.clone()).memory(4 << 20).argument("endless-loop").output(output.clone());
    let guest = builder.share(Share::new(weight, cap).unwrap()).spawn(engine).unwrap();
    eventually("its first words", || (!output.text().is_empty()).then_some(()));
    guest
}

/// Time of all processors since the machine's start: all of it, what nobody used, and
/// what the host below took.
struct Processors([f64; 3]);

impl Processors {
    fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").expect("Linux has it");
        // "cpu", then user, nice, system, idle, iowait, irq, softirq, steal.
        let ticks: Vec<f64> =
            stat.split_ascii_whitespace().skip(1).take(8).map(|ticks| ticks.parse().unwrap()).collect();
        Processors([ticks.iter().sum(), ticks[3] + ticks[4], ticks[7]])
    }

    /// The parts of the time since then that nobody used, and that the host below took.
    fn since(&self) -> (f64, f64) {
        let now = Processors::now();
        let part = |n: usize| (now.0[n] - self.0[n]) / (now.0[0] - self.0[0]).max(1.0);
        (part(1), part(2))
    }
}

/// CPU time of each guest during `time`; none, with the reason printed, if the
/// machine had less than `least` of what `cores` can give them.
fn measure(guests: &[Guest], cores: f64, least: f64, time: Duration) -> Option<Vec<f64>> {
    let now = || guests.iter().map(Guest::cpu_time).collect::<Vec<_>>();
    let (start, before) = (Instant::now(), now());
    std::thread::sleep(time);
    let (elapsed, after) = (start.elapsed().as_secs_f64(), now());
    let used: Vec<_> =
        after.iter().zip(&before).map(|(after, before)| (*after - *before).as_secs_f64()).collect();
    let part = used.iter().sum::<f64>() / (elapsed * cores);
    println!("CPU time in {elapsed:.2} s: {used:.3?}, {:.0} % of what was asked for", part * 100.0);
    if part < least {
        hv_tests::skip("needs a machine that is less busy");
        return None;
    }
    Some(used)
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() <= 0.05, "{found:.3}, expected {expected:.3}");
}

#[guest_test]
fn weights_divide_a_worker(platform: Platform) {
    let (engine, image) = (platform.engine(1), image("hostile"));
    let guests = [spinner(&engine, &image, 512, 0), spinner(&engine, &image, 256, 0)];
    let Some(used) = measure(&guests, 1.0, 0.5, Duration::from_secs(3)) else { return };
    close(used[0] / used[1], 2.0);
    // Changed while they run.
    guests[0].controller().set_share(Share::new(256, 0).unwrap());
    guests[1].controller().set_share(Share::new(768, 0).unwrap());
    let Some(used) = measure(&guests, 1.0, 0.5, Duration::from_secs(3)) else { return };
    close(used[1] / used[0], 3.0);
}

#[guest_test]
fn weights_divide_two_workers(platform: Platform) {
    let (engine, image) = (platform.engine(2), image("hostile"));
    let guests = [300, 200, 100, 200].map(|weight| spinner(&engine, &image, weight, 0));
    // A guest whose worker the host stalls cannot make up for it on two at once.
    let Some(used) = measure(&guests, 2.0, 0.9, Duration::from_secs(4)) else { return };
    close(used[0] / used[2], 3.0);
    close(used[1] / used[3], 1.0);
    close(used[1] / used[2], 2.0);
}

#[guest_test]
fn a_cap_is_kept(platform: Platform) {
    let image = image("hostile");
    // Alone, and beside one that takes the rest.
    for (workers, others) in [(1, 0), (2, 0), (1, 1)] {
        let engine = platform.engine(workers);
        let mut guests = vec![spinner(&engine, &image, 1024, 25)];
        guests.extend((0..others).map(|_| spinner(&engine, &image, 256, 0)));
        let (start, asked) = (Instant::now(), if others == 0 { 0.25 } else { 1.0 });
        let machine = Processors::now();
        let Some(used) = measure(&guests, asked, 0.5, Duration::from_secs(3)) else { return };
        let part = used[0] / start.elapsed().as_secs_f64();
        // Half of two processors is idle, unless other programs want what the guest may have.
        if part < 0.25 && machine.since().0 < 0.3 {
            hv_tests::skip("needs a machine that is less busy");
            return;
        }
        close(part, 0.25);
    }
}

/// Runs `attempt` while ten guests spin on two workers; it returns the median and the
/// 99th percentile of some latency, in microseconds. That has to be at most two slices.
fn beside_ten_spinners(platform: Platform, what: &str, attempt: impl Fn(&Engine) -> (u64, u64)) {
    let (engine, image) = (platform.engine(2), image("hostile"));
    let spinners: Vec<_> = (0..10).map(|_| spinner(&engine, &image, 256, 0)).collect();
    let most = 2 * SLICE.as_micros() as u64;
    let mut busy = false;
    // Something else may have had the processors: that is not the scheduler's.
    for _ in 0..4 {
        let now = || spinners.iter().map(Guest::cpu_time).sum::<Duration>();
        let (start, before, machine) = (Instant::now(), now(), Processors::now());
        let (median, high) = attempt(&engine);
        let time = 2.0 * start.elapsed().as_secs_f64();
        let part = (now() - before).as_secs_f64() / time;
        // What is taken away from a guest that has the processor counts as used by it.
        let (_, lost) = machine.since();
        println!(
            "{what}: median {median} µs, 99 % within {high} µs, spinners had {:.0} %, the host below took {:.0} %",
            part * 100.0,
            lost * 100.0
        );
        if high <= most {
            return;
        }
        busy |= part < 0.85 || lost > 0.01;
    }
    assert!(busy, "{what}: more than {most} µs, four times");
    hv_tests::skip("needs a machine that is less busy");
}

#[guest_test]
fn a_deadline_is_met_while_others_spin(platform: Platform) {
    let late = image("late");
    beside_ten_spinners(platform, "deadline", |engine| {
        let output = Buffer::default();
        let builder = Builder::new(late.clone()).argument("300").argument("7000").output(output.clone());
        let outcome = builder.spawn(engine).unwrap().wait();
        assert!(matches!(outcome, Outcome::Exited(0)), "{outcome:?}");
        let text = output.text();
        let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
        (numbers.next().expect("a median"), numbers.next().expect("a percentile"))
    });
}

#[guest_test]
fn input_is_answered_while_others_spin(platform: Platform) {
    let echo = image("echo");
    beside_ten_spinners(platform, "console", |engine| {
        let ((mut to, input), (mut from, output)) = (console::pair(), console::pair());
        let builder = Builder::new(echo.clone()).memory(4 << 20).input(input).output(output);
        let guest = builder.spawn(engine).unwrap();
        let mut times: Vec<_> = (0..300)
            .map(|_| {
                std::thread::sleep(Duration::from_millis(5));
                let start = Instant::now();
                to.write_all(b"?").unwrap();
                from.read_exact(&mut [0]).unwrap();
                start.elapsed().as_micros() as u64
            })
            .collect();
        drop(to);
        assert!(matches!(guest.wait(), Outcome::Exited(0)));
        times.sort_unstable();
        (times[150], times[297])
    });
}

#[guest_test]
fn cpu_time_is_what_the_guest_used(platform: Platform) {
    for workers in [0, 1] {
        let engine = platform.engine(workers);
        let late = Builder::new(image("late")).argument("20").argument("20000").spawn(&engine).unwrap();
        assert!(matches!(late.wait(), Outcome::Exited(0)));
        // The end does not take it away, and nothing is added once its last turn is over.
        let used = eventually("an end of the count", || {
            let used = late.cpu_time();
            std::thread::sleep(Duration::from_millis(10));
            (late.cpu_time() == used).then_some(used)
        });
        assert!(!used.is_zero() && used < Duration::from_millis(200), "{used:?} of 400 ms");
    }
    // One that never leaves its virtual CPU is counted all the same.
    let (engine, image) = (platform.engine(1), image("hostile"));
    let spinner = spinner(&engine, &image, 256, 0);
    let before = spinner.cpu_time();
    eventually("more CPU time", || (spinner.cpu_time() > before + Duration::from_millis(50)).then_some(()));
    spinner.stop(Stop::Timeout);
    assert!(matches!(spinner.wait(), Outcome::Stopped(Stop::Timeout)));
}

#[guest_test]
fn shares_that_cannot_be_are_refused(platform: Platform) {
    for (weight, cap, expected) in [
        (0, 0, ShareError::Weight(0)),
        (65_536, 0, ShareError::Weight(65_536)),
        (256, 6401, ShareError::Cap(6401)),
    ] {
        assert_eq!(Share::new(weight, cap), Err(expected));
    }
    let refused = |options: &[&str], parts: &[&str]| {
        refusal::refused(&mut platform.run("hello", options, &[]), parts);
    };
    refused(&["--weight", "0"], &["weight of 0", "1 to 65535"]);
    refused(&["--weight", "70000"], &["weight of 70000", "1 to 65535"]);
    refused(&["--cap", "6401"], &["cap of 6401", "1 to 6400"]);
    platform.ran("hello", &["--weight", "1", "--cap", "5"], &[]).expect(0);
}
