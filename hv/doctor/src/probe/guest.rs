//! The smallest guest: it makes the hypercall that does nothing, for ever.

use hv_abi::hypercall::Hypercall;
use hv_abi::{GuestAddr, PAGE_SIZE};
use hv_core::memory::{Access, GuestMemory, MapError, TemplateError};
use hv_core::platform::{CpuState, Exit, HypercallPage, Platform, PlatformError, Start, StartVcpu, Started};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where the guest is, beyond what a platform has for itself; and what is on which page.
const BASE: u64 = 1 << 30;
/// The page before the hypercall page, of which a platform uses the end. The window's first two are a platform's own.
const BEFORE: u64 = 2 * PAGE_SIZE;
const HYPERCALLS: u64 = 3 * PAGE_SIZE;
const CODE: u64 = 4 * PAGE_SIZE;
const STACK: u64 = 5 * PAGE_SIZE;
const SIZE: u64 = 16 * PAGE_SIZE;

/// Calls of which the time is taken at once.
const BATCH: u32 = 64;

/// Why the guest did not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuestError {
    #[error(transparent)]
    Memory(#[from] MapError),
    #[error(transparent)]
    Shared(#[from] TemplateError),
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error("a trial guest did not run: {0}")]
    Exit(String),
}

/// Runs the guest, and takes the time from one hypercall to the next: the median of
/// [batches](BATCH), as many as fit into `limit`.
pub(super) fn measure(platform: &dyn Platform, limit: Duration) -> Result<Duration, GuestError> {
    let memory = Arc::new(memory(platform)?);
    let pages: Vec<_> = HypercallPage::all(HYPERCALLS, 1).collect();
    platform.prepare(&memory, &pages)?;
    let cpu = CpuState::at_entry(BASE + CODE, BASE + STACK + PAGE_SIZE, 0);
    let vcpus = [StartVcpu { page: pages[0], state: &cpu }];
    let Started { mut vcpus, machine: _machine } =
        platform.start(&Start { memory: &memory, vcpus: &vcpus, doorbells: 0, opening: None })?;
    let vcpu = &mut vcpus[0];
    let mut call = || loop {
        match vcpu.run() {
            Exit::Hypercall { number, .. } if number == Hypercall::Nop as u32 => {
                vcpu.set_result(0);
                return Ok(());
            }
            Exit::Interrupted => {}
            other => return Err(GuestError::Exit(format!("{other:?}"))),
        }
    };
    let start = Instant::now();
    let mut batches = Vec::new();
    // The first batch is warm-up, unless it is all that there is time for.
    while batches.len() < 2 || start.elapsed() < limit && batches.len() < 100 {
        let begin = Instant::now();
        (0..BATCH).try_for_each(|_| call())?;
        batches.push(begin.elapsed() / BATCH);
    }
    batches.remove(0);
    batches.sort();
    Ok(batches[batches.len() / 2])
}

fn memory(platform: &dyn Platform) -> Result<GuestMemory, GuestError> {
    let base = GuestAddr(BASE);
    let mut memory = match platform.shares_memory() {
        true => GuestMemory::new_shared(base, SIZE)?,
        false => GuestMemory::new(base, SIZE)?,
    };
    memory.allow(BEFORE..HYPERCALLS, Access::READ);
    memory.allow(HYPERCALLS..STACK, Access::READ | Access::EXECUTE);
    memory.allow(STACK..STACK + PAGE_SIZE, Access::READ | Access::WRITE);
    // 1: mov $stub, %eax; call *%rax; jmp 1b. The stub of call 0 is the page's first.
    let [a, b, c, d] = ((BASE + HYPERCALLS) as u32).to_le_bytes();
    memory.host_write(CODE, &[0xb8, a, b, c, d, 0xff, 0xd0, 0xeb, 0xf7]);
    Ok(memory)
}
