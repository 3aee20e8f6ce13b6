//! Errors of this platform, and the remedies.
#![forbid(unsafe_code)]

use super::zygote::Violation;
use std::io;

/// Something that the host refuses to the process platform.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The limit of open files, of this process or of the host.
    #[error("platform process: {call}: too many open files; raise the limit (ulimit -n)")]
    Files {
        /// What was attempted.
        call: &'static str,
    },
    /// The limit of processes, of this user or of the container.
    #[error(
        "platform process: {call}: the limit of processes is reached; raise it (ulimit -u), or that of the container (pids.max)"
    )]
    Processes {
        /// What was attempted.
        call: &'static str,
    },
    /// A policy forbids it, or the kernel does not have the call.
    #[error(
        "platform process: this host forbids {call} ({source}); allow it in the container's seccomp policy, or run guests on KVM (--platform kvm)"
    )]
    Forbidden {
        /// What was attempted.
        call: &'static str,
        /// The error.
        source: io::Error,
    },
    /// Files in memory may not be executed.
    #[error(
        "platform process: this host forbids programs in memory files; allow them (sysctl vm.memfd_noexec=1), or run guests on KVM (--platform kvm)"
    )]
    NoPrograms,
    /// No system-call filters. Without one, a guest would have every right of hv.
    #[error(
        "platform process: this host refuses system-call filters (seccomp: {0}), and a guest without one would not be confined; use a kernel with CONFIG_SECCOMP_FILTER and a container that allows seccomp(2), or run guests on KVM (--platform kvm)"
    )]
    NoFilter(io::Error),
    /// Two zygotes in a row failed or broke the protocol. Zygotes are the processes that guests' processes are forked from.
    #[error("platform process: no process for a guest, also not by a new zygote: {0}")]
    Zygote(Violation),
    /// The supervisor, the process that makes zygotes, failed.
    #[error("platform process: no process for a guest: of the supervisor (hv-supervisor): {0}{remedy}", remedy = .0.remedy())]
    Supervisor(Violation),
    /// Any other error.
    #[error("platform process: {call} failed: {source}")]
    Other {
        /// What was attempted.
        call: &'static str,
        /// The error.
        source: io::Error,
    },
}

impl ProcessError {
    pub(super) fn new(call: &'static str, source: io::Error) -> ProcessError {
        match source.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => ProcessError::Files { call },
            Some(libc::EAGAIN) => ProcessError::Processes { call },
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => ProcessError::Forbidden { call, source },
            _ => ProcessError::Other { call, source },
        }
    }
}

impl ProcessError {
    /// The error of a start, from the violation of the last zygote that was tried.
    pub(super) fn zygote(violation: Violation) -> ProcessError {
        match violation {
            // hv has no free descriptors.
            Violation::Truncated => ProcessError::Files { call: "receiving the descriptor of a process" },
            violation => ProcessError::Zygote(violation),
        }
    }

    /// The same for the supervisor.
    pub(super) fn supervisor(violation: Violation) -> ProcessError {
        match violation {
            Violation::Truncated => ProcessError::zygote(violation),
            violation => ProcessError::Supervisor(violation),
        }
    }
}

/// Why a host has no namespaces for this process, from the error of clone(2) with all of them.
pub(super) fn no_namespaces(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EUSERS) => "user.max_user_namespaces is reached".into(),
        Some(libc::EPERM | libc::EACCES) => "user namespaces are forbidden".into(),
        Some(libc::EINVAL | libc::ENOSYS) => "the kernel has no user namespaces".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_names_its_remedy() {
        let text = |errno| ProcessError::new("a call", io::Error::from_raw_os_error(errno)).to_string();
        assert!(text(libc::EMFILE).contains("ulimit -n"));
        assert!(text(libc::EAGAIN).contains("ulimit -u"));
        assert!(text(libc::EPERM).contains("forbids a call") && text(libc::EPERM).contains("seccomp policy"));
        assert!(text(libc::ENOSYS).contains("forbids a call"));
        assert!(text(libc::EIO).contains("a call failed: Input/output error"));
        let why = |errno| no_namespaces(&io::Error::from_raw_os_error(errno));
        assert_eq!(why(libc::ENOSPC), "user.max_user_namespaces is reached");
        assert_eq!(why(libc::EPERM), "user namespaces are forbidden");
    }
}
