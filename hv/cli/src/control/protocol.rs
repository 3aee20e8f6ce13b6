//! What is said on the control socket: a JSON object in each line, both ways. `docs/control.md` describes it.

use serde::{Deserialize, Serialize};

/// Most bytes of a request, with the end of its line.
pub(super) const MAX_LINE: usize = 4096;

/// What a client asks for. Each is answered by one [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// What the guest has and uses.
    Get {},
    /// Changes what it gets: everything that is named, or nothing.
    Set(Changes),
    /// Pauses it.
    Pause {},
    /// Resumes it.
    Resume {},
    /// Asks it to end, as SIGTERM does. If it is paused, it is resumed for that.
    Stop {},
}

/// Changes to what a guest gets. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Changes {
    /// How many virtual CPUs it should use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vcpus: Option<usize>,
    /// How many bytes of memory it should use; 0: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<u64>,
    /// Its weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<u32>,
    /// Its cap, in percent of one core; 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cap: Option<u32>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// It was done; how the guest is then.
    Ok(Status),
    /// It was not, and nothing has changed. Why, in one line.
    Error(String),
}

/// How a guest is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    /// Its name.
    pub(super) name: String,
    /// `starting`, `running`, `pausing`, `paused`, `stopping`, or `ended`.
    pub(super) state: String,
    pub(super) vcpus: Vcpus,
    pub(super) memory: Memory,
    /// CPU time that was used for it, in nanoseconds.
    pub(super) cpu_time_ns: u64,
    /// Its weight.
    pub(super) weight: u32,
    /// Its cap, in percent of one core; 0: none.
    pub(super) cap: u32,
}

/// The virtual CPUs of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vcpus {
    /// How many the guest has started and not stopped.
    pub(super) running: usize,
    /// How many it should use.
    pub(super) target: usize,
    /// How many it has.
    pub(super) most: usize,
}

/// The memory of a guest, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// What it has.
    pub(super) size: u64,
    /// What it should use at most; 0: all.
    pub(super) target: u64,
    /// What of it is backed by memory of the host. Only in answers to `get`: it has to be counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resident: Option<u64>,
}

/// The request in a line.
pub(super) fn parse(line: &[u8]) -> Result<Request, String> {
    serde_json::from_slice(line).map_err(|error| format!("not understood: {error}"))
}

/// The line of a request or a reply.
pub(super) fn line(said: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(said).expect("these structures have no keys but strings");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_are_written() {
        let changes = Changes { vcpus: Some(4), memory: Some(0), ..Changes::default() };
        let requests = [
            (Request::Get {}, r#"{"get":{}}"#),
            (Request::Set(changes), r#"{"set":{"vcpus":4,"memory":0}}"#),
            (Request::Set(Changes::default()), r#"{"set":{}}"#),
            (Request::Pause {}, r#"{"pause":{}}"#),
            (Request::Resume {}, r#"{"resume":{}}"#),
            (Request::Stop {}, r#"{"stop":{}}"#),
        ];
        for (request, text) in requests {
            assert_eq!(line(&request), format!("{text}\n").as_bytes());
            assert_eq!(parse(text.as_bytes()), Ok(request));
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (bad, named) in [
            (r#"{"set":{"vcpu":4}}"#, "`vcpu`"),
            (r#"{"sett":{}}"#, "`sett`"),
            (r#"{"get":{"all":1}}"#, "`all`"),
            (r#"{"set":{"vcpus":-1}}"#, "-1"),
            (r#"{"set":{"vcpus":1.5}}"#, "1.5"),
            (r#"{"set":{"vcpus":1,"vcpus":2}}"#, "duplicate field `vcpus`"),
            (r#"{"set":{"weight":4294967296}}"#, "4294967296"),
        ] {
            let error = parse(bad.as_bytes()).unwrap_err();
            assert!(error.contains(named), "{bad}: {error}");
        }
        for bad in
            ["", "{", "[]", "null", "get", "\"get\"", r#"{"get":{},"set":{}}"#, r#"{"get":{}} {}"#, "\u{0}"]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(&[0xff; 10]).is_err() && parse(&[b'['; MAX_LINE]).is_err());
    }
}
