//! Errors of every depth name the remedy of the limit behind them.

use crate::DeployError;
use hv_core::domain::StartError;
use hv_core::memory::TemplateError;
use hv_core::platform::PlatformError;
use hv_host::limits::{explain, remedy};
use std::io;

#[test]
fn an_error_from_a_limit_has_a_remedy() {
    let from = io::Error::from_raw_os_error;
    for (number, word) in [
        (libc::EMFILE, "ulimit -n"),
        (libc::ENFILE, "fs.file-max"),
        (libc::EAGAIN, "pids.max"),
        (libc::ENOMEM, "vm.max_map_count"),
    ] {
        assert!(remedy(&from(number)).is_some_and(|remedy| remedy.contains(word)));
        // However deep it is.
        let kvm = PlatformError::Kvm { what: "a call", source: from(number) };
        assert!(explain(&DeployError::Start(StartError::Platform(kvm))).contains(word));
        let file = TemplateError::File { size: 1, source: from(number) };
        assert!(explain(&StartError::SharedMemory(file)).contains(word));
        assert!(explain(&StartError::Random(from(number))).contains(word));
        assert!(explain(&DeployError::Thread(from(number))).contains(word));
    }
    assert_eq!(remedy(&from(libc::EIO)), None);
}
