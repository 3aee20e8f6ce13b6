//! Clones that take their template's pages when they are needed.

use super::*;

const CODE: u64 = 4 * PAGE_SIZE;
const DATA: u64 = 16 * PAGE_SIZE;
const PAGES: u64 = 64;
const WHOLE: u64 = DATA + PAGES * PAGE_SIZE;

/// Adds one to the first word of each page of the data, and makes a call; for ever.
fn counts() -> Vec<u8> {
    let [data, pages] = [BASE + DATA, PAGES].map(|value| (value as u32).to_le_bytes());
    // mov $data, %ecx; mov $pages, %edx; 1: incq (%rcx); add $0x1000, %rcx; dec %edx; jnz 1b
    let mut code = [&[0xb9], &data[..], &[0xba], &pages].concat();
    code.extend([0x48, 0xff, 0x01, 0x48, 0x81, 0xc1, 0, 0x10, 0, 0, 0xff, 0xca, 0x75, 0xf2]);
    code.extend(call());
    let back = -(code.len() as i8 + 2);
    [code, vec![0xeb, back as u8]].concat()
}

/// A template whose pages of data each begin with their number.
fn template(platform: &ProcessPlatform) -> Arc<Template> {
    let mut made = Template::make(GuestAddr(BASE), WHOLE).unwrap();
    made.allow(HYPERCALLS..STACK, Access::READ | Access::EXECUTE);
    made.allow(STACK..WHOLE, Access::READ | Access::WRITE);
    made.host_write(CODE, &counts());
    for page in 0..PAGES {
        made.host_write(DATA + page * PAGE_SIZE, &page.to_le_bytes());
    }
    platform.prepare(&made, &[HypercallPage::all(HYPERCALLS, 1).next().unwrap()]).unwrap();
    Arc::new(Template::seal(made).unwrap())
}

/// A virtual CPU that begins at this offset of a clone's memory.
fn start(platform: &ProcessPlatform, memory: &Arc<GuestMemory>, code: u64) -> ProcessVcpu {
    let page = HypercallPage::all(HYPERCALLS, 1).next().unwrap();
    let start = StartVcpu { page, state: &begin(code) };
    let part = page::Page::new(memory.clone(), 0);
    ProcessVcpu::new(platform.zygote.clone(), Arc::new([]), part, memory, &start).unwrap()
}

fn begin(code: u64) -> CpuState {
    CpuState::at_entry(BASE + code, BASE + DATA, 0)
}

fn clone(platform: &ProcessPlatform, template: &Arc<Template>) -> (ProcessVcpu, Arc<GuestMemory>) {
    let memory = Arc::new(GuestMemory::shared_of_template(template).unwrap());
    (start(platform, &memory, CODE), memory)
}

/// Whether each page of the data has been counted up so many times.
fn counted(memory: &GuestMemory, times: u64) -> bool {
    (0..PAGES).all(|page| {
        let mut word = [0; 8];
        memory.host_read(DATA + page * PAGE_SIZE, &mut word);
        u64::from_le_bytes(word) == page + times
    })
}

#[test]
fn clones_share_what_they_do_not_write() {
    let Some(platform) = platform() else { return };
    let template = template(&platform);
    let mut clones: Vec<_> = (0..3).map(|_| clone(&platform, &template)).collect();
    assert_eq!(clones.iter().map(|(_, memory)| memory.resident()).sum::<u64>(), 0);
    for (n, (vcpu, memory)) in clones.iter_mut().enumerate() {
        for times in 0..=n as u64 {
            assert!(calls(vcpu) && counted(memory, times + 1));
        }
        // The data and a page of the stack; not the code. The host finds there what the guest has written.
        let mut stack = [0; 8];
        memory.host_read(DATA - 8, &mut stack);
        assert_ne!(stack, [0; 8], "the address that a call returns to");
        assert_eq!(memory.resident(), (PAGES + 1) * PAGE_SIZE);
    }
    // The others' writes are not seen, and neither are those of the first when it is reset.
    assert!(clones.iter().zip(1..).all(|((_, memory), times)| counted(memory, times)));
    let (vcpu, memory) = &mut clones[0];
    vcpu.halt();
    memory.reset();
    vcpu.reset(&begin(CODE)).unwrap();
    assert!(counted(memory, 0) && calls(vcpu) && counted(memory, 1));
}

#[test]
fn kicks_and_pages_that_are_given_back_do_not_disturb_a_guest_that_asks_for_pages() {
    let Some(platform) = platform() else { return };
    let (mut vcpu, memory) = clone(&platform, &template(&platform));
    let (kicker, done) = (vcpu.kicker(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pause = 1u64;
            while !done.load(Ordering::SeqCst) {
                kicker.kick();
                pause = pause.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                std::thread::sleep(Duration::from_nanos(pause >> 47));
            }
        });
        let mut times = 0;
        let wrong = (0..300).find(|round| {
            if round % 3 == 0 {
                memory.discard(DATA..WHOLE);
                times = 0;
            }
            times += 1;
            !calls(&mut vcpu) || !counted(&memory, times)
        });
        done.store(true, Ordering::SeqCst);
        assert_eq!(wrong, None);
    });
}

#[test]
fn a_host_without_userfaultfd_has_copies() {
    let Some(platform) = platform() else { return };
    platform.zygote.assume_no_demand();
    let (mut vcpu, memory) = clone(&platform, &template(&platform));
    assert!(!memory.is_on_demand());
    assert!(memory.resident() >= PAGES * PAGE_SIZE);
    assert!(calls(&mut vcpu) && calls(&mut vcpu) && counted(&memory, 2));
}

#[test]
fn a_page_that_the_guest_may_not_have_is_a_fault() {
    let Some(platform) = platform() else { return };
    let template = template(&platform);
    // Below its memory, in its code, and in a page that nothing maps: a write at the first instruction.
    for target in [0x1000, BASE + CODE, BASE + PAGE_SIZE] {
        let memory = Arc::new(GuestMemory::shared_of_template(&template).unwrap());
        const ELSEWHERE: u64 = HYPERCALLS + PAGE_SIZE / 2;
        // movabs %rax, target
        memory.host_write(ELSEWHERE, &[&[0x48, 0xa3], &target.to_le_bytes()[..]].concat());
        let mut vcpu = start(&platform, &memory, ELSEWHERE);
        let exit = std::iter::repeat_with(|| vcpu.run()).find(|exit| *exit != Exit::Interrupted).unwrap();
        assert!(
            matches!(exit, Exit::Fault(Fault::Exception { vector: 14, address, .. }) if address == target),
            "{exit:?}"
        );
    }
}
