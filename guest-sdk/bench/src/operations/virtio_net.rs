//! Talking to the same servers through virtio-mmio: only what is below the TCP stack differs.

use super::net::{CHUNK, operation, receive, round_trip, stream};
use crate::hardware::net::up;
use crate::operation::{Operation, Rig};

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "virtio-round-trip",
        None,
        Rig::VirtioEcho,
        0,
        "A byte by TCP to the same server through virtio-mmio, and back.",
        |meter| round_trip::<1>(meter, up),
    ),
    operation(
        "virtio-stream",
        None,
        Rig::VirtioSink,
        CHUNK,
        "64 KiB by TCP to the same server through virtio-mmio, one after another.",
        |meter| stream(meter, up),
    ),
    operation(
        "virtio-receive",
        None,
        Rig::VirtioSource,
        CHUNK,
        "64 KiB by TCP from the same server through virtio-mmio, one after another.",
        |meter| receive(meter, up),
    ),
];
