//! From the configuration's words to the core's.
#![forbid(unsafe_code)]

use super::config::{FunctionConfig, Source};
use super::console::Consoles;
use super::events::Events;
use super::metrics::Reading;
use crate::domain::Builder;
use crate::engine::Engine;
use crate::function::{self, Function, Options};
use crate::loader::{Image, OpenError};
use std::path::PathBuf;
use std::sync::Arc;

/// Why a function does not run.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The image is none.
    #[error(transparent)]
    Image(#[from] OpenError),
    /// Snapshots in folders have not come yet.
    #[error("{}: this version reads no snapshots from folders; name an image instead", .0.display())]
    Folder(PathBuf),
    /// The guest does not become a function.
    #[error(transparent)]
    Function(#[from] function::DeployError),
}

/// Boots a function until it is ready, or opens its snapshot. Blocks.
/// `spare`: machines beyond one for each request, for those that are being reset.
pub(super) fn deploy(
    engine: &Engine,
    config: &FunctionConfig,
    spare: usize,
    events: &Events,
) -> Result<Function, DeployError> {
    let deployment = &config.deployment;
    let consoles = deployment.console.then(|| Consoles::new(&config.name, events.clone()));
    let mut options = Options {
        isolation: deployment.isolation,
        wall_time: deployment.wall_time,
        cpu_time: deployment.cpu_time,
        instances: deployment.concurrency + spare,
        share: deployment.share,
        ..Options::default()
    };
    if let Some(consoles) = &consoles {
        options.outputs = consoles.outputs();
    }
    let snapshot = match &deployment.source {
        Source::Image { path, memory, arguments, environment } => {
            let mut guest = Builder::new(Image::open(path)?).name(&config.name).memory(*memory);
            for argument in arguments {
                guest = guest.argument(argument);
            }
            for (key, value) in environment {
                guest = guest.variable(key, value);
            }
            if let Some(consoles) = &consoles {
                guest = guest.output(consoles.output());
            }
            function::boot(engine, guest, deployment.ready_time)?
        }
        Source::Snapshot(path) => return Err(DeployError::Folder(path.clone())),
    };
    Ok(Function::new(engine, Arc::new(snapshot), options)?)
}

/// What a function says of itself.
pub(super) fn read(function: &Function) -> Reading {
    let stats = function.stats();
    Reading {
        live: stats.live.saturating_sub(stats.idle),
        idle: stats.idle,
        answered: stats.answered,
        warm: stats.warm,
        cold: stats.cold,
        ended: stats.ended,
        exits: stats.exits.into_iter().collect(),
        private: stats.private,
        shared: stats.shared,
        ..Reading::default()
    }
}
