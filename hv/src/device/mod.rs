//! The back ends of the devices that guests see.
pub mod net;
