//! ⚠ Which virtual CPU this is, and what each of them has for itself.
//!
//! A virtual CPU is told by its stack: that of the first one is where start-info says, and the others' are blocks whose size and
//! alignment are the same, with the number at the bottom. So nothing has to be kept in a register, and an upcall finds it as well.
#![allow(unsafe_code, reason = "the stack pointer, and the number at the bottom of a stack")]

use crate::start_info::start_info;
use core::ops::Index;
use core::sync::atomic::{AtomicBool, Ordering};

/// Most virtual CPUs.
pub const MAX: usize = hv_abi::vcpu::MAX as usize;

/// Bytes of the stack of a virtual CPU other than the first, and its alignment.
pub(crate) const STACK_SIZE: usize = 256 << 10;

/// What is at the bottom of such a stack.
#[repr(C)]
pub(crate) struct StackBottom {
    number: usize,
    /// [`UNTOUCHED`], unless the stack has grown over it.
    mark: usize,
}

const UNTOUCHED: usize = 0x5ac4_0b07_70a1_1e57_u64 as usize;

impl StackBottom {
    /// That of the virtual CPU of this number.
    pub(crate) const fn new(number: usize) -> Self {
        StackBottom { number, mark: UNTOUCHED }
    }
}

/// There are other virtual CPUs than the first.
static SEVERAL: AtomicBool = AtomicBool::new(false);

/// Says that there are other virtual CPUs from now on.
pub(crate) fn set_several() {
    SEVERAL.store(true, Ordering::SeqCst);
}

/// Whether other virtual CPUs than the first run.
pub(crate) fn several() -> bool {
    SEVERAL.load(Ordering::Relaxed)
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
    // SAFETY: code runs on the first stack, or on one that `cpu` has made: a block of this size and alignment that is never
    // freed, with this structure at its bottom, which nothing writes but a stack that has grown too large. `check_stack` ends the guest then.
    Some(unsafe { &*((stack & !(STACK_SIZE - 1)) as *const StackBottom) })
}

/// The number of the virtual CPU that this code runs on, counted from 0.
pub(crate) fn current() -> usize {
    if !several() {
        return 0;
    }
    bottom().map_or(0, |bottom| bottom.number % MAX)
}

/// Whether the stack has not grown over its bottom.
pub(crate) fn stack_is_sound() -> bool {
    !several() || bottom().is_none_or(|bottom| bottom.mark == UNTOUCHED && bottom.number < MAX)
}

/// On cache lines of its own, so that virtual CPUs do not wait for each other's.
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

    /// That of the virtual CPU that this code runs on.
    pub fn own(&self) -> &T {
        &self[current()]
    }
}

/// That of the virtual CPU of this number.
///
/// # Panics
///
/// If there can be no such virtual CPU.
impl<T> Index<usize> for PerCpu<T> {
    type Output = T;

    fn index(&self, number: usize) -> &T {
        &self.0[number].0
    }
}

/// A [`PerCpu`] value whose values all begin as this constant expression.
#[macro_export]
macro_rules! per_cpu {
    ($value:expr) => {
        $crate::per_cpu::PerCpu::new([const { $crate::per_cpu::Padded($value) }; $crate::per_cpu::MAX])
    };
}

pub(crate) use per_cpu;
