//! What validates texts, for the fuzz targets.

use super::config::{Config, ConfigError, Resolve};
use std::path::Path;

/// Whether a function's answer may begin with this head; if not, why.
pub fn validate_answer(head: &[u8]) -> Result<(), String> {
    super::head::validate_answer(head, false).map(drop)
}

/// Validates a configuration as if it stood in the file at `path`.
pub fn validate_config(path: &Path, text: &str, resolve: Resolve<'_>) -> Result<Config, ConfigError> {
    super::config::of_text(path, text, resolve)
}

/// Whether these bytes are a whole header of the PROXY protocol, and how long it is. `None`: more have to come.
pub fn proxy_header(bytes: &[u8]) -> Result<Option<usize>, String> {
    use super::proxy_header::{Progress, parse};
    match parse(bytes).map_err(|error| error.to_string())? {
        Progress::More => Ok(None),
        Progress::Whole(len, _) => Ok(Some(len)),
    }
}
