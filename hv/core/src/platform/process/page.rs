//! The handoff page, hv's side. It is in the tail of the guest's memory.

use crate::memory::{Access, GuestMemory, SHARED_TAIL};
use crate::platform::{CpuState, Fault, Fpu};
use hv_abi::GuestAddr;
use hv_host::clock;
use hv_stub::{MAX_XSAVE, PART, field, kind, owner, register};
use rustix::thread::futex::{self, Flags};
use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, IntoBytes};

/// How long each side spins before it sleeps: somewhat longer than a hypercall takes in hv.
const SPIN: Duration = Duration::from_micros(10);

/// How long a guest that is to sleep may take to do so before its process is replaced: as long as another one takes.
const FALLS_ASLEEP: Duration = Duration::from_micros(500);

/// After so many consecutive runs that lasted longer than the spinning, hv sleeps without spinning…
const PATIENCE: u32 = 8;
/// … except in one run of so many.
const RETRY: u32 = 32;

/// How long each side spins, in ticks of the time-stamp counter. Determined at the first call.
pub(super) fn spin() -> u64 {
    static TICKS: OnceLock<u64> = OnceLock::new();
    *TICKS.get_or_init(|| {
        let alone = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
        let ticks = u64::from(clock::tsc_khz()) * SPIN.as_micros() as u64 / 1000;
        if alone { 0 } else { ticks }
    })
}

/// Bytes of the XSAVE area with everything that the kernel has enabled (Intel SDM volume 1, section 13.2). 0 if there is none.
fn xsave_size() -> u64 {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return 0;
    }
    let size = u64::from(__cpuid_count(0xd, 0).ebx);
    if size <= MAX_XSAVE as u64 { size } else { 0 }
}

/// See [`xsave_size`].
static XSAVE_SIZE: LazyLock<u64> = LazyLock::new(xsave_size);

/// Whether guests can change the bases of FS and GS (`HWCAP2_FSGSBASE`, arch/x86/include/uapi/asm/hwcap2.h).
static CAN_CHANGE_BASES: LazyLock<bool> = LazyLock::new(|| rustix::param::linux_hwcap().1 & 2 != 0);

/// Words of [`CpuState`] before the FPU state.
const REGISTERS: usize = register::COUNT;

const _: () = {
    assert!(offset_of!(CpuState, rsp) as u64 == 8 * register::RSP);
    assert!(offset_of!(CpuState, rip) as u64 == 8 * register::RIP);
    assert!(offset_of!(CpuState, rflags) as u64 == 8 * register::RFLAGS);
    assert!(offset_of!(CpuState, fpu) == 8 * register::COUNT);
    assert!(hv_abi::vcpu::MAX as u64 * PART <= SHARED_TAIL);
};

/// Moves a thread that sleeps on the futex `from`, which has this value, to the futex `to`. Returns whether there was one: the
/// kernel finds it in its queue of sleepers, where no thread is that executes code of its own.
pub(super) fn move_sleeper(from: &AtomicU32, value: u32, to: &AtomicU32) -> bool {
    matches!(futex::cmp_requeue(from, Flags::empty(), 0, 1, to, value), Ok(1))
}

/// What the guest reports at the end of its run, copied once.
#[derive(FromBytes, Clone, Copy)]
#[repr(C)]
pub(super) struct ExitArgs {
    owner: u32,
    pub(super) kind: u32,
    pub(super) number: u32,
    redirect: u32,
    pub(super) arguments: [u64; 3],
}

/// Why hv stopped waiting for the end of a guest's run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// The run is over.
    Over,
    /// The run is over. hv found that out by itself: the guest sleeps and has not woken hv.
    Unsaid,
    /// The time is over, or hv's thread was [alerted](Alert).
    Look,
}

/// Alerts the thread that waits for the end of a guest's run, so that it checks its orders.
pub(super) struct Alert {
    memory: Arc<GuestMemory>,
    /// Offset of the page in the memory.
    offset: u64,
}

impl Alert {
    fn word(&self) -> &AtomicU32 {
        self.memory.atomic_u32(self.offset + field::OWNER)
    }

    /// Whether the guest sleeps. It may sleep only after it has told hv that its run is over.
    pub(super) fn is_asleep(&self) -> bool {
        self.word().load(Ordering::Acquire) == owner::HOST_GUEST_SLEEPS
    }

    /// Wakes the thread. Returns how many threads slept on the word.
    pub(super) fn alert(&self) -> usize {
        // Wakes all sleepers on the word. A guest that sleeps there checks the word and sleeps on.
        futex::wake(self.word(), Flags::empty(), i32::MAX as u32).unwrap_or(0)
    }
}

/// The table of event ports and the doorbells that they signal. The stub reads it in the page.
pub(super) struct Bindings {
    memory: Arc<GuestMemory>,
    /// Offset of the page in the memory.
    offset: u64,
}

