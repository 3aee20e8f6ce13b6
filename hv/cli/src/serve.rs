//! `hv serve`: functions behind HTTP.

use super::args::{Format, ServeArgs};
use super::platform::platform;
use super::{exit, guests, jail};
use hv_core::device::block::DiskSpec;
use hv_core::engine::Engine;
use hv_jail::{Kind, Place, Use};
use hv_serve as serve;
use hv_serve::config::{self, Config, ConfigError, FunctionConfig, LogFormat, LogTarget, Problem};
use hv_serve::{Inherited, Names, Options, ServeError};
use std::collections::HashMap;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Serves until a signal ends it, and returns hv's exit code.
pub(super) fn run(args: ServeArgs) -> Result<u8, Box<dyn Error>> {
    let images = Images { builds: !args.check || args.build, known: Mutex::default() };
    let folder = folder(&args)?;
    let config = read(&args, &folder, &images)?;
    // In its jail, hv sees no sources.
    let would_build = images.would_build();
    // Raises the limit of descriptors, which is final from then on.
    let guests = serve::check(&config).map_err(ServeError::from)?;
    let budget = serve::budget(&config);
    if budget.is_some() {
        Engine::prepare_memory_budget()?;
    }
    let platform = platform(args.platform)?;
    // Made before hv is jailed, which makes no sockets.
    let inherited = if args.check { Inherited::default() } else { Inherited::take(&config)? };
    // Reads files that are closed to a process in its jail.
    let names = Names::of_host(&config.name_servers);
    jail::process(args.no_jail, &*platform, Kind::Serve, true, places(&args, &config), &[])?;
    let engine = Engine::new(platform, serve::threads())?;
    if let Some(budget) = budget {
        engine.set_memory_budget(budget.bytes)?;
    }
    let events = log_format(args.format);
    if args.check {
        let text = summary(&config, guests, args.format, &would_build);
        serve::rehearse(config, engine, names, events)?;
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(0);
    }
    let temporary = args.no_jail || takes_temporary_files(&config);
    let reader = Box::new(move || {
        let config = read(&args, &folder, &images)?;
        if temporary { Ok(config) } else { without_temporary_files(config) }
    });
    let drained = serve::run(Options { config, engine, events, reader, inherited, names })?;
    Ok(if drained { 0 } else { exit::TERMINATED })
}

/// The folder of the configuration, by a path that leads there from anywhere.
fn folder(args: &ServeArgs) -> std::io::Result<PathBuf> {
    match args.config.as_ref().and_then(|file| file.parent()) {
        None => Ok(PathBuf::new()),
        Some(folder) if folder == Path::new("") => std::env::current_dir(),
        Some(folder) => std::path::absolute(folder),
    }
}

