//! Golden bytes: what every shared struct looks like in memory.
//!
//! A guest in the field has these bytes built in. If a test here fails, the
//! ABI has changed: do not just update the value, but read the section
//! "Versions" of docs/abi.md first. A field may be appended behind a feature
//! bit; anything else is a new major version.

use hv_abi::device::{self, Config, DeviceInfo, RingInfo};
use hv_abi::event::{FIRST_DEVICE, GENERATION, NONE, PORTS, POWER, TARGETS};
use hv_abi::free_map;
use hv_abi::hypercall::{ENTROPY_MAX, PANIC_MESSAGE_MAX, STUB_SIZE};
use hv_abi::io::block::{self, BlockConfig, BlockFeatures, BlockRequest, BlockResponse, Segment};
use hv_abi::io::console::{ConsoleConfig, INPUT_CLOSED};
use hv_abi::io::function::{BODY_MAX, FrameHeader, FrameKind, HEAD_MAX};
use hv_abi::io::net::{ETHERNET_HEADER, NetConfig, NetFeatures, NetRequest, NetResponse};
use hv_abi::io::services::{
    self, CALLS_MAX, DATA_MAX, OPEN_MAX, Operation, Parameters, Status, TEXT_MAX, WINDOW,
};
use hv_abi::io::share::{
    self, ShareAttributes, ShareChange, ShareConfig, ShareEntry, ShareFeatures, ShareRequest, ShareResponse,
    ShareSpace,
};
use hv_abi::note::{NOTE_NAME, NOTE_TYPE, Note};
use hv_abi::ring::{self, Layout};
use hv_abi::shared_info::{Clock, EVENT_WORDS, RED_ZONE, SharedInfo};
use hv_abi::start_info::{CpuFeatures, MAGIC, StartInfo};
use hv_abi::tasks::{
    TASK_RUNS, TASK_TEXT_MAX, TASK_WAITS, TASK_WAITS_FOR_EVENT, TASK_WAITS_FOR_TIME, TASKS_NOTE_TYPE,
    TASKS_VERSION, TaskInfo, TasksNote,
};
use hv_abi::vcpu::VcpuInfo;
use hv_abi::{ABI_VERSION, AbiVersion, Errno, EventPort, GuestAddr, Hypercall, PAGE_SIZE};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes from hexadecimal digits; blanks do not count.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    assert!(digits.len().is_multiple_of(2));
    digits
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// An address whose lowest byte says which field it is.
const fn address(n: u64) -> GuestAddr {
    GuestAddr(0x8877_6655_4433_2200 | n)
}

#[track_caller]
fn golden(value: &(impl IntoBytes + zerocopy::Immutable), digits: &str) {
    assert_eq!(value.as_bytes(), hex(digits), "see the top of this file before you change anything");
}

#[test]
fn note() {
    let note = Note::new(256 << 10, 1 << 20);
    golden(&note, "03000000 10000000 01000000 68760000  0100 0800 00000400 0000100000000000");
    assert_eq!((NOTE_NAME, NOTE_TYPE), (*b"hv\0", 1));
}

#[test]
fn tasks() {
    golden(
        &TasksNote { version: TASKS_VERSION, reserved: 0, distance: -2 },
        "01000000 00000000 feffffffffffffff",
    );
    let info = TaskInfo {
        next: address(1),
        name: address(2),
        name_size: 3,
        state: TASK_WAITS | TASK_WAITS_FOR_TIME | TASK_WAITS_FOR_EVENT,
        file: address(4),
        file_size: 5,
        line: 6,
        deadline: 7,
        event: 8,
        reserved: 0,
    };
    let bytes = "0122334455667788 0222334455667788 03000000 07000000
                 0422334455667788 05000000 06000000 0700000000000000 08000000 00000000";
    golden(&info, bytes);
    assert_eq!((TASKS_NOTE_TYPE, TASKS_VERSION, TASK_RUNS, TASK_TEXT_MAX), (2, 1, 0, 256));
}