impl Bindings {
    /// From now on, a ring of this port signals the doorbell of this number.
    pub(super) fn bind(&self, port: u32, doorbell: u8) {
        self.memory.host_write(self.offset + field::DOORBELLS + u64::from(port), &[doorbell]);
    }
}

/// The page, with hv's side of the handoff.
pub(super) struct Page {
    memory: Arc<GuestMemory>,
    /// Offset of the page in the memory.
    offset: u64,
    /// Ticks of the time-stamp counter. 0 on a machine where spinning keeps the other side from running.
    spin: u64,
    /// Number of consecutive runs that lasted longer than the spinning.
    misses: u32,
    /// When the last wait began, if it lasted longer than the spinning.
    since: Option<Instant>,
}

impl Page {
    /// The page of a virtual CPU. Virtual CPUs are counted from 0.
    pub(super) fn new(memory: Arc<GuestMemory>, number: usize) -> Self {
        let offset = memory.size() + number as u64 * PART;
        assert!(offset + PART <= memory.size() + memory.tail());
        Page { memory, offset, spin: spin(), misses: 0, since: None }
    }

    /// The page's alert, for other threads.
    pub(super) fn alert(&self) -> Alert {
        Alert { memory: self.memory.clone(), offset: self.offset }
    }

    pub(super) fn bindings(&self) -> Bindings {
        Bindings { memory: self.memory.clone(), offset: self.offset }
    }

    /// Offset of the page in the memory. The stub's data follow it, up to [`PART`].
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    fn at(&self, field: u64) -> u64 {
        self.offset() + field
    }

    fn owner(&self) -> &AtomicU32 {
        self.memory.atomic_u32(self.at(field::OWNER))
    }

    fn put(&self, field: u64, value: u64) {
        self.memory.host_write(self.at(field), &value.to_le_bytes());
    }

