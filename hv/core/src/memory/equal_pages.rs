//! Pages that equal others are in memory once, if the guest takes part in that: the kernel's KSM
//! (Documentation/admin-guide/mm/ksm.rst).

use super::GuestMemory;

/// Why a guest cannot share equal pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EqualPagesError {
    /// The kernel cannot do it.
    #[error(
        "equal pages cannot be shared: this host's kernel has no KSM; use one with CONFIG_KSM, or do without (--share-equal-pages, share_equal_pages)"
    )]
    NoKsm,
    /// The memory is a file that several processes map, and KSM leaves those alone.
    #[error(
        "equal pages cannot be shared on the platform process, where a guest's memory is a file in memory; use --platform kvm, or do without (--share-equal-pages, share_equal_pages)"
    )]
    SharedFile,
}

impl GuestMemory {
    /// Lets the kernel keep pages of this memory, and of all memory on this host that takes part, once if they are equal. Whoever
    /// takes part can find out whether a page with certain bytes is there elsewhere, by the time that a write takes.
    ///
    /// # Errors
    ///
    /// If the kernel cannot do that with this memory.
    pub fn share_equal_pages(&self) -> Result<(), EqualPagesError> {
        if self.shared {
            return Err(EqualPagesError::SharedFile);
        }
        // The tail is the platform's.
        match self.advise(0..self.size, libc::MADV_MERGEABLE) {
            true => Ok(()),
            false => Err(EqualPagesError::NoKsm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_abi::{GuestAddr, PAGE_SIZE};

    #[test]
    fn memory_that_is_a_file_takes_no_part() {
        let memory = GuestMemory::new_shared(GuestAddr(0x20_0000), 16 * PAGE_SIZE).unwrap();
        assert_eq!(memory.share_equal_pages(), Err(EqualPagesError::SharedFile));
    }
}
