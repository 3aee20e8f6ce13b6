//! From the moment when a back end has something for the guest to its handler.

use crate::meter::{Meter, failed, tsc};
use crate::operation::{Operation, Rig};
use alloc::string::String;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::sync::atomic::{AtomicU64, Ordering};
use hv_guest::abi::EventPort;
use hv_guest::abi::event::FIRST_DEVICE;
use hv_guest::{console, event, hypercall};

/// Reads what is there; if nothing is, asks for the event and returns `None`.
fn read_or_arm(bytes: &mut [u8]) -> Option<usize> {
    match pin!(console::read_async(bytes)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(count) => Some(count),
        Poll::Pending => None,
    }
}

/// Waits for ticks of the host in this way, which tells what the guest's own counter read
/// when it went on, and compares the two.
fn ticks(meter: &mut Meter, wait: fn() -> u64) -> Result<(), String> {
    meter.paced(|count, recorder| {
        let mut bytes = [0; 64];
        for _ in 0..count {
            // A tick that came while the guest did not wait is no measure of waiting.
            while let Some(count) = read_or_arm(&mut bytes) {
                if count == 0 {
                    return Err("the ticks have ended".into());
                }
            }
            // An event may be left of a tick that has been read already.
            let (now, tick) = loop {
                let now = wait();
                match read_or_arm(&mut bytes) {
                    None => continue,
                    // Of several ticks, the first is the one that this guest noticed late.
                    Some(8..) => break (now, u64::from_le_bytes(*bytes.first_chunk().ok_or("no tick")?)),
                    Some(_) => return Err("the ticks have ended".into()),
                }
            };
            recorder.record(now.saturating_sub(tick));
        }
        Ok(())
    })
}

/// The counter at the last call of the handler, until it is read.
static CALLED: AtomicU64 = AtomicU64::new(0);

fn called(_: EventPort) {
    CALLED.store(tsc(), Ordering::Relaxed);
}

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "event-polled",
        group: "events",
        against: None,
        rig: Rig::Ticks,
        bytes: 0,
        curve: None,
        what: "From a back end's having something to a guest that looks at the event's bit all the time.",
        run: |meter| {
            ticks(meter, || {
                while !event::take(FIRST_DEVICE) {
                    core::hint::spin_loop();
                }
                tsc()
            })
        },
    },
    Operation {
        name: "event-blocked",
        group: "events",
        against: Some("event-polled"),
        rig: Rig::Ticks,
        bytes: 0,
        curve: None,
        what: "From a back end's having something to a guest that gave the processor away until then.",
        run: |meter| {
            ticks(meter, || {
                while !event::take(FIRST_DEVICE) {
                    hypercall::block(u64::MAX);
                }
                tsc()
            })
        },
    },
    Operation {
        name: "event-upcall",
        group: "events",
        against: Some("event-blocked"),
        rig: Rig::Ticks,
        bytes: 0,
        curve: None,
        what: "From a back end's having something to the handler of a guest that computes and never looks.",
        run: |meter| {
            event::on_upcall(FIRST_DEVICE, called).map_err(|error| failed("no upcalls", error))?;
            ticks(meter, || {
                loop {
                    // Only the handler changes it; for this loop it is work like any other.
                    match CALLED.swap(0, Ordering::Relaxed) {
                        0 => core::hint::spin_loop(),
                        now => break now,
                    }
                }
            })
        },
    },
];