    fn word(&self, field: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.host_read(self.at(field), &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Makes the page and the stub's data zeros, as a new process expects them.
    pub(super) fn clear(&self) {
        self.memory.clear(self.offset..self.offset + PART);
    }

    /// Fills the page for a process that is about to start. The process begins with this state.
    pub(super) fn prepare(&mut self, cpu: &CpuState) {
        self.owner().store(owner::HOST, Ordering::Relaxed);
        self.put(field::SPIN, self.spin);
        self.put(field::ONE, 1);
        self.put(field::XSAVE, *XSAVE_SIZE);
        self.put(field::BASES, (*CAN_CHANGE_BASES).into());
        self.memory.host_write(self.at(field::KIND), &kind::INTERRUPTED.to_le_bytes());
        self.memory.host_write(self.at(field::REDIRECT), &0u32.to_le_bytes());
        self.memory.host_write(self.at(field::REGISTERS), &cpu.as_bytes()[..REGISTERS * 8]);
        self.memory.host_write(self.at(field::FPU), cpu.fpu.as_bytes());
        self.memory.host_write(self.at(field::DOORBELLS), &[0; 1024]);
        self.misses = 0;
    }

    /// Sets whether both sides sleep at once instead of spinning first.
    pub(super) fn set_impatient(&mut self, impatient: bool) {
        let spin = if impatient { 0 } else { spin() };
        if spin != self.spin {
            self.spin = spin;
            self.put(field::SPIN, spin);
        }
    }

    /// Waits until the guest sleeps, which it was told to do at once, and moves it to another futex, that nobody but hv can
    /// wake. So it executes nothing from now on, whatever it has written to the page. Returns whether that was seen, which
    /// it is soon unless the host does not run the process.
    pub(super) fn park(&self, futex: &AtomicU32) -> bool {
        self.put(field::SPIN, 0);
        let begin = Instant::now();
        loop {
            if move_sleeper(self.owner(), owner::HOST_GUEST_SLEEPS, futex) {
                return true;
            }
            match begin.elapsed() {
                waited if waited >= FALLS_ASLEEP => return false,
                // It may be on this processor, and need it for that.
                waited if waited >= SPIN => std::thread::yield_now(),
                _ => std::hint::spin_loop(),
            }
        }
    }

    /// Control is the guest's, which sleeps elsewhere.
    pub(super) fn give_parked(&self) {
        self.owner().store(owner::GUEST, Ordering::Release);
    }

    /// Hands control to the guest.
    pub(super) fn give(&self) {
        if self.owner().swap(owner::GUEST, Ordering::AcqRel) == owner::HOST_GUEST_SLEEPS {
            let _ = futex::wake(self.owner(), Flags::empty(), 1);
        }
    }

    fn is_over(&self) -> bool {
        // Any other value that a guest writes there ends its run.
        !matches!(self.owner().load(Ordering::Acquire), owner::GUEST | owner::GUEST_HOST_SLEEPS)
    }

    /// Waits until the guest's run is over, for at most this long, which has to be less than a second. An [`Alert`] that
    /// changes the value of `is_alerted` ends the wait too.
    pub(super) fn wait(&mut self, limit: Duration, is_alerted: impl Fn() -> bool) -> Wake {
        if self.misses < PATIENCE || self.misses.is_multiple_of(RETRY) {
            let start = clock::tsc();
            loop {
                if self.is_over() {
                    (self.misses, self.since) = (0, None);
                    return Wake::Over;
                }
                if clock::tsc().wrapping_sub(start) >= self.spin {
                    break;
                }
                std::hint::spin_loop();
            }
        }
        self.misses = self.misses.wrapping_add(1);
        let (awake, asleep) = (owner::GUEST, owner::GUEST_HOST_SLEEPS);
        let start = Instant::now();
        let end = start + limit;
        self.since = Some(start);
        let before = is_alerted();
        let mut woken = true;
        while !self.is_over() {
            // A guest can wake hv and change the word as often as it likes. That must not extend the time.
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || is_alerted() != before {
                return Wake::Look;
            }
            let left = futex::Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
            let _ = self.owner().compare_exchange(awake, asleep, Ordering::AcqRel, Ordering::Acquire);
            let waited = futex::wait(self.owner(), Flags::empty(), asleep, Some(&left));
            woken = waited != Err(rustix::io::Errno::TIMEDOUT);
        }
        let sleeps = self.owner().load(Ordering::Acquire) == owner::HOST_GUEST_SLEEPS;
        if sleeps && !woken { Wake::Unsaid } else { Wake::Over }
    }

    /// How long the last [wait](Self::wait) has taken, if it was longer than the spinning.
    pub(super) fn waited(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// What the guest reports at the end of its run.
    pub(super) fn exit_args(&self) -> ExitArgs {
        let mut bytes = [0; size_of::<ExitArgs>()];
        self.memory.host_read(self.offset(), &mut bytes);
        ExitArgs::read_from_bytes(&bytes).expect("the sizes are equal")
    }

    /// Whether the instruction that is shown is in the guest's memory.
    pub(super) fn is_in_the_guest(&self) -> bool {
        let rip = self.word(field::REGISTERS + 8 * register::RIP);
        rip.checked_sub(self.memory.base().0).is_some_and(|offset| offset < self.memory.size())
    }

    pub(super) fn set_result(&self, value: i64) {
        self.put(field::RESULT, value as u64);
    }

    /// The state at the end of a run that ended in this way. A hypercall has its result in it.
    pub(super) fn state(&self, kind: u32) -> CpuState {
        let mut state = CpuState::at_entry(0, 0, 0);
        let mut words = [0; REGISTERS];
        self.memory.host_read(self.at(field::REGISTERS), words.as_mut_bytes());
        let mut fpu = [0; size_of::<Fpu>()];
        self.memory.host_read(self.at(field::FPU), &mut fpu);
        let fpu = Fpu::read_from_bytes(&fpu).expect("the sizes are equal");
        if matches!(kind, kind::HYPERCALL | kind::DOORBELL) {
            // The registers that a call preserves (System V ABI for AMD64, figure 3.4).
            [_, state.rbx, _, _, _, _, state.rbp, state.rsp, ..] = words;
            [.., state.r12, state.r13, state.r14, state.r15, state.rip, _] = words;
            (state.fpu.fcw, state.fpu.mxcsr) = (fpu.fcw, fpu.mxcsr);
            state.rax = self.word(field::RESULT);
        } else {
            state.as_mut_bytes()[..REGISTERS * 8].copy_from_slice(words.as_bytes());
            state.fpu = fpu;
        }
        state.validated()
    }

    /// Makes the guest continue at another address.
    pub(super) fn redirect(&self, rip: u64, rsp: u64) {
        self.put(field::REGISTERS + 8 * register::RSP, rsp);
        self.put(field::REGISTERS + 8 * register::RIP, rip);
        self.memory.host_write(self.at(field::REDIRECT), &1u32.to_le_bytes());
    }
}

impl ExitArgs {
    /// The address and the access of a page fault.
    pub(super) fn missing_page(&self) -> Option<(GuestAddr, Access)> {
        /// Vector and error code of a page fault (Intel SDM volume 3, section 5.7).
        const PAGE_FAULT: u64 = 14;
        const PRESENT: u64 = 1;
        const WRITE: u64 = 1 << 1;
        const FETCH: u64 = 1 << 4;
        let [vector, error, address] = self.arguments;
        let access = match error {
            _ if error & FETCH != 0 => Access::EXECUTE,
            _ if error & WRITE != 0 => Access::WRITE,
            _ => Access::READ,
        };
        let is_missing = self.kind == kind::FAULT && vector == PAGE_FAULT && error & PRESENT == 0;
        is_missing.then_some((GuestAddr(address), access))
    }

    /// The reported fault, validated.
    pub(super) fn fault(&self) -> Fault {
        let [vector, error, address] = self.arguments;
        // The processor has 32 exceptions. The guest has made up any other number.
        match u8::try_from(vector) {
            Ok(vector @ 0..32) => Fault::Exception { vector, error, address },
            _ => Fault::Crossing,
        }
    }
}
