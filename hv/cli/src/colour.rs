//! Whether what hv prints may be in colour.

use std::ffi::OsString;
use std::io::IsTerminal;

/// Whether output on a stream may be in colour: on a terminal that can show it, unless the user's environment says no
/// (`NO_COLOR` with any value, `CLICOLOR=0`).
pub(super) fn on(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && is_wanted()
}

/// The same for any terminal.
pub(super) fn is_wanted() -> bool {
    allowed(|name| std::env::var_os(name))
}

/// Whether a stream is a terminal on which lines can be written over.
pub(super) fn can_overwrite(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn allowed(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let is = |name, value: &str| variable(name).is_some_and(|found| found == value);
    let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && !is("CLICOLOR", "0") && !is("TERM", "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_says() {
        let with = |set: &'static [(&str, &str)]| {
            allowed(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        assert!(with(&[]) && with(&[("NO_COLOR", "")]) && with(&[("CLICOLOR", "1"), ("TERM", "xterm")]));
        assert!(!with(&[("NO_COLOR", "0")]));
        assert!(!with(&[("CLICOLOR", "0")]));
        assert!(!with(&[("TERM", "dumb")]));
    }
}
