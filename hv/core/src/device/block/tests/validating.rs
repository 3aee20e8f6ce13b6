//! What is refused, and why, each by its name; and whatever else random bytes may ask for.

use super::*;
use crate::device::block::request::{Plan, Span, validate};
use hv_abi::io::block::*;
use proptest::prelude::*;
use zerocopy::FromBytes;

const SECTORS: u64 = 1000;

fn config(features: BlockFeatures) -> BlockConfig {
    BlockConfig {
        sectors: SECTORS,
        sector_size: 512,
        features: features.bits(),
        max_transfer: 64 << 10,
        max_segments: MAX_SEGMENTS as u32,
    }
}

fn request(op: u8, sector: u64, segments: &[Segment]) -> BlockRequest {
    let mut request = BlockRequest { op, sector, segment_count: segments.len() as u16, ..Default::default() };
    request.segments[..segments.len()].copy_from_slice(segments);
    request
}

/// A request whose list of `count` segments is said to be at `address`.
fn indirect(count: u16, address: u64, len: u32) -> BlockRequest {
    BlockRequest { segment_count: count, ..request(OP_READ, 0, &[segment(address, len)]) }
}

fn validated(request: &BlockRequest) -> Result<Plan, Errno> {
    validate(request, &config(BlockFeatures::DISCARD), &memory())
}

fn refused(request: &BlockRequest) -> Errno {
    validated(request).map(|plan| panic!("{plan:?}")).unwrap_err()
}

fn read(address: u64, len: u32) -> BlockRequest {
    request(OP_READ, 0, &[segment(address, len)])
}

#[test]
fn memory_outside() {
    for address in [0, BASE - 512, BASE - 1, END, END + 512, u64::MAX, u64::MAX - 511, 1 << 63] {
        assert_eq!(refused(&read(address, 512)), Errno::Fault, "{address:#x}");
        assert_eq!(refused(&request(OP_WRITE, 0, &[segment(address, 512)])), Errno::Fault, "{address:#x}");
    }
}

#[test]
fn memory_up_to_the_last_byte_and_past_it() {
    assert!(validated(&read(END - 512, 512)).is_ok());
    for past in [1, 511] {
        assert_eq!(refused(&read(END - 512 + past, 512)), Errno::Fault);
    }
    assert_eq!(refused(&read(END - 1, 512)), Errno::Fault);
}

#[test]
fn memory_over_an_unmapped_page() {
    assert_eq!(refused(&read(GUARD, 512)), Errno::Fault);
    assert_eq!(refused(&read(GUARD + PAGE_SIZE - 512, 1024)), Errno::Fault);
    assert_eq!(refused(&request(OP_WRITE, 0, &[segment(GUARD - 512, 1024)])), Errno::Fault);
}

#[test]
fn memory_that_the_guest_may_only_read() {
    assert_eq!(refused(&read(READ_ONLY, 512)), Errno::Fault);
    assert_eq!(refused(&read(READ_ONLY - 512, 1024)), Errno::Fault);
    assert!(validated(&request(OP_WRITE, 0, &[segment(READ_ONLY, 512)])).is_ok());
}

#[test]
fn only_the_second_segment_is_bad() {
    assert_eq!(refused(&request(OP_READ, 0, &[segment(DATA, 512), segment(GUARD, 512)])), Errno::Fault);
    assert_eq!(refused(&request(OP_READ, 0, &[segment(DATA, 512), segment(DATA, 0)])), Errno::Invalid);
}

#[test]
fn lengths_of_zero_of_almost_4_gib_and_of_no_whole_sectors() {
    for len in [0, u32::MAX, u32::MAX - 511, 1, 511, 513, 1 << 31] {
        assert_eq!(refused(&read(DATA, len)), Errno::Invalid, "{len}");
    }
}

