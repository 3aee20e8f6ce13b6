//! How many instances a function has.

use super::file::FunctionSection;
use super::validate::{Validator, value};
use super::*;

/// Refuses more instances ahead than there may be. The error says why, and what to do.
pub(crate) fn check_scale(
    min_warm: usize,
    max_instances: Option<usize>,
    concurrency: usize,
) -> Result<(), String> {
    match max_instances {
        Some(most) if min_warm > most => Err(format!(
            "max_instances is {most}, and those that are kept ready count; lower this or raise that"
        )),
        None if min_warm > concurrency => Err(format!(
            "concurrency is {concurrency}, so more would never be used at a time; lower this or raise that"
        )),
        _ => Ok(()),
    }
}

impl Validator<'_> {
    /// `min_warm` and `max_instances`.
    pub(super) fn scale(&self, function: &FunctionSection) -> Result<(usize, Option<usize>), ConfigError> {
        let max_instances = self.count("max_instances", &function.max_instances)?;
        let concurrency = self.count("concurrency", &function.concurrency)?;
        if let (Some(at), Some(most), Some(concurrency)) =
            (&function.max_instances, max_instances, concurrency)
            && concurrency > most
        {
            let why = format!(
                "concurrency is {concurrency}, and each request has an instance; raise this or lower that"
            );
            return Err(self.fail(at, value("max_instances", most, why)));
        }
        let min_warm = function.min_warm.as_ref().map_or(0, |count| *count.get_ref() as usize);
        if let Some(at) = &function.min_warm {
            check_scale(min_warm, max_instances, concurrency.unwrap_or(DEFAULT_CONCURRENCY))
                .map_err(|why| self.fail(at, value("min_warm", min_warm, why)))?;
        }
        Ok((min_warm, max_instances))
    }
}
