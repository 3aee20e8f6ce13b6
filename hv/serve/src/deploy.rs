//! Deploys a function from its configuration.
#![forbid(unsafe_code)]

use super::config::{FunctionConfig, Source};
use super::console::Consoles;
use super::events::Stream;
use super::metrics::FunctionFigures;
use super::opening::{Origin, open};
use super::table::ServerContext;
use hv_core::device::block::DiskError;
use hv_core::device::services::{Provider, ServicesDevice};
use hv_core::domain::Builder;
use hv_core::loader::ImageOpenError;
use hv_core::memory::EqualPagesError;
use hv_core::sched::Group;
use hv_core::snapshot::{self, DisksError};
use hv_function as function;
use hv_function::{CurrentRequest, Function, Options};
use hv_host::escape::escape;
use hv_services::{FunctionServices, ProvideError};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    /// A file is on storage that does not answer.
    #[error(
        "{} does not answer within {time:?}; bring its storage back, or raise `ready_time`",
        escape(path)
    )]
    Silent {
        /// The file.
        path: PathBuf,
        /// How long it was waited for.
        time: Duration,
    },
    /// No thread to open files.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// A store or blobs cannot be used.
    #[error(transparent)]
    Services(#[from] ProvideError),
    /// Its guests cannot share equal pages.
    #[error(transparent)]
    EqualPages(#[from] EqualPagesError),
    /// The function cannot be deployed.
    #[error(transparent)]
    Function(#[from] function::DeployError),
}

/// Boots a function until it is ready, or opens its snapshot. Blocks.
/// `group`: what its guests share the processors in.
/// `before`: one that was deployed with the same configuration. Its image and disks are used again as they
/// are in memory, even if their files have changed.
pub(super) fn deploy(
    server: &ServerContext,
    config: &FunctionConfig,
    group: &Group,
    before: Option<&Function>,
) -> Result<(Function, Option<Arc<FunctionServices>>), DeployError> {
    let ServerContext { engine, events, spare, reclaimable, services, invocations, .. } = server;
    let deployment = &config.deployment;
    if deployment.share_equal_pages {
        engine.can_share_equal_pages()?;
    }
    let consoles =
        deployment.console.then(|| Consoles::new(&config.name, events.clone(), invocations.clone()));
    let mut options = Options {
        isolation: deployment.isolation,
        wall_time: deployment.wall_time,
        cpu_time: deployment.cpu_time,
        instances: config.machines(*spare),
        warm: config.min_warm,
        // The permits bound how many.
        waits: true,
        group: Some(group.clone()),
        promised_memory: deployment.promised_memory,
        share_equal_pages: deployment.share_equal_pages,
        make_room: Some(Arc::new({
            let reclaimable = reclaimable.clone();
            move || reclaimable.make_room()
        })),
        ..Options::default()
    };
    if let Some(consoles) = &consoles {
        options.outputs = consoles.outputs(Stream::Stdout);
        options.errors = Some(consoles.outputs(Stream::Stderr));
    }
    let provided = match deployment.services.is_empty() {
        true => None,
        false => Some(services.provide(&deployment.services)?),
    };
    options.services = provided.clone().map(|provided| provided as Arc<dyn Provider>);
    let source = &deployment.source;
    let (origin, disks) = match (before, source) {
        (Some(before), Source::Image { .. }) => {
            (Origin::Image(before.snapshot().image().clone()), before.disks().clone())
        }
        _ => open(engine, source, deployment.ready_time)?,
    };
    options.disks = disks.clone();
    let snapshot = match (origin, source) {
        (Origin::Image(image), Source::Image { memory, stack, arguments, environment, .. }) => {
            let mut guest = Builder::new(image).name(&config.name).memory(*memory).group(group);
            if let Some(stack) = stack {
                guest = guest.stack(*stack);
            }
            for disk in disks.iter() {
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
                // It answers no requests.
                let console = |stream| consoles.output(stream, CurrentRequest::default());
                guest = guest.output(console(Stream::Stdout)).error_output(console(Stream::Stderr));
            }
            if provided.is_some() {
                guest = guest.services(ServicesDevice::new(None));
            }
            reclaimable.make_room_for(engine, *memory);
            function::boot(engine, guest, deployment.ready_time)?
        }
        (Origin::Snapshot(snapshot), _) => snapshot,
        (Origin::Image(_), Source::Snapshot { .. }) => unreachable!("a snapshot is opened as one"),
    };
    let function = Function::new(engine, Arc::new(snapshot), options)?;
    // A function that cannot be cloned is not ready.
    function::try_clone(engine, function.snapshot(), &disks, deployment.ready_time)?;
    Ok((function, provided))
}

/// The figures of a function.
pub(super) fn read(function: &Function) -> FunctionFigures {
    let stats = function.stats();
    FunctionFigures {
        live: stats.live.saturating_sub(stats.idle),
        idle: stats.idle,
        starting: stats.starting,
        answered: stats.answered,
        warm: stats.warm,
        cold: stats.cold,
        ended: stats.ended,
        back_off: stats.back_off.as_secs_f64(),
        exits: stats.exits.into_iter().collect(),
        private: stats.private,
        shared: stats.shared,
        shared_byte_seconds: stats.shared_byte_seconds,
        usage: stats.usage,
        ..FunctionFigures::default()
    }
}