#[test]
fn more_than_a_transfer_may_move() {
    assert!(validated(&read(DATA, 64 << 10)).is_ok());
    assert_eq!(refused(&read(DATA, (64 << 10) + 512)), Errno::Invalid);
    let half = segment(DATA, 32 << 10);
    assert!(validated(&request(OP_READ, 0, &[half, half])).is_ok());
    assert_eq!(refused(&request(OP_READ, 0, &[half, segment(DATA, (32 << 10) + 512)])), Errno::Invalid);
    let huge = segment(DATA, u32::MAX - 511);
    assert_eq!(refused(&request(OP_READ, 0, &[huge, huge])), Errno::Invalid);
}

#[test]
fn counts_of_segments_of_none_and_of_too_many() {
    assert_eq!(refused(&request(OP_READ, 0, &[])), Errno::Invalid);
    for count in [MAX_SEGMENTS as u16 + 1, u16::MAX] {
        assert_eq!(refused(&indirect(count, LIST, 16 * u32::from(count))), Errno::Invalid, "{count}");
    }
    let few = BlockConfig { max_segments: 1, ..config(BlockFeatures::empty()) };
    let two = request(OP_READ, 0, &[segment(DATA, 512); 2]);
    assert_eq!(validate(&two, &few, &memory()).err(), Some(Errno::Invalid));
    let boundless = BlockConfig { max_segments: u32::MAX, ..few };
    let many = indirect(MAX_SEGMENTS as u16 + 1, LIST, 16 * (MAX_SEGMENTS as u32 + 1));
    assert_eq!(validate(&many, &boundless, &memory()).err(), Some(Errno::Invalid));
}

#[test]
fn a_list_outside_of_memory_or_of_another_length() {
    for address in [0, END - 16, GUARD, GUARD - 32, u64::MAX - 20] {
        assert_eq!(refused(&indirect(3, address, 48)), Errno::Fault, "{address:#x}");
    }
    for len in [0, 47, 49, 64, u32::MAX] {
        assert_eq!(refused(&indirect(3, LIST, len)), Errno::Invalid, "{len}");
    }
    assert_eq!(refused(&indirect(3, LIST, 48)), Errno::Invalid, "of zeroes");
}

#[test]
fn sectors_past_the_end() {
    let at = |op, sector| request(op, sector, &[segment(DATA, 1024)]);
    for op in [OP_READ, OP_WRITE] {
        assert!(validated(&at(op, SECTORS - 2)).is_ok());
        for sector in [SECTORS - 1, SECTORS, u64::MAX, u64::MAX - 1, u64::MAX / 512, 1 << 55, 1 << 63] {
            assert_eq!(refused(&at(op, sector)), Errno::Invalid, "{sector}");
        }
    }
}

#[test]
fn spans_past_the_end_or_of_nothing() {
    for op in [OP_DISCARD, OP_WRITE_ZEROES] {
        let span = |sector, count| BlockRequest { count, ..request(op, sector, &[]) };
        for (sector, count) in [
            (0, 0),
            (0, SECTORS + 1),
            (SECTORS, 1),
            (SECTORS - 1, 2),
            (1, u64::MAX),
            (u64::MAX, 1),
            (u64::MAX, u64::MAX),
            (0, 1 << 55),
        ] {
            assert_eq!(refused(&span(sector, count)), Errno::Invalid, "{sector} {count}");
        }
        let Ok(Plan::Discard(all) | Plan::WriteZeroes(all)) = validated(&span(0, SECTORS)) else { panic!() };
        assert_eq!(all, Span { offset: 0, len: SECTORS * 512 });
    }
}

#[test]
fn operations_that_there_are_not() {
    for op in 5..=255 {
        assert_eq!(refused(&request(op, 0, &[segment(DATA, 512)])), Errno::NotSupported);
    }
}

#[test]
fn changes_of_a_read_only_disk() {
    let config = config(BlockFeatures::READ_ONLY);
    for op in [OP_WRITE, OP_DISCARD, OP_WRITE_ZEROES] {
        let request = BlockRequest { count: 1, ..request(op, 0, &[segment(DATA, 512)]) };
        assert_eq!(validate(&request, &config, &memory()).err(), Some(Errno::ReadOnly));
    }
    assert!(validate(&read(DATA, 512), &config, &memory()).is_ok());
    assert!(matches!(validate(&request(OP_FLUSH, 0, &[]), &config, &memory()), Ok(Plan::Flush)));
}

