//! `--platform`: what guests run on.

use super::args::{PlatformArgs, PlatformKind};
use hv_core::platform::{Choice, Platform, PlatformError, Preference, choose};
use std::io::Write;

/// The platform that was asked for, or the best one; prints a line if that is not KVM.
pub(super) fn platform(args: PlatformArgs) -> Result<Box<dyn Platform>, PlatformError> {
    let preference = match args.platform {
        PlatformKind::Auto => Preference::Auto,
        PlatformKind::Kvm => Preference::Kvm,
        PlatformKind::Process => Preference::Process,
    };
    let Choice { platform, no_kvm, no_namespaces } = choose(preference)?;
    if let Some(reason) = no_kvm {
        // Standard error may be closed: an error of the write is ignored.
        let _ = writeln!(std::io::stderr(), "hv: guests run as processes, without KVM: {reason}");
    }
    if let Some(reason) = no_namespaces {
        let _ = writeln!(
            std::io::stderr(),
            "hv: guests have no namespaces of their own ({reason}): their system-call filter confines them as before; \
             for the second wall allow user namespaces (sysctl user.max_user_namespaces, or the container's policy)"
        );
    }
    Ok(platform)
}
