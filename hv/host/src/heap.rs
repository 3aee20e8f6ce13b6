//! ⚠ The allocator's free memory.
#![allow(unsafe_code, reason = "asking the allocator to give memory back")]

/// Gives memory that the allocator keeps free back to the kernel: glibc's gives back by itself only what lies at the end of a heap, and
/// one small block there keeps all that is before it. Takes some milliseconds for 100 MiB, in which others wait that allocate.
pub fn trim() {
    // Other allocators do without.
    #[cfg(target_env = "gnu")]
    // SAFETY: it frees what nobody has, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
