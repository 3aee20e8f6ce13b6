//! Lists the operations, or measures one: `list`, or `run NAME WARM-UP COUNT EXTRA`.
//! `probe`, `probe-virtio` and `look` only find the devices, and end.
#![no_std]
#![no_main]

use hv_guest::prelude::*;
use hv_guest_bench::meter::Meter;
use hv_guest_bench::{discovery, operations};

#[hv_guest::entry]
fn main() -> u8 {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments[..] {
        ["list"] => {
            list();
            0
        }
        ["run", name, warm_up, count, extra] => code(run(name, warm_up, count, extra)),
        ["probe"] => code(discovery::probe()),
        ["probe-virtio"] => code(discovery::probe_virtio()),
        ["look"] => code(discovery::look()),
        _ => {
            println!("\n@error arguments: list, probe, probe-virtio, look, or run NAME WARM-UP COUNT EXTRA");
            2
        }
    }
}

fn code(result: Result<(), String>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            println!("\n@error {error}");
            1
        }
    }
}

fn list() {
    println!("@operations 1");
    for operation in operations::all() {
        let (curve, at) = operation.curve.unwrap_or(("-", 0));
        println!(
            "operation\t{}\t{}\t{}\t{}\t{}\t{curve}\t{at}\t{}",
            operation.name,
            operation.group,
            operation.against.unwrap_or("-"),
            operation.rig.name(),
            operation.bytes,
            operation.what,
        );
    }
    println!("end");
}

fn run(name: &str, warm_up: &str, count: &str, extra: &str) -> Result<(), String> {
    let operation = operations::all()
        .find(|operation| operation.name == name)
        .ok_or_else(|| format!("no operation {name}"))?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
    let extra = extra.parse().map_err(|_| format!("{extra} is no port"))?;
    let mut meter = Meter::new(number(warm_up)?, number(count)?, extra);
    (operation.run)(&mut meter)?;
    meter.print();
    Ok(())
}
