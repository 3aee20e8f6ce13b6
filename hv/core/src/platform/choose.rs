//! Selection of the platform.

use super::kvm::KvmPlatform;
use super::process::{Namespaces, ProcessPlatform};
use super::{Platform, PlatformError};

/// The preferred platform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// The best one of this host: KVM if possible, otherwise processes.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// A sandboxed process for each guest.
    Process,
}

/// A platform, and the reasons why it is not a better one.
pub struct Choice {
    /// The platform.
    pub platform: Box<dyn Platform>,
    /// Why guests do not run on KVM, if no platform was asked for.
    pub no_kvm: Option<PlatformError>,
    /// Why the guests' processes have no namespaces of their own, if they have none.
    pub no_namespaces: Option<String>,
}

/// Makes the preferred platform.
///
/// # Errors
///
/// When the host refuses it. For [`Preference::Auto`], the reasons for both platforms.
pub fn choose(preference: Preference) -> Result<Choice, PlatformError> {
    let no_kvm = match preference {
        Preference::Process => None,
        Preference::Auto | Preference::Kvm => match KvmPlatform::new() {
            Ok(platform) => {
                return Ok(Choice { platform: Box::new(platform), no_kvm: None, no_namespaces: None });
            }
            Err(error) if preference == Preference::Kvm => return Err(error),
            Err(error) => Some(error),
        },
    };
    match ProcessPlatform::new() {
        Ok(platform) => {
            let no_namespaces = match platform.namespaces() {
                Namespaces::Own => None,
                Namespaces::Refused(reason) => Some(reason.clone()),
            };
            Ok(Choice { platform: Box::new(platform), no_kvm, no_namespaces })
        }
        Err(error) => Err(match no_kvm {
            Some(no_kvm) => PlatformError::Nothing { no_kvm: no_kvm.into(), no_process: error.into() },
            None => error,
        }),
    }
}
