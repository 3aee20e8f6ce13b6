//! Which platform it is to be.

use super::kvm::KvmPlatform;
use super::process::ProcessPlatform;
use super::{Platform, PlatformError};

/// A wish for a platform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// The best that this host has: KVM, or else processes.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// A sandboxed process for each guest.
    Process,
}

/// A platform, and why it is not a better one.
pub struct Choice {
    /// The platform.
    pub platform: Box<dyn Platform>,
    /// Why guests do not run on KVM, if nobody asked for anything else.
    pub no_kvm: Option<PlatformError>,
}

/// Makes the platform that was wished for. Of [`Wish::Auto`], the error is that of the last resort.
pub fn choose(wish: Wish) -> Result<Choice, PlatformError> {
    let process = || ProcessPlatform::new().map(|platform| Box::new(platform) as Box<dyn Platform>);
    let no_kvm = match wish {
        Wish::Process => None,
        Wish::Auto | Wish::Kvm => match KvmPlatform::new() {
            Ok(platform) => return Ok(Choice { platform: Box::new(platform), no_kvm: None }),
            Err(error) if wish == Wish::Kvm => return Err(error),
            Err(error) => Some(error),
        },
    };
    Ok(Choice { platform: process()?, no_kvm })
}
