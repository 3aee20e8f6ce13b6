//! What `spawn_web` spawns: prints what `fn-hello` answers. Linked statically by
//! the bench that uses it.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(b"Hello, world!\n")
}
