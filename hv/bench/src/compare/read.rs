//! Reading results from files, which may be anything.

use crate::result::{KIND, Results, SCHEMA};
use hv_host::escape::escape;
use serde::Deserialize;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most bytes of a file of results; a whole run has less than a mebibyte.
const MAX_SIZE: u64 = 16 << 20;

/// Why a file is no result to compare or to show.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("{}: cannot read it: {source}", escape(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host's kernel said.
        source: std::io::Error,
    },
    /// It has nothing in it.
    #[error("{}: the file is empty; make a result with `hv bench --format json`", escape(path))]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is too long to be a result.
    #[error("{}: more than {} MiB are no result of hv bench", escape(path), MAX_SIZE >> 20)]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is not the JSON of a result.
    #[error("{}: no result of hv bench: {source}; make one with `hv bench --format json`", escape(path))]
    NoResult {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It has another schema.
    #[error(
        "{}: its schema is version {found}, this hv reads version {SCHEMA}; measure anew with `hv bench --format json`",
        escape(path)
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// It is another kind of result.
    #[error(
        "{}: a result of `hv bench {}`, which has no operations to compare",
        escape(path),
        escape(Path::new(found))
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// Its kind.
        found: String,
    },
}

/// Reads a result that `hv bench --format json` wrote.
///
/// # Errors
///
/// When it is none of this version.
pub fn read(path: &Path) -> Result<Results, ReadError> {
    /// The fields that say what a file is.
    #[derive(Deserialize)]
    struct Versioned {
        schema: u64,
        #[serde(default)]
        kind: Option<String>,
    }
    let path_of = || path.to_owned();
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SIZE + 1).read_to_string(&mut text))
        .map_err(|source| ReadError::Read { path: path_of(), source })?;
    if text.trim().is_empty() {
        return Err(ReadError::Empty { path: path_of() });
    }
    if text.len() as u64 > MAX_SIZE {
        return Err(ReadError::TooLong { path: path_of() });
    }
    let no_result = |source| ReadError::NoResult { path: path_of(), source };
    let mut value: serde_json::Value = serde_json::from_str(&text).map_err(no_result)?;
    if !value.is_object() {
        return Err(no_result(serde::de::Error::custom("it is no object")));
    }
    let Versioned { schema, kind } = Versioned::deserialize(&value).map_err(no_result)?;
    if let Some(found) = kind.filter(|kind| kind != KIND) {
        return Err(ReadError::Kind { path: path_of(), found });
    }
    if schema != u64::from(SCHEMA) {
        return Err(ReadError::Version { path: path_of(), found: schema });
    }
    printable(&mut value);
    serde_json::from_value(value).map_err(no_result)
}

/// Takes out of all texts what a terminal would obey.
fn printable(value: &mut serde_json::Value) {
    use serde_json::Value;
    let clean = |text: &str| text.replace(char::is_control, "\u{fffd}");
    match value {
        Value::String(text) => *text = clean(text),
        Value::Array(all) => all.iter_mut().for_each(printable),
        Value::Object(map) => {
            *map = std::mem::take(map).into_iter().map(|(name, value)| (clean(&name), value)).collect();
            map.iter_mut().for_each(|(_, value)| printable(value));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    fn read_text(text: &str) -> Result<Results, ReadError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path())
    }

    #[test]
    fn a_result_survives_its_file() {
        let written = sample();
        let read = read_text(&serde_json::to_string(&written).unwrap()).unwrap();
        assert_eq!((&read.machine, &read.settings), (&written.machine, &written.settings));
        assert_eq!(read.operations.len(), written.operations.len());
        assert_eq!(read.operations[0].histogram_ps, written.operations[0].histogram_ps);
    }

    #[test]
    fn fields_and_groups_that_are_not_known_are_passed_over() {
        let mut value = serde_json::to_value(sample()).unwrap();
        fn add(value: &mut serde_json::Value) {
            match value {
                serde_json::Value::Object(map) => {
                    // Maps from names to numbers or texts, which have no fields.
                    map.iter_mut()
                        .filter(|(name, _)| !["exits", "mitigations"].contains(&name.as_str()))
                        .for_each(|(_, v)| add(v));
                    if !map.is_empty() {
                        map.insert("a field of a later version".into(), serde_json::json!([1, {"x": null}]));
                    }
                }
                serde_json::Value::Array(all) => all.iter_mut().for_each(add),
                _ => {}
            }
        }
        value["operations"][0]["group"] = "of a later version".into();
        let exits = value["operations"][0]["exits"].clone();
        let mitigations = value["machine"]["mitigations"].clone();
        add(&mut value);
        value["operations"][0]["exits"] = exits;
        value["machine"]["mitigations"] = mitigations;
        let text = value.to_string();
        assert!(text.matches("later version").count() > 20, "{text}");
        let read = read_text(&text).unwrap();
        assert_eq!(read.operations.len(), sample().operations.len());
        assert_eq!(read.operations[0].group, crate::operation::Group::Other);
    }

    #[test]
    fn what_a_terminal_would_obey_is_taken_out() {
        let mut written = sample();
        written.machine.cpu = "a\u{1b}[2J processor\n".into();
        let read = read_text(&serde_json::to_string(&written).unwrap()).unwrap();
        assert_eq!(read.machine.cpu, "a\u{fffd}[2J processor\u{fffd}");
    }

    #[test]
    fn what_is_no_result_is_refused_in_one_line() {
        for (text, part) in [
            ("", "the file is empty"),
            (" \n", "the file is empty"),
            ("<html>", "no result of hv bench"),
            ("[1]", "no result of hv bench"),
            ("{\"schema\": 2}", "missing field"),
            ("{\"schema\": 1}", "version 1, this hv reads version 2"),
            ("{\"schema\": 99, \"kind\": \"operations\"}", "version 99"),
            ("{\"schema\": 2, \"kind\": \"density\"}", "a result of `hv bench density`"),
            ("{\"schema\": 2, \"kind\": \"\\u001b[2J\\n\"}", "no operations to compare"),
        ] {
            let error = read_text(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}