#[test]
fn a_discard_where_there_is_none() {
    let request = BlockRequest { count: 1, ..request(OP_DISCARD, 0, &[]) };
    assert_eq!(
        validate(&request, &config(BlockFeatures::empty()), &memory()).err(),
        Some(Errno::NotSupported)
    );
}

#[test]
fn reserved_fields_say_nothing() {
    let plain = read(DATA, 512);
    let odd = BlockRequest { reserved: 1, reserved2: 2, count: 3, ..plain };
    assert!(validated(&odd).is_ok());
}

/// Numbers near where something begins or ends, and any others.
fn number() -> impl Strategy<Value = u64> {
    let edges = vec![0, 512, BASE, LIST, DATA, READ_ONLY, GUARD, GUARD + PAGE_SIZE, END, SECTORS, u64::MAX];
    prop_oneof![
        (proptest::sample::select(edges), -1024i64..1024).prop_map(|(edge, by)| edge.wrapping_add_signed(by)),
        (proptest::sample::select(vec![0, LIST, DATA, READ_ONLY]), 0u64..64)
            .prop_map(|(edge, by)| edge + 512 * by),
        any::<u64>(),
    ]
}

fn any_segment() -> impl Strategy<Value = Segment> {
    (number(), prop_oneof![Just(512), Just(48), (0u32..9).prop_map(|n| 512 * n), any::<u32>()])
        .prop_map(|(address, len)| segment(address, len))
}

fn any_request() -> impl Strategy<Value = BlockRequest> {
    let likely =
        (0u8..6, prop_oneof![0u16..5, any::<u16>()], number(), number(), any_segment(), any_segment())
            .prop_map(|(op, segment_count, sector, count, first, second)| BlockRequest {
                op,
                segment_count,
                sector,
                count,
                segments: [first, second],
                ..Default::default()
            });
    let wild = any::<[u8; 64]>().prop_map(|bytes| BlockRequest::read_from_bytes(&bytes).unwrap());
    prop_oneof![3 => likely, 1 => wild]
}

proptest! {
    #[test]
    fn a_plan_stays_within_the_disk_and_within_what_the_guest_may_touch(
        request in any_request(),
        list in proptest::collection::vec(any_segment(), 4),
        features in any::<u32>(),
    ) {
        let memory = memory();
        memory.write(GuestAddr(LIST), list.as_bytes()).unwrap();
        let config = BlockConfig { features, ..config(BlockFeatures::empty()) };
        let within = |offset: u64, len: u64| {
            let end = offset.checked_add(len);
            len > 0 && (offset | len).is_multiple_of(512) && end.is_some_and(|end| end <= SECTORS * 512)
        };
        let (transfer, access) = match validate(&request, &config, &memory) {
            Err(_) | Ok(Plan::Flush) => return Ok(()),
            Ok(Plan::Discard(span) | Plan::WriteZeroes(span)) => {
                prop_assert!(within(span.offset, span.len) && features & 1 == 0);
                return Ok(());
            }
            Ok(Plan::Read(transfer)) => (transfer, Access::WRITE),
            Ok(Plan::Write(transfer)) => (transfer, Access::READ),
        };
        let iovecs = transfer.buffers.iovecs();
        prop_assert!(within(transfer.offset, transfer.buffers.len()));
        prop_assert!(transfer.buffers.len() <= config.max_transfer.into());
        prop_assert_eq!(iovecs.iter().map(|v| v.iov_len as u64).sum::<u64>(), transfer.buffers.len());
        for piece in iovecs {
            let address = GuestAddr((piece.iov_base as u64) - memory.host_address() + BASE);
            prop_assert!(memory.check(address, piece.iov_len as u64, access).is_ok());
        }
    }
}
