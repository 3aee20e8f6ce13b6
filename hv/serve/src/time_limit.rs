//! Work on files that may never end: their storage may never answer.
#![forbid(unsafe_code)]

use hv_jail as jail;
use hv_jail::Kind;
use std::io;
use std::time::Duration;

/// Does it on a thread of its own, and waits for it so long. `None`: it goes on there alone, and what comes of it is
/// for nobody.
pub(super) fn within<T: Send + 'static>(
    time: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (done, wait) = crossbeam_channel::bounded(1);
    jail::spawn(Kind::Deploy, "hv-opening", move || {
        let _ = done.send(work());
    })?;
    Ok(wait.recv_timeout(time).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_not_waited_for() {
        let (hold, held) = crossbeam_channel::bounded::<()>(0);
        assert_eq!(within(Duration::from_millis(10), move || held.recv().is_ok()).unwrap(), None);
        drop(hold);
        assert_eq!(within(Duration::from_secs(60), || 7).unwrap(), Some(7));
    }
}
