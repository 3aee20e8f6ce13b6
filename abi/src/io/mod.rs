//! What travels through the rings, per kind of device.

pub mod block;
pub mod console;
pub mod function;
pub mod net;
pub mod services;
pub mod share;
