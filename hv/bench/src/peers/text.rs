//! The peers as a table.

use super::Peers;
use crate::table::{host, time};
use std::fmt::Write;

/// A row for each peer, hv first; then how each was run, and why others were not.
pub fn table(peers: &Peers) -> String {
    let mut text = String::new();
    for line in host(&peers.machine) {
        let _ = writeln!(text, "{line}");
    }
    text += "\n";
    let _ = writeln!(
        text,
        "  {:<14} {:>12} {:>12} {:>24} {:>4}  version",
        "hello", "first byte", "whole", "whole by that of hv", "n"
    );
    for peer in &peers.peers {
        let by = peer.by_hv.as_ref().map(|ratio| match ratio.interval {
            Some([low, high]) => format!("{:.2} ({low:.2} to {high:.2})", ratio.median),
            None => format!("{:.2}", ratio.median),
        });
        let _ = writeln!(
            text,
            "  {:<14} {:>12} {:>12} {:>24} {:>4}  {}",
            peer.name,
            time(peer.first_byte_ns.median),
            time(peer.whole_ns.median),
            by.unwrap_or_default(),
            peer.whole_ns.n,
            peer.version
        );
    }
    text += "\n";
    for peer in &peers.peers {
        let _ =
            writeln!(text, "  {:<14} {}\n  {:<14} $ {}", peer.name, peer.note, "", peer.command.join(" "));
    }
    for left in &peers.left {
        let _ = writeln!(text, "  {:<14} not measured: {}", left.name, left.reason);
    }
    text
}
