//! `--control`: a socket by which a guest is looked at and changed while it runs, and the commands that use it.
//!
//! - `socket` makes the socket, and has it removed at the end;
//! - `protocol` is what is said on it: lines of JSON;
//! - `server` answers, on the I/O thread;
//! - `client` is `hv set`, `show`, `pause`, `resume` and `stop`.

mod client;
mod protocol;
mod server;
mod socket;

pub(super) use client::{order, set, show};
pub(super) use protocol::Request;
pub(super) use socket::{ControlSocket, REMOVER, remove_at_the_end};

use hv_core::domain::Guest;
use hv_core::engine::Engine;
use hv_core::sched::Share;

/// Answers on the socket, if there is one, as long as the engine lives.
pub(super) fn serve(socket: Option<ControlSocket>, engine: &Engine, guest: &Guest, share: Share) {
    if let Some(socket) = socket {
        engine.add_source(Box::new(server::Server::new(socket, guest.controller(), share)));
    }
}