#[test]
fn start_info() {
    let info = StartInfo {
        magic: MAGIC,
        abi_major: 0x0201,
        abi_minor: 0x0403,
        size: 184,
        cpu_features: 0x0807_0605,
        vcpus: 0x0c0b_0a09,
        memory_base: address(1),
        memory_size: 2,
        image_base: address(3),
        heap_base: address(4),
        heap_size: 5,
        stack_base: address(6),
        stack_size: 7,
        hypercall_page: address(8),
        shared_info: address(9),
        arguments: address(10),
        environment: address(11),
        arguments_size: 12,
        environment_size: 13,
        devices: address(14),
        device_count: 15,
        device_stride: 128,
        seed: core::array::from_fn(|n| n as u8),
        vcpu_info: address(16),
        free_map: address(17),
    };
    golden(
        &info,
        "68762d7374617274 0102 0304 b8000000 05060708 090a0b0c
         0122334455667788 0200000000000000 0322334455667788 0422334455667788
         0500000000000000 0622334455667788 0700000000000000 0822334455667788
         0922334455667788 0a22334455667788 0b22334455667788 0c000000 0d000000
         0e22334455667788 0f000000 80000000
         000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
         1022334455667788 1122334455667788",
    );
}

#[test]
fn shared_info() {
    let mut info = SharedInfo::new_zeroed();
    info.pending = core::array::from_fn(|n| n as u64 + 1);
    info.mask = [u64::MAX; EVENT_WORDS];
    info.clock = Clock { version: 1, shift: 2, multiplier: 3, tsc_base: 4, ns_base: 5, wall_base: 6 };
    info.generation = [0xee; 16];
    info.seed = [0xdd; 32];
    info.upcall_mask = 0x0403_0201;
    info.vcpus_target = 0x0807_0605;
    info.memory_target = 9;
    info.free_map_watched = 0x0d0c_0b0a;
    let pending: String = (1..=16u64).map(|n| format!("{n:02x}00000000000000")).collect();
    let clock = "01000000 02000000 0300000000000000 0400000000000000 0500000000000000 0600000000000000";
    let identity = "00".repeat(24) + &"ee".repeat(16) + &"dd".repeat(32);
    let expected = pending
        + &"ff".repeat(128)
        + clock
        + &identity
        + "01020304 05060708 0900000000000000 0a0b0c0d 00000000";
    golden(&info, &expected);
    assert_eq!(RED_ZONE, 128);
}

#[test]
fn vcpu_info() {
    golden(&VcpuInfo::START, &("ff".repeat(128) + "01000000" + &"00".repeat(124)));
    let ports = [0, 1, 63, 64].map(EventPort::of_vcpu);
    assert_eq!(ports, [Some(EventPort(959)), Some(EventPort(960)), Some(EventPort(1022)), None]);
    let of_vcpus = [958, 959, 1022, 1023, u32::MAX].map(|port| EventPort(port).is_of_vcpu());
    assert_eq!(of_vcpus, [false, true, true, false, false]);
    assert_eq!(hv_abi::vcpu::MAX, 64);
}

#[test]
fn free_map() {
    golden(&free_map::Entry { free: 1, empty: 2 }, "0100000000000000 0200000000000000");
    assert_eq!((free_map::PAGES, free_map::size(0), free_map::size(64), free_map::size(65)), (64, 0, 16, 32));
}

#[test]
fn device_table() {
    let ring = |n: u64| RingInfo {
        address: address(n),
        requests: 16,
        responses: 32,
        event: EventPort(n as u32),
        reserved: 0,
    };
    let info = DeviceInfo {
        kind: device::NET,
        index: 1,
        rings: [ring(2), ring(3)],
        config: [0xcc; device::CONFIG_SIZE],
    };
    let rings = "0222334455667788 10000000 20000000 02000000 00000000
                 0322334455667788 10000000 20000000 03000000 00000000";
    golden(&info, &("03000000 01000000".to_owned() + rings + &"cc".repeat(72)));
    assert_eq!((device::CONSOLE, device::BLOCK, device::NET), (1, 2, 3));
}

#[test]
fn configurations() {
    golden(&ConsoleConfig { reserved: 0 }, "0000000000000000");
    let block =
        BlockConfig { sectors: 1, sector_size: 512, features: 3, max_transfer: 1 << 20, max_segments: 128 };
    golden(&block, "0100000000000000 00020000 03000000 00001000 80000000");
    let net = NetConfig {
        mac: [1, 2, 3, 4, 5, 6],
        mtu: 1500,
        features: 3,
        address: [10, 0, 2, 15],
        gateway: [10, 0, 2, 2],
        dns: [10, 0, 2, 3],
        prefix: 24,
        reserved: [0; 3],
    };
    golden(&net, "010203040506 dc05 03000000 0a00020f 0a000202 0a000203 18 000000");
}

