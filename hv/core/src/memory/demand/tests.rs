use super::*;

const BASE: u64 = 0x4000_0000;
const SIZE: u64 = 4096 * PAGE_SIZE;
const WRITE: Access = Access::READ.union(Access::WRITE);

/// Code at pages 2 and 3, and data at pages 5, 6 and 4000.
fn template() -> Arc<Template> {
    let mut made = Template::make(GuestAddr(BASE), SIZE).unwrap();
    made.allow(2 * PAGE_SIZE..4 * PAGE_SIZE, Access::READ | Access::EXECUTE);
    made.allow(4 * PAGE_SIZE..SIZE, WRITE);
    for (page, text) in [(2, b"code"), (3, b"more"), (5, b"five"), (6, b"six!"), (4000, b"far ")] {
        made.host_write(page * PAGE_SIZE, text);
    }
    Arc::new(Template::seal(made).unwrap())
}

fn text(memory: &GuestMemory, page: u64) -> [u8; 4] {
    let mut bytes = [0; 4];
    memory.host_read(page * PAGE_SIZE, &mut bytes);
    bytes
}

/// What another process sees in the file.
fn in_file(memory: &GuestMemory, page: u64) -> [u8; 4] {
    let mut bytes = [0; 4];
    rustix::io::pread(memory.shared_file().unwrap(), &mut bytes, page * PAGE_SIZE).unwrap();
    bytes
}

#[test]
fn a_clone_has_nothing_of_its_own_until_something_is_written_or_wanted() {
    let template = template();
    let memory = GuestMemory::shared_of_template(&template).unwrap();
    assert_eq!([2, 5, 6, 4000].map(|page| text(&memory, page)), [*b"code", *b"five", *b"six!", *b"far "]);
    assert_eq!((memory.resident(), in_file(&memory, 5)), (0, [0; 4]), "reading takes no memory");

    // The host writes into a page: the rest of it is the template's.
    memory.host_write(5 * PAGE_SIZE + 2, b"--");
    assert_eq!((text(&memory, 5), in_file(&memory, 5)), (*b"fi--", *b"fi--"));
    assert_eq!((memory.resident(), in_file(&memory, 6)), (PAGE_SIZE, [0; 4]));

    // The guest touches pages with and without contents.
    let at = |page: u64| GuestAddr(BASE + page * PAGE_SIZE + 77);
    assert!(memory.bring(at(4000), Access::READ).unwrap());
    assert!(memory.bring(at(9), Access::WRITE).unwrap());
    assert_eq!((in_file(&memory, 4000), in_file(&memory, 9)), (*b"far ", [0; 4]));
    assert_eq!(memory.resident(), 3 * PAGE_SIZE);

    // What it may not do, or what is not its memory, is no demand.
    for (address, access) in [
        (at(2), Access::WRITE),
        (at(9), Access::EXECUTE),
        (at(0), Access::READ),
        (GuestAddr(0), Access::READ),
        (GuestAddr(u64::MAX), Access::READ),
    ] {
        assert!(!memory.bring(address, access).unwrap(), "{address:?}");
    }
    assert!(!GuestMemory::new_shared(GuestAddr(BASE), SIZE).unwrap().bring(at(9), Access::READ).unwrap());

    // What the guest writes to pages that the template does not have is there at once.
    rustix::io::pwrite(memory.shared_file().unwrap(), b"from the guest", 1000 * PAGE_SIZE).unwrap();
    assert_eq!(text(&memory, 1000), *b"from");

    // Bringing a page again changes nothing.
    memory.host_write(4000 * PAGE_SIZE, b"mine");
    assert!(memory.bring(at(4000), Access::WRITE).unwrap());
    assert_eq!(text(&memory, 4000), *b"mine");

    let other = GuestMemory::shared_of_template(&template).unwrap();
    assert_eq!([5, 4000].map(|page| text(&other, page)), [*b"five", *b"far "]);
}

#[test]
fn the_kernel_and_rings_find_the_pages_that_they_are_given() {
    let memory = Arc::new(GuestMemory::shared_of_template(&template()).unwrap());
    let iovec = memory.iovec(GuestAddr(BASE + 6 * PAGE_SIZE - 2), 6, Access::READ).unwrap();
    assert_eq!(iovec.iov_len, 6);
    assert_eq!([5, 6].map(|page| in_file(&memory, page)), [*b"five", *b"six!"]);
    assert_eq!(memory.atomic_u32(4000 * PAGE_SIZE).load(Ordering::SeqCst), u32::from_le_bytes(*b"far "));
    assert!(!memory.is_incomplete());
}

#[test]
fn what_is_given_back_is_the_templates_again() {
    let memory = GuestMemory::shared_of_template(&template()).unwrap();
    for page in [5, 7, 4000] {
        memory.host_write(page * PAGE_SIZE, b"mine");
    }
    memory.discard(5 * PAGE_SIZE..8 * PAGE_SIZE);
    assert_eq!(memory.resident(), PAGE_SIZE);
    assert_eq!([5, 6, 7, 4000].map(|page| text(&memory, page)), [*b"five", *b"six!", [0; 4], *b"mine"]);
    assert!(memory.bring(GuestAddr(BASE + 5 * PAGE_SIZE), Access::READ).unwrap());
    assert_eq!(in_file(&memory, 5), *b"five");
    memory.host_write(5 * PAGE_SIZE, b"mine");
    memory.discard(5 * PAGE_SIZE..6 * PAGE_SIZE);
    memory.reset();
    assert_eq!([5, 6, 7, 4000].map(|page| text(&memory, page)), [*b"five", *b"six!", [0; 4], *b"far "]);
}

