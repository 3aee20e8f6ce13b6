//! ⚠ The number of the current virtual CPU, and values that each virtual CPU has for itself.
//!
//! The current virtual CPU is found by its stack. The stack of the first one is described by start-info. The stacks of
//! the others are blocks of one size and alignment, with the number at the bottom. So no register is reserved for this,
//! and it also works in an upcall.
#![allow(unsafe_code, reason = "the stack pointer, and the number at the bottom of a stack")]

use crate::start_info::start_info;
use core::ops::Index;
use core::sync::atomic::{AtomicBool, Ordering};

/// Most virtual CPUs.
pub const MAX: usize = hv_abi::vcpu::MAX as usize;

/// Bytes of the stack of a virtual CPU other than the first, and its alignment.
pub(crate) const STACK_SIZE: usize = 256 << 10;

/// The structure at the bottom of such a stack.
#[repr(C)]
pub(crate) struct StackBottom {
    number: usize,
    /// [`UNTOUCHED`], unless the stack has overflowed into it.
    mark: usize,
}

const UNTOUCHED: usize = 0x5ac4_0b07_70a1_1e57_u64 as usize;

impl StackBottom {
    /// The value for the virtual CPU with this number.
    pub(crate) const fn new(number: usize) -> Self {
        StackBottom { number, mark: UNTOUCHED }
    }
}

/// Whether there are other virtual CPUs than the first.
static SEVERAL: AtomicBool = AtomicBool::new(false);

/// Records that there are other virtual CPUs from now on.
pub(crate) fn set_several() {
    SEVERAL.store(true, Ordering::SeqCst);
}

/// Whether there may be other virtual CPUs than the first.
pub(crate) fn several() -> bool {
    SEVERAL.load(Ordering::Relaxed)
}

/// How many virtual CPUs the guest has: at least 1.
pub(crate) fn possible() -> usize {
    let info = start_info();
    // Hosts before ABI 1.4 have one.
    if info.vcpu_info.0 == 0 { 1 } else { (info.vcpus as usize).clamp(1, MAX) }
}

/// The bottom of the stack that this code runs on, unless it is that of the first virtual CPU.
fn bottom() -> Option<&'static StackBottom> {
    let stack: usize;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) };
    let first = start_info().stack_base.0 as usize;
    if stack.wrapping_sub(first) < start_info().stack_size as usize {
        return None;
    }
    // SAFETY: code runs on the first stack, or on one that `cpu` has made: a block of this size and alignment that is
    // never freed, with this structure at its bottom. Nothing writes the structure except a stack that has overflowed.
    // `check_stack` ends the guest then.
    Some(unsafe { &*((stack & !(STACK_SIZE - 1)) as *const StackBottom) })
}

/// The number of the virtual CPU that this code runs on, counted from 0.
pub(crate) fn current() -> usize {
    if !several() {
        return 0;
    }
    bottom().map_or(0, |bottom| bottom.number % MAX)
}

/// Whether the stack has not overflowed.
pub(crate) fn stack_is_sound() -> bool {
    !several() || bottom().is_none_or(|bottom| bottom.mark == UNTOUCHED && bottom.number < MAX)
}

/// On cache lines of its own, to avoid false sharing between virtual CPUs.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Padded<T>(pub T);

/// A value for each virtual CPU. `per_cpu!` makes one.
#[derive(Debug)]
pub struct PerCpu<T>([Padded<T>; MAX]);

impl<T> PerCpu<T> {
    #[doc(hidden)]
    pub const fn new(values: [Padded<T>; MAX]) -> Self {
        PerCpu(values)
    }

    /// The value for the virtual CPU that this code runs on.
    pub fn own(&self) -> &T {
        &self[current()]
    }
}

/// The value for the virtual CPU with this number.
///
/// # Panics
///
/// If the number is not that of a possible virtual CPU.
impl<T> Index<usize> for PerCpu<T> {
    type Output = T;

    fn index(&self, number: usize) -> &T {
        &self.0[number].0
    }
}

/// A [`PerCpu`] value that begins as this constant expression on every virtual CPU.
#[macro_export]
macro_rules! per_cpu {
    ($value:expr) => {
        $crate::per_cpu::PerCpu::new([const { $crate::per_cpu::Padded($value) }; $crate::per_cpu::MAX])
    };
}

pub(crate) use per_cpu;
