//! Telling a back end that there is work.

use crate::operation::{Operation, Rig};
use hv_guest::abi::EventPort;
use hv_guest::abi::event::{FIRST_DEVICE, PORTS};
use hv_guest::hypercall;

/// More rings than hv takes as exits before it binds a doorbell.
const BOUND: u32 = 64;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "doorbell",
        group: "exits",
        against: Some("pio-exit"),
        rig: Rig::Plain,
        bytes: 0,
        curve: None,
        what: "The doorbell of a busy device: the kernel signals an eventfd, the guest goes on.",
        run: |meter| {
            (0..BOUND).for_each(|_| hypercall::event_send(FIRST_DEVICE));
            meter.each(|| hypercall::event_send(FIRST_DEVICE));
            Ok(())
        },
    },
    Operation {
        name: "doorbell-unbound",
        group: "exits",
        against: Some("pio-exit"),
        rig: Rig::Plain,
        bytes: 0,
        curve: None,
        what: "A doorbell that is not bound to an eventfd: an exit to hv, which looks the port up.",
        run: |meter| {
            meter.each(|| hypercall::event_send(EventPort(PORTS - 1)));
            Ok(())
        },
    },
];
