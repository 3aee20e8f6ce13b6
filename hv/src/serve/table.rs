//! What is served at the moment: functions that run, and which path leads to which.
#![forbid(unsafe_code)]

use super::config::{Config, Deployment, FunctionConfig};
use super::deploy;
use super::error::ServeError;
use super::events::Events;
use super::gate::Gate;
use super::metrics::Reading;
use super::rare::Rare;
use super::route::Routes;
use crate::engine::Engine;
use crate::function::{Function, Isolation};
use crate::jail::{self, Kind};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

/// A function that is served.
pub(super) struct Served {
    name: Arc<str>,
    config: FunctionConfig,
    deployed: Arc<Deployed>,
    gate: Gate,
    events: Events,
    /// Lines that say that no guest could be started.
    lacks: Rare,
}

/// A running function, and what it was made of.
struct Deployed {
    deployment: Deployment,
    /// Taken when it is dropped.
    function: Option<Function>,
}

impl Drop for Deployed {
    fn drop(&mut self) {
        // Closing machines takes a millisecond each, which no connection should wait for.
        if let Some(function) = self.function.take() {
            let ended = jail::spawn(Kind::Deploy, "hv-ending", move || drop(function));
            if let Err(error) = ended {
                tracing::debug!("no thread to end a function: {error}");
            }
        }
    }
}

/// The functions of one configuration.
pub(super) struct Table {
    pub(super) config: Config,
    served: Vec<Arc<Served>>,
    routes: Routes<Arc<Served>>,
}

/// What became of the functions at a change of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) deployed: usize,
    pub(super) kept: usize,
    pub(super) removed: usize,
}

/// What all tables of a server have in common.
pub(super) struct Ground {
    pub(super) engine: Engine,
    pub(super) events: Events,
    /// Seats for live guests.
    pub(super) guests: Arc<Semaphore>,
    /// Machines of a function beyond one for each request.
    pub(super) spare: usize,
}

impl Served {
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn config(&self) -> &FunctionConfig {
        &self.config
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    /// Tells, now and then, that no guest could be started, and why.
    pub(super) fn note_no_room(&self, why: impl FnOnce() -> String) {
        if let Some(others) = self.lacks.pass(Instant::now()) {
            self.events.no_room(&self.name, &why(), others);
        }
    }

    pub(super) fn function(&self) -> &Function {
        self.deployed.function.as_ref().expect("taken by drop only")
    }

    /// What it says of itself.
    pub(super) fn reading(&self) -> Reading {
        Reading {
            function: self.name.to_string(),
            fresh: self.config.deployment.isolation == Isolation::Request,
            waiting: self.gate.waiting(),
            left_out: self.events.left_out(&self.name),
            ..deploy::read(self.function())
        }
    }
}

impl Table {
    /// Deploys what the configuration names, except what `old` has already and is still the same.
    /// Blocks until all functions are ready.
    pub(super) fn deploy(
        config: Config,
        ground: &Ground,
        old: Option<&Table>,
    ) -> Result<(Table, Changes), ServeError> {
        let old = old.map_or(&[][..], |old| &old.served);
        let mut changes = Changes::default();
        let mut served = Vec::new();
        for function in &config.functions {
            let before = old.iter().find(|served| *served.name == *function.name);
            if let Some(same) = before.filter(|served| served.config.is_same(function)) {
                changes.kept += 1;
                served.push(same.clone());
                continue;
            }
            let deployed = match before.filter(|served| served.deployed.deployment == function.deployment) {
                Some(before) => {
                    changes.kept += 1;
                    before.deployed.clone()
                }
                None => {
                    changes.deployed += 1;
                    Arc::new(ground.start(function)?)
                }
            };
            served.push(Arc::new(Served {
                name: function.name.as_str().into(),
                gate: Gate::new(
                    function.deployment.concurrency,
                    ground.guests.clone(),
                    function.queue,
                    function.queue_time,
                ),
                config: function.clone(),
                deployed,
                events: ground.events.clone(),
                lacks: Rare::default(),
            }));
        }
        changes.removed =
            old.iter().filter(|old| served.iter().all(|served| served.name != old.name)).count();
        let routes = served
            .iter()
            .flat_map(|served| served.config.paths.iter().map(|path| (path.clone(), served.clone())));
        Ok((Table { routes: Routes::new(routes), served, config }, changes))
    }

    /// The function at a path.
    pub(super) fn find(&self, path: &str) -> Option<&Arc<Served>> {
        self.routes.find(path)
    }

    pub(super) fn readings(&self) -> Vec<Reading> {
        self.served.iter().map(|served| served.reading()).collect()
    }

    /// Ends instances and machines that have been idle for longer than their functions allow.
    pub(super) fn reap(&self) {
        for served in &self.served {
            served.events.tell_left_out(&served.name);
            if let Some(since) = Instant::now().checked_sub(served.config.idle) {
                served.function().reap(since);
            }
        }
    }
}

impl Ground {
    /// Boots a function until it is ready, or opens its snapshot.
    fn start(&self, function: &FunctionConfig) -> Result<Deployed, ServeError> {
        let start = Instant::now();
        let result = deploy::deploy(&self.engine, function, self.spare, &self.events);
        let running = result.map_err(|error| ServeError::Deploy {
            place: function.place.clone(),
            function: function.name.clone(),
            error: Box::new(error),
        })?;
        let path = function.deployment.source.path();
        self.events.deployed(&function.name, &path.to_string_lossy(), start.elapsed());
        Ok(Deployed { deployment: function.deployment.clone(), function: Some(running) })
    }
}