#[test]
fn a_configuration_is_found_in_an_entry_of_its_kind_only() {
    let config = BlockConfig { sectors: 7, sector_size: 4096, ..BlockConfig::default() };
    let mut info = DeviceInfo { kind: device::BLOCK, config: config.to_config(), ..DeviceInfo::new_zeroed() };
    assert_eq!(BlockConfig::of(&info), Some(config));
    assert_eq!(info.config[24..], [0; device::CONFIG_SIZE - 24]);
    info.kind = device::NET;
    assert_eq!(BlockConfig::of(&info), None);
}

#[test]
fn block_requests_and_responses() {
    let segment = |n| Segment { address: address(n), len: 4096, reserved: 0 };
    let request = BlockRequest {
        id: 0x0807_0605_0403_0201,
        op: block::OP_WRITE,
        reserved: 0,
        segment_count: 2,
        reserved2: 0,
        sector: 9,
        count: 10,
        segments: [segment(1), segment(2)],
    };
    golden(
        &request,
        "0102030405060708 01 00 0200 00000000 0900000000000000 0a00000000000000
         0122334455667788 00100000 00000000 0222334455667788 00100000 00000000",
    );
    let response = BlockResponse { id: 1, status: Errno::Io.to_status(), reserved: 0 };
    golden(&response, "0100000000000000 fbffffff 00000000");
}

#[test]
fn net_requests_and_responses() {
    golden(&NetRequest { address: address(1), len: 60, id: 2 }, "0122334455667788 3c000000 02000000");
    golden(&NetResponse { id: 2, status: Errno::Fault.to_status() }, "02000000 f2ffffff");
}

#[test]
fn rings() {
    assert_eq!(
        (ring::FRONT_LINE, ring::BACK_LINE, ring::CLOSED_OFFSET, ring::REQUEST_SLOTS),
        (0, 64, 80, 128)
    );
    // (requests, responses) of the sizes that the host gives, and where the responses start.
    let bytes = Layout::new::<u8, u8>(16 << 10, 2 << 10).unwrap();
    assert_eq!((bytes.response_slots(), bytes.size()), (16_512, 18_560));
    let blocks = Layout::new::<BlockRequest, BlockResponse>(128, 128).unwrap();
    assert_eq!((blocks.response_slots(), blocks.size()), (8_320, 10_368));
    let frames = Layout::new::<NetRequest, NetResponse>(256, 256).unwrap();
    assert_eq!((frames.response_slots(), frames.size()), (4_224, 6_272));
    // Few and small entries: the response slots have cache lines of their own.
    let small = Layout::new::<u8, u8>(1, 1).unwrap();
    assert_eq!((small.response_slots(), small.size()), (192, 193));
}

#[test]
fn numbers() {
    assert_eq!(ABI_VERSION, AbiVersion { major: 1, minor: 8 });
    assert_eq!((PAGE_SIZE, STUB_SIZE, PANIC_MESSAGE_MAX, ENTROPY_MAX), (4096, 32, 4096, 256));
    assert_eq!((NONE, POWER, FIRST_DEVICE, PORTS), (EventPort(0), EventPort(1), EventPort(2), 1024));
    assert_eq!((GENERATION, TARGETS), (EventPort(1023), EventPort(958)));
    let kinds = [FrameKind::Head, FrameKind::Body, FrameKind::End, FrameKind::Cancel];
    assert_eq!(kinds.map(|kind| kind as u32), [1, 2, 3, 4]);
    assert_eq!((HEAD_MAX, BODY_MAX), (16 << 10, 64 << 10));
    golden(&FrameHeader::new(FrameKind::Body, 0x1234), "02000000 34120000");
    let calls: Vec<_> =
        Hypercall::ALL.iter().map(|&call| (call as u32, call.name(), call.stub_offset())).collect();
    assert_eq!(
        calls,
        [
            (0, "nop", 0),
            (1, "event_send", 32),
            (2, "exit", 64),
            (3, "panic", 96),
            (4, "block", 128),
            (5, "yield", 160),
            (6, "wall_clock", 192),
            (7, "entropy", 224),
            (8, "ready", 256),
            (9, "set_upcall", 288),
            (10, "error_output", 320),
            (11, "vcpu_start", 352),
            (12, "vcpu_stop", 384),
            (13, "free_pages", 416),
            (14, "send_and_block", 448),
        ]
    );
    let errors: Vec<_> = Errno::ALL.iter().map(|&error| (error.to_status(), format!("{error:?}"))).collect();
    let expected = [
        (-2, "NotFound"),
        (-5, "Io"),
        (-9, "BadHandle"),
        (-11, "Again"),
        (-13, "Denied"),
        (-14, "Fault"),
        (-16, "Busy"),
        (-17, "Exists"),
        (-18, "Outside"),
        (-20, "NotDirectory"),
        (-21, "IsDirectory"),
        (-22, "Invalid"),
        (-24, "TooManyOpen"),
        (-27, "TooLarge"),
        (-28, "NoSpace"),
        (-30, "ReadOnly"),
        (-36, "NameTooLong"),
        (-38, "NoSys"),
        (-39, "NotEmpty"),
        (-40, "TooManyLinks"),
        (-95, "NotSupported"),
        (-116, "Stale"),
        (-122, "Quota"),
    ];
    assert_eq!(errors, expected.map(|(number, name)| (number, name.to_owned())));
    assert_eq!(
        [block::OP_READ, block::OP_WRITE, block::OP_FLUSH, block::OP_DISCARD, block::OP_WRITE_ZEROES],
        [0, 1, 2, 3, 4]
    );
    assert_eq!((block::MAX_SEGMENTS, block::INLINE_SEGMENTS), (128, 2));
    assert_eq!((ETHERNET_HEADER, INPUT_CLOSED), (14, 1));
}