#[test]
fn a_memory_that_is_complete_never_lacks_a_page() {
    let memory = GuestMemory::shared_of_template(&template()).unwrap();
    assert!(memory.is_on_demand());
    memory.complete().unwrap();
    assert!(!memory.is_on_demand());
    assert_eq!([5, 6, 4000].map(|page| in_file(&memory, page)), [*b"five", *b"six!", *b"far "]);
    assert!(memory.pieces(100).iter().all(|piece| piece.source != Source::OnDemand));
    // Nobody would say that it lacks a page with contents, so those stay.
    memory.host_write(7 * PAGE_SIZE, b"mine");
    memory.discard(5 * PAGE_SIZE..8 * PAGE_SIZE);
    assert_eq!([5, 6, 7].map(|page| in_file(&memory, page)), [*b"five", *b"six!", [0; 4]]);
    memory.reset();
    assert_eq!([5, 6, 4000].map(|page| in_file(&memory, page)), [*b"five", *b"six!", *b"far "]);
}

#[test]
fn pieces_say_where_each_page_comes_from() {
    let memory = GuestMemory::shared_of_template(&template()).unwrap();
    memory.host_write(2 * PAGE_SIZE, b"the host's");
    let of = |pages: Range<u64>, access, source| Piece {
        range: pages.start * PAGE_SIZE..pages.end * PAGE_SIZE,
        access,
        source,
    };
    let code = [
        of(2..3, Access::READ | Access::EXECUTE, Source::File),
        of(3..4, Access::READ | Access::EXECUTE, Source::Template),
    ];
    let data = [
        of(4..5, WRITE, Source::File),
        of(5..7, WRITE, Source::OnDemand),
        of(7..4000, WRITE, Source::File),
        of(4000..4001, WRITE, Source::OnDemand),
        of(4001..4096, WRITE, Source::File),
    ];
    assert_eq!(memory.pieces(100), [&code[..], &data].concat());
    let joined = [
        of(4..5, WRITE, Source::File),
        of(5..4001, WRITE, Source::OnDemand),
        of(4001..4096, WRITE, Source::File),
    ];
    for more in [0, 3, 4] {
        assert_eq!(memory.pieces(more), [&code[..], &joined].concat(), "{more}");
    }
    let plain = GuestMemory::new_shared(GuestAddr(BASE), SIZE).unwrap();
    assert_eq!(plain.pieces(0), []);
}

#[test]
fn the_smallest_holes_are_joined_first() {
    let mut at = 0;
    let mut pieces = Vec::new();
    for hole in [3, 1, 4, 1, 5, 9, 2, 6] {
        for (len, source) in [(1, Source::OnDemand), (hole, Source::File)] {
            pieces.push(Piece { range: at..at + len, access: WRITE, source });
            at += len;
        }
    }
    for most in 0..=pieces.len() {
        let joined = without_small_holes(pieces.clone(), most);
        assert!(joined.len() <= most.max(2));
        let holes = |pieces: &[Piece]| -> Vec<_> {
            pieces
                .iter()
                .filter(|piece| piece.source == Source::File)
                .map(|piece| piece.range.clone())
                .collect()
        };
        let (left, all) = (holes(&joined), holes(&pieces));
        let len = |range: &Range<u64>| range.end - range.start;
        // The last one has nothing behind it.
        let gone = all[..7].iter().filter(|hole| !left.contains(hole)).map(len).max().unwrap_or(0);
        assert!(left[..left.len() - 1].iter().all(|hole| len(hole) > gone), "{most}: {left:?}");
        assert!(joined.array_windows::<2>().all(|[one, next]| one.range.end == next.range.start));
        assert_eq!((joined[0].range.start, joined.last().unwrap().range.end), (0, at));
    }
}

#[test]
fn threads_that_need_the_same_pages_all_find_them_whole() {
    let template = template();
    for _ in 0..200 {
        let memory = GuestMemory::shared_of_template(&template).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let memory = &memory;
                scope.spawn(move || {
                    if thread % 2 == 0 {
                        memory.host_write(5 * PAGE_SIZE + 100 + thread, &[thread as u8 + 1]);
                    } else {
                        memory.bring(GuestAddr(BASE + 5 * PAGE_SIZE), Access::READ).unwrap();
                    }
                    assert_eq!((text(memory, 5), in_file(memory, 5)), (*b"five", *b"five"));
                });
            }
        });
        let mut bytes = [0; 4];
        memory.host_read(5 * PAGE_SIZE + 100, &mut bytes);
        assert_eq!(bytes, [1, 0, 3, 0], "no write is lost");
    }
}
