//! What hv itself does for each request of a disk, without guest, exit or disk:
//! moving it through a ring, and validating it.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hv::device::block::validate;
use hv::memory::{Access, GuestMemory};
use hv_abi::io::block::{BlockConfig, BlockRequest, OP_READ, Segment};
use hv_abi::{GuestAddr, PAGE_SIZE};
use hv_bench::operations::ring::Ends;
use std::hint::black_box;
use std::sync::Arc;

const BASE: GuestAddr = GuestAddr(0x20_0000);
const PAGES: u64 = 256;

fn memory() -> Arc<GuestMemory> {
    let mut memory = GuestMemory::new(BASE, PAGES * PAGE_SIZE).expect("1 MiB can be mapped");
    memory.allow(0..PAGES * PAGE_SIZE, Access::READ | Access::WRITE);
    Arc::new(memory)
}

/// A read of so many segments of a sector, and the bytes of their list.
fn read(segments: u64) -> (BlockRequest, Vec<u8>) {
    let segment =
        |n: u64| Segment { address: GuestAddr(BASE.0 + (16 + n) * PAGE_SIZE), len: 512, reserved: 0 };
    let list: Vec<Segment> = (0..segments).map(segment).collect();
    let mut request = BlockRequest { op: OP_READ, segment_count: segments as u16, ..BlockRequest::default() };
    if list.len() <= request.segments.len() {
        request.segments[..list.len()].copy_from_slice(&list);
        return (request, Vec::new());
    }
    request.segments[0] = Segment { address: BASE, len: 16 * segments as u32, reserved: 0 };
    let bytes = list
        .iter()
        .flat_map(|segment| [segment.address.0.to_le_bytes(), u64::from(segment.len).to_le_bytes()].concat());
    (request, bytes.collect())
}

fn benches(criterion: &mut Criterion) {
    let memory = memory();
    let mut group = criterion.benchmark_group("ring");
    for size in [1, 8, 64] {
        let mut ends = Ends::new(&memory, size);
        group.throughput(Throughput::Elements(size.into()));
        group.bench_function(format!("batch of {size}, both ends"), |b| b.iter(|| ends.batch()));
    }
    group.finish();

    let config = BlockConfig {
        sectors: 1 << 20,
        sector_size: 512,
        max_transfer: 1 << 20,
        max_segments: 128,
        ..BlockConfig::default()
    };
    let mut group = criterion.benchmark_group("codec");
    for segments in [1, 128] {
        let (request, list) = read(segments);
        memory.host_write(0, &list);
        validate(&request, &config, &memory).expect("the request is a good one");
        group.bench_function(format!("validate a read of {segments} segments"), |b| {
            b.iter_batched(
                || request,
                |request| black_box(validate(&request, &config, &memory)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(ring_benches, benches);
criterion_main!(ring_benches);
