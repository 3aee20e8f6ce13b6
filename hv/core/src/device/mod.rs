//! The devices that guests see: a back end for each kind, and what is behind it.

mod back_end;
pub mod block;
pub mod console;
mod counters;
pub mod function;
pub mod net;
pub mod services;
pub mod share;
pub mod spin;
pub mod stdio;
mod two_threads;

pub(crate) use back_end::{
    BackEnd, Connection, DeviceKind, DoorbellHandler, DrivenBy, QuickHandler, RINGS_BEFORE_BINDING, RingShape,
};
pub use back_end::{ConnectError, DeviceError, Ring, Served};
pub use counters::{DeviceCounters, Traffic};

/// Every kind of device that there is.
static KINDS: [&DeviceKind; 6] =
    [&console::KIND, &block::KIND, &net::KIND, &function::KIND, &services::KIND, &share::KIND];

/// The kind with this number in device tables. `None`: there is no such kind.
pub(crate) fn kind(number: u32) -> Option<&'static DeviceKind> {
    KINDS.into_iter().find(|kind| kind.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn kinds_can_be_told_apart_and_fit_in_the_device_table() {
        let unique = |keys: Vec<String>| keys.iter().collect::<HashSet<_>>().len() == KINDS.len();
        assert!(unique(KINDS.iter().map(|kind| kind.number.to_string()).collect()));
        assert!(unique(KINDS.iter().map(|kind| kind.name.to_string()).collect()));
        assert!(unique(KINDS.iter().map(|kind| kind.key.to_string()).collect()));
        for kind in KINDS {
            assert!((1..=2).contains(&kind.rings.len()), "{}", kind.name);
            assert_eq!(super::kind(kind.number).map(|found| found.name), Some(kind.name));
        }
        assert!(super::kind(0).is_none());
    }
}
