//! Confining hv to some processors, for those who measure.

use super::BenchError;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Processors as people and the kernel write them: `0,2-3`.
fn parse(list: &str) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        found.extend(first..=last);
    }
    Some(found)
}

/// Confines this thread, and all threads and processes that it starts from now on.
pub(super) fn to(list: &str) -> Result<(), BenchError> {
    let processors = parse(list).ok_or_else(|| BenchError::Pin(list.into()))?;
    let mut set = CpuSet::new();
    processors.into_iter().for_each(|processor| set.set(processor));
    let refused = |error: rustix::io::Errno| BenchError::Pinning { list: list.into(), source: error.into() };
    sched_setaffinity(None, &set).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse("0"), Some(vec![0]));
        assert_eq!(parse("0,2-4"), Some(vec![0, 2, 3, 4]));
        for bad in ["", "a", "3-1", "1-", "-1", "0,,1", "99999", "0-99999999999999999999"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
