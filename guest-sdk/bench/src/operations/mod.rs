//! The operations, a file for each or for a family.
#![forbid(unsafe_code)]

use crate::operation::Operation;

macro_rules! operations {
    ($($file:ident,)*) => {
        $(mod $file;)*

        /// Every operation of this guest, in the order in which they are shown.
        pub fn all() -> impl Iterator<Item = &'static Operation> {
            [$($file::OPERATIONS,)*].into_iter().flatten()
        }
    };
}

// A new file is named here, and nowhere else.
operations! {
    empty_loop,
    hypercall,
    doorbell,
    port_exit,
    kernel_exit,
    pollution,
    console,
    virtio_console,
    uart,
    block,
    block_write,
    virtio_block,
    ata,
    share,
    net,
    virtio_net,
    clock,
    kvmclock,
    timer,
    event,
    timer_latency,
    batch,
    memory,
    smp,
}
