//! The `hv` command.

use hv::device::stdio::{Stdin, Stdout};
use hv::{Builder, Engine, Image, KvmPlatform, Outcome};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap();
    let image = Image::open(path.as_ref())?;
    let engine = Engine::new(KvmPlatform::new()?, 0)?;
    let guest = Builder::new(image).output(Stdout).input(Stdin).spawn(&engine)?;
    let o = guest.wait();
    eprintln!("{:?} {:?}", guest.phases(), guest.counters());
    match o {
        Outcome::Exited(code) => std::process::exit(code.into()),
        Outcome::Crashed(report) => eprint!("{report}"),
        Outcome::Stopped(reason) => eprintln!("{reason:?}"),
    }
    std::process::exit(101)
}