/// The configuration from the arguments and the file that they name.
fn read(args: &ServeArgs, folder: &Path, images: &Images) -> Result<Config, ConfigError> {
    let resolve = |image: &str| images.resolve(image);
    let mut config = match &args.config {
        Some(file) => config::load(file, folder, &resolve)?,
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

/// Images that were built, or found, by the names that they were asked for.
struct Images {
    /// Whether guests are built, or taken as they are.
    builds: bool,
    known: Mutex<HashMap<String, PathBuf>>,
}

impl Images {
    /// As for `hv run`: a path, or the name of a guest that is built first. In its jail, hv
    /// runs no cargo: a name leads where it led before.
    fn resolve(&self, image: &str) -> Result<PathBuf, String> {
        let mut known = self.known.lock().expect("no panic while held");
        if hv_jail::is_on() && guests::is_name(image) {
            return known.get(image).cloned().ok_or_else(|| {
                format!("{image}: a server in its jail builds no guests; give the path of a built image, or restart it")
            });
        }
        let found = if self.builds { guests::resolve(image) } else { guests::resolve_built(image) };
        let path = found.map_err(|error| error.to_string())?;
        known.insert(image.into(), path.clone());
        Ok(path)
    }

    /// Guests that a start would build, and that were taken as they are.
    fn would_build(&self) -> Vec<String> {
        let known = self.known.lock().expect("no panic while held");
        let mut names: Vec<_> =
            known.keys().filter(|name| !self.builds && guests::is_built_by_name(name)).cloned().collect();
        names.sort();
        names
    }
}

/// Whether disks of functions take temporary files.
fn takes_temporary_files(config: &Config) -> bool {
    config.functions.iter().any(|function| takes_temporary_file(function).is_some())
}

/// The first disk of a function that takes a temporary file.
fn takes_temporary_file(function: &FunctionConfig) -> Option<&DiskSpec> {
    function.deployment.source.disks().iter().find(|disk| disk.takes_temporary_file())
}

/// Refuses what a server cannot serve whose jail has no place for temporary files.
fn without_temporary_files(config: Config) -> Result<Config, ConfigError> {
    let refused =
        config.functions.iter().find_map(|function| Some((function, takes_temporary_file(function)?)));
    match refused {
        None => Ok(config),
        Some((function, disk)) => Err(ConfigError {
            location: function.location.clone(),
            problem: Problem::TemporaryFile { function: function.name.clone(), disk: disk.path.clone() },
        }),
    }
}

/// What a server opens while it runs, also at reloads: the folders of files, since a new version of a file is
/// often another file with the same name.
fn places(args: &ServeArgs, config: &Config) -> Vec<Place> {
    let mut places = Vec::new();
    if takes_temporary_files(config) {
        places.push(jail::temporary());
    }
    places.extend(args.config.iter().map(|file| jail::beside(file, Use::Read)));
    if let LogTarget::File(path) = &config.log {
        places.push(jail::beside(path, Use::Write));
    }
    for certificate in &config.certificates {
        places.push(jail::beside(&certificate.chain, Use::Read));
        places.push(jail::beside(&certificate.key, Use::Read));
    }
    places.extend(config.sources().map(|source| jail::beside(&source, Use::Read)));
    for function in &config.functions {
        let source = &function.deployment.source;
        // Only disks that the configuration names: a snapshot's record opens nothing.
        places.extend(source.disks().iter().map(|disk| jail::at(&disk.path, Use::Read)));
        // Files that images name lie beside them, or in these folders.
        let bases = source.disks().iter().flat_map(|disk| &disk.bases);
        places.extend(bases.map(|folder| Place { path: folder.clone(), usage: Use::Read }));
    }
    if let Some(api) = &config.api {
        places.push(Place { path: api.state.clone(), usage: Use::All });
    }
    places.extend(config.secrets.iter().map(|file| jail::beside(file, Use::Read)));
    let specs = config.functions.iter().flat_map(|function| function.deployment.services.folders());
    places.extend(specs.map(|folder| Place { path: folder.into(), usage: Use::All }));
    // Many functions have their image in the same folder.
    places.sort_by(|a, b| (&a.path, a.usage as u8).cmp(&(&b.path, b.usage as u8)));
    places.dedup();
    // A missing file is reported where it is opened.
    places.retain(|place| place.path.exists());
    places
}

fn log_format(format: Format) -> LogFormat {
    match format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    }
}

/// What is served.
fn summary(config: &Config, guests: usize, format: Format, would_build: &[String]) -> String {
    match format {
        Format::Text => {
            let mut text = String::new();
            for function in &config.functions {
                text += &format!("{}: {}\n", function.name, function.paths.join(" "));
            }
            for name in would_build {
                text += &format!("{name}: tried as it was built before; a start would build it anew\n");
            }
            text + &format!("{} functions, at most {guests} requests in guests\n", config.functions.len())
        }
        Format::Json => {
            let functions = config.functions.iter();
            let functions: Vec<_> = functions
                .map(|function| serde_json::json!({"name": function.name, "paths": function.paths}))
                .collect();
            format!(
                "{}\n",
                serde_json::json!({"functions": functions, "guests": guests, "would_build": would_build})
            )
        }
    }
}
