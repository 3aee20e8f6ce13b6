//! Deploys a function from its configuration.
#![forbid(unsafe_code)]

use super::config::{FunctionConfig, Source};
use super::console::Consoles;
use super::events::{Events, Stream};
use super::metrics::FunctionFigures;
use hv_core::device::block::{Disk, DiskError};
use hv_core::domain::Builder;
use hv_core::engine::Engine;
use hv_core::loader::{Image, ImageOpenError};
use hv_core::snapshot::{self, DisksError, Snapshot};
use hv_function as function;
use hv_function::{Function, Options};
use std::sync::Arc;

/// Why a function does not run.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The image is not valid.
    #[error(transparent)]
    Image(#[from] ImageOpenError),
    /// The snapshot is not valid.
    #[error(transparent)]
    Snapshot(#[from] snapshot::OpenError),
    /// A disk cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Not as many disks as the guest of the snapshot had.
    #[error("{0}; `disks` names all of them, in their order")]
    DiskCount(DisksError),
    /// A disk is not what it was when the snapshot was made.
    #[error(transparent)]
    Disks(DisksError),
    /// The function cannot be deployed.
    #[error(transparent)]
    Function(#[from] function::DeployError),
}

/// Boots a function until it is ready, or opens its snapshot. Blocks.
/// `spare`: machines beyond one for each request, for those that are being reset.
/// `before`: one that was deployed with the same configuration. Its image and disks are used again as they
/// are in memory, even if their files have changed.
pub(super) fn deploy(
    engine: &Engine,
    config: &FunctionConfig,
    spare: usize,
    before: Option<&Function>,
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
        options.outputs = consoles.outputs(Stream::Stdout);
        options.errors = Some(consoles.outputs(Stream::Stderr));
    }
    let snapshot = match &deployment.source {
        Source::Image { path, memory, stack, arguments, environment, disks } => {
            let image = match before {
                Some(before) => before.snapshot().image().clone(),
                None => Arc::new(Image::open(path)?),
            };
            options.disks = match before {
                Some(before) => before.disks().clone(),
                None => disks.iter().map(Disk::open).collect::<Result<_, _>>()?,
            };
            let mut guest = Builder::new(image).name(&config.name).memory(*memory);
            if let Some(stack) = stack {
                guest = guest.stack(*stack);
            }
            for disk in options.disks.iter() {
                let shared =
                    disk.share().ok_or_else(|| function::DeployError::Disk(disk.path().to_owned()))?;
                guest = guest.disk(shared);
            }
            for argument in arguments {
                guest = guest.argument(argument);
            }
            for (key, value) in environment {
                guest = guest.variable(key, value);
            }
            if let Some(consoles) = &consoles {
                guest = guest
                    .output(consoles.output(Stream::Stdout))
                    .error_output(consoles.output(Stream::Stderr));
            }
            function::boot(engine, guest, deployment.ready_time)?
        }
        Source::Snapshot { path, disks } => {
            let snapshot = Snapshot::open(path, engine)?;
            snapshot.check_disk_count(disks.len()).map_err(DeployError::DiskCount)?;
            options.disks = disks.iter().map(Disk::open).collect::<Result<_, _>>()?;
            snapshot.check_disks(&options.disks).map_err(DeployError::Disks)?;
            snapshot
        }
    };
    let disks = options.disks.clone();
    let function = Function::new(engine, Arc::new(snapshot), options)?;
    // A function that cannot be cloned is not ready.
    function::try_clone(engine, function.snapshot(), &disks, deployment.ready_time)?;
    Ok(function)
}

/// The figures of a function.
pub(super) fn read(function: &Function) -> FunctionFigures {
    let stats = function.stats();
    FunctionFigures {
        live: stats.live.saturating_sub(stats.idle),
        idle: stats.idle,
        answered: stats.answered,
        warm: stats.warm,
        cold: stats.cold,
        ended: stats.ended,
        back_off: stats.back_off.as_secs_f64(),
        exits: stats.exits.into_iter().collect(),
        private: stats.private,
        shared: stats.shared,
        ..FunctionFigures::default()
    }
}
