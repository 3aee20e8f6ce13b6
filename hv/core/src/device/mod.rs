//! The back ends of the devices that guests see.
pub mod block;
pub mod console;
pub mod function;
pub mod net;
pub mod stdio;
