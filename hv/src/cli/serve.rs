//! `hv serve`: functions behind HTTP.

use super::args::{Format, ServeArgs};
use super::platform::platform;
use super::{exit, guests};
use crate::engine::Engine;
use crate::serve::config::{self, Config, ConfigError, LogFormat, LogTarget};
use crate::serve::{self, Options, ServeError};
use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

/// Serves until a signal ends it, and returns hv's exit code.
pub(super) fn run(args: ServeArgs) -> Result<u8, Box<dyn Error>> {
    if args.check {
        return check(&args);
    }
    let engine = Engine::new(platform(args.platform)?, serve::threads())?;
    let events = log_format(args.format);
    let drained = serve::run(Options { engine, events, reader: Box::new(move || read(&args)) })?;
    Ok(if drained { 0 } else { exit::TERMINATED })
}

/// What the arguments and the file that they name say together.
fn read(args: &ServeArgs) -> Result<Config, ConfigError> {
    let mut config = match &args.config {
        Some(file) => config::load(file, &resolve)?,
        None => config::of_arguments(&args.functions, &resolve)?,
    };
    if !args.listen.is_empty() {
        config.listen.clone_from(&args.listen);
    }
    if let Some(log) = &args.log {
        config.log = LogTarget::of(log);
    }
    if let Some(format) = args.log_format {
        config.log_format = log_format(format);
    }
    Ok(config)
}

/// As for `hv run`: a path, or the name of a guest that is built first.
fn resolve(image: &str) -> Result<PathBuf, String> {
    guests::resolve(image).map_err(|error| error.to_string())
}

fn log_format(format: Format) -> LogFormat {
    match format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    }
}

/// Says what would be served, without serving it.
fn check(args: &ServeArgs) -> Result<u8, Box<dyn Error>> {
    let config = read(args)?;
    let guests = serve::check(&config).map_err(ServeError::from)?;
    let text = match args.format {
        Format::Text => {
            let mut text = String::new();
            for function in &config.functions {
                text += &format!("{}: {}\n", function.name, function.paths.join(" "));
            }
            text + &format!("{} functions, at most {guests} requests in guests\n", config.functions.len())
        }
        Format::Json => {
            let functions = config.functions.iter();
            let functions: Vec<_> = functions
                .map(|function| serde_json::json!({"name": function.name, "paths": function.paths}))
                .collect();
            format!("{}\n", serde_json::json!({"functions": functions, "guests": guests}))
        }
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}
