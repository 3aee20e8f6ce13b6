//! Makes the bare KVM calls for one guest, runs it to its first exit, prints a line.

use hv_benches::floor::{Floor, FloorProgram};

fn main() {
    let floor = Floor::new().expect("KVM is there");
    floor.start(FloorProgram::Exits, None).expect("a VM can be made").run().expect("it exits");
    println!("Hello from the floor, world!");
}
