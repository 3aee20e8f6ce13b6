//! Limits of the host that hv can meet anywhere, and what to do about each.
#![forbid(unsafe_code)]

pub mod group;

use std::error::Error;
use std::io;

/// Words of remedies: an error that has one of them names its own.
const REMEDIES: [&str; 4] = ["ulimit", "sysctl", "pids.max", "memory.max"];

/// What to do about an error that comes from a limit, wherever in hv that was reached. `None` if it comes
/// from no limit, or says itself what to do.
pub fn remedy(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let errors = std::iter::successors(Some(error), |&error| error.source());
    let mut numbers = errors.filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error());
    let remedy = numbers.find_map(|number| match number {
        libc::EFBIG => Some("raise the limit of file sizes (ulimit -f)"),
        libc::EMFILE => Some("raise the limit of open files (ulimit -n)"),
        libc::ENFILE => Some("raise the host's limit of open files (sysctl fs.file-max)"),
        libc::EAGAIN => Some("raise the limit of processes (ulimit -u), or that of the container (pids.max)"),
        libc::ENOMEM => Some(
            "free memory, or raise the limit of it (memory.max of the container, ulimit -v) or of mappings \
             (sysctl vm.max_map_count)",
        ),
        _ => None,
    })?;
    let said = error.to_string();
    (!REMEDIES.iter().any(|word| said.contains(word))).then_some(remedy)
}

/// An error with its remedy.
pub fn explain(error: &(dyn Error + 'static)) -> String {
    match remedy(error) {
        Some(remedy) => format!("{error}; {remedy}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_its_remedy_gets_no_other() {
        let named = io::Error::other("too many (ulimit -n)");
        assert_eq!(explain(&named), "too many (ulimit -n)");
    }
}