#[test]
fn feature_bits() {
    let cpu: Vec<_> = CpuFeatures::all().iter_names().map(|(name, bit)| (name, bit.bits())).collect();
    assert_eq!(cpu, [("INVARIANT_TSC", 1), ("RDRAND", 2)]);
    let block: Vec<_> = BlockFeatures::all().iter_names().map(|(name, bit)| (name, bit.bits())).collect();
    assert_eq!(block, [("READ_ONLY", 1), ("DISCARD", 2)]);
    let net: Vec<_> = NetFeatures::all().iter_names().map(|(name, bit)| (name, bit.bits())).collect();
    assert_eq!(net, [("CHECKSUM_FREE", 1), ("ADDRESS", 2)]);
    let share: Vec<_> = ShareFeatures::all().iter_names().map(|(name, bit)| (name, bit.bits())).collect();
    assert_eq!(share, [("READ_ONLY", 1), ("UNCHANGING", 2)]);
}

#[test]
fn which_guests_a_host_can_run() {
    let version = |major, minor| AbiVersion { major, minor };
    assert!(version(1, 3).can_run(version(1, 0)));
    assert!(version(1, 3).can_run(version(1, 3)));
    assert!(!version(1, 3).can_run(version(1, 4)));
    assert!(!version(2, 0).can_run(version(1, 0)));
    assert!(!version(1, 9).can_run(version(2, 0)));
}

/// The tables that exist twice, here and in the document, say the same.
#[test]
fn the_document_lists_every_call_and_every_error() {
    let document = include_str!("../../docs/abi.md");
    let has = |row: &str| assert!(document.contains(row), "docs/abi.md has no row that begins: {row}");
    for &call in Hypercall::ALL {
        let (n, name) = (call as u32, call.name());
        let arguments: String = call.arguments().iter().map(|argument| format!(" `{argument}` |")).collect();
        has(&format!("| {n} | [`{name}`](#{n}-{name}) |{arguments}"));
        has(&format!("\n### {n} {name}\n"));
    }
    for &error in Errno::ALL {
        has(&format!("\n| {} | `{error:?}` |", -error.to_status()));
    }
    has(&format!("version **{ABI_VERSION}**"));
}

#[test]
fn services() {
    golden(
        &services::FrameHeader { kind: 1, code: 0x0302, call: 0x0706_0504, len: 8, value: 9 },
        "0100 0203 04050607 08000000 09000000",
    );
    golden(
        &Parameters { name_len: 1, key_len: 2, after_len: 3, condition: 4, first: 5, second: 6 },
        "0100 0200 0300 0400 0500000000000000 0600000000000000",
    );
    golden(&services::Answer { version: 1, size: 2 }, "0100000000000000 0200000000000000");
    golden(&services::Entry { size: 1, key_len: 2, reserved: 0 }, "0100000000000000 02000000 00000000");
    assert_eq!((CALLS_MAX, DATA_MAX, WINDOW, OPEN_MAX, TEXT_MAX), (64, 16 << 10, 32 << 10, 2048, 256));
    assert_eq!((device::SERVICES, Operation::UdpConnect as u16, Status::NoRequest as u16), (5, 11, 9));
    use services::FrameKind::{Answer, Close, Credit, Data, End, Open};
    assert_eq!([Open, Answer, Data, End, Credit, Close].map(|kind| kind as u16), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn share() {
    let config = ShareConfig {
        features: 1,
        max_transfer: 2,
        max_handles: 3,
        tag_len: 2,
        tag: core::array::from_fn(|n| n as u8),
    };
    golden(
        &config,
        "01000000 02000000 03000000 02000000
         000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324252627",
    );
    assert_eq!(config.tag(), [0, 1]);
    assert_eq!(ShareConfig { tag_len: u32::MAX, ..config }.tag().len(), share::TAG_MAX);
    golden(
        &ShareRequest {
            id: 1,
            op: 2,
            flags: 3,
            path_len: 4,
            handle: 5,
            offset: 6,
            path: address(7),
            data: address(8),
            data_len: 9,
            mode: 10,
            other: 11,
        },
        "0100000000000000 0200 0300 04000000 0500000000000000 0600000000000000
         0722334455667788 0822334455667788 09000000 0a000000 0b00000000000000",
    );
    golden(
        &ShareResponse { id: 1, status: -2, reserved: 0, value: 3 },
        "0100000000000000 feffffff 00000000 0300000000000000",
    );
    golden(
        &ShareAttributes {
            inode: 1,
            device: 2,
            size: 3,
            blocks: 4,
            accessed: 5,
            modified: -6,
            changed: 7,
            accessed_ns: 8,
            modified_ns: 9,
            changed_ns: 10,
            mode: 11,
            links: 12,
            uid: 13,
            gid: 14,
            block_size: 15,
        },
        "0100000000000000 0200000000000000 0300000000000000 0400000000000000
         0500000000000000 faffffffffffffff 0700000000000000 08000000 09000000 0a000000
         0b000000 0c000000 0d000000 0e000000 0f000000",
    );
    golden(
        &ShareEntry { cookie: 1, inode: 2, len: 3, name_len: 4, kind: 5 },
        "0100000000000000 0200000000000000 0300 0400 05000000",
    );
    use share::{OP_ATTRIBUTES, OP_CLOSE, OP_OPEN, OP_READ, OP_READ_DIR, OP_READ_LINK};
    assert_eq!([OP_OPEN, OP_CLOSE, OP_READ, OP_READ_DIR, OP_ATTRIBUTES, OP_READ_LINK], [1, 2, 3, 4, 5, 6]);
    golden(
        &ShareChange {
            what: 1,
            mode: 2,
            uid: 3,
            gid: 4,
            size: 5,
            accessed: 6,
            modified: 7,
            accessed_ns: 8,
            modified_ns: 9,
        },
        "01000000 02000000 03000000 04000000 0500000000000000 0600000000000000
         0700000000000000 08000000 09000000",
    );
    golden(
        &ShareSpace { block_size: 1, blocks: 2, free: 3, available: 4, files: 5, free_files: 6 },
        "0100000000000000 0200000000000000 0300000000000000 0400000000000000
         0500000000000000 0600000000000000",
    );
    use share::{
        OP_CHANGE, OP_LINK, OP_MAKE_DIR, OP_REMOVE, OP_RENAME, OP_SPACE, OP_SYMLINK, OP_SYNC, OP_WRITE,
    };
    let changes =
        [OP_WRITE, OP_SYNC, OP_MAKE_DIR, OP_REMOVE, OP_RENAME, OP_LINK, OP_SYMLINK, OP_CHANGE, OP_SPACE];
    assert_eq!(changes, [7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(
        [share::OPEN_WRITE, share::OPEN_CREATE, share::OPEN_EXCLUSIVE, share::OPEN_TRUNCATE],
        [2, 4, 8, 16]
    );
    assert_eq!(
        [share::SET_MODE, share::SET_OWNER, share::SET_SIZE, share::SET_ACCESSED, share::SET_MODIFIED],
        [1, 2, 4, 8, 16]
    );
    assert_eq!(
        [
            share::WRITE_APPEND,
            share::SYNC_DATA,
            share::REMOVE_DIRECTORY,
            share::RENAME_NO_REPLACE,
            share::RENAME_EXCHANGE
        ],
        [1, 1, 1, 1, 2]
    );
    assert_eq!(share::TIME_NOW, 0x3fff_ffff);
    assert_eq!(
        (share::OPEN_READ, share::OPEN_DIRECTORY, share::NO_FOLLOW, share::WITH_ATTRIBUTES),
        (1, 32, 64, 1)
    );
    assert_eq!((share::PATH_MAX, share::NAME_MAX, share::TAG_MAX, share::ROOT), (4095, 255, 40, 0));
    assert_eq!((share::READ_DIR_MIN, share::READ_DIR_MAX, device::SHARE), (512, 64 << 10, 6));
}
