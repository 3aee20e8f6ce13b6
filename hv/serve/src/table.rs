//! The functions that are served, and their paths.
#![forbid(unsafe_code)]

use super::admin::{Change, ChangeQueue};
use super::config::{Config, Deployment, FunctionConfig, Source, TenantConfig};
use super::deploy;
use super::error::ServeError;
use super::events::Events;
use super::gate::{Admission, Gate, TenantGate};
use super::layout::Layout;
use super::memory::{self, HasIdle, Reclaimable};
use super::metrics::FunctionFigures;
use super::pace::Pace;
use super::route::Routes;
use super::tenant::Tenant;
use super::throttle::Throttle;
use super::trace::Invocations;
use hv_core::engine::Engine;
use hv_core::sched::Group;
use hv_function::{Function, Isolation};
use hv_jail as jail;
use hv_jail::Kind;
use hv_services::{FunctionServices, Services};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// A function that is served.
pub(super) struct Served {
    name: Arc<str>,
    config: FunctionConfig,
    tenant: Option<Arc<Tenant>>,
    deployed: Arc<Deployed>,
    gate: Gate,
    refusals: Arc<Pace>,
    events: Events,
    /// Lines that say that no guest could be started.
    start_failures: Throttle,
    changes: ChangeQueue,
    /// Machines beyond one for each request.
    spare: usize,
}

/// A running function, and what it was made of.
struct Deployed {
    deployment: Deployment,
    layout: Layout,
    /// What its guests share the processors in.
    group: Group,
    /// `None` only while it is dropped.
    function: Option<Function>,
    /// What it reaches, if it reaches anything.
    services: Option<Arc<FunctionServices>>,
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

impl HasIdle for Deployed {
    fn idle_since(&self) -> Option<Instant> {
        self.function.as_ref()?.idle_since()
    }

    fn reclaim(&self) -> bool {
        self.function.as_ref().is_some_and(Function::reclaim)
    }
}

/// The functions of one configuration.
pub(super) struct Table {
    pub(super) config: Config,
    tenants: Vec<Arc<Tenant>>,
    served: Vec<Arc<Served>>,
    routes: Routes<Arc<Served>>,
}

/// The changes of the functions at a change of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) deployed: usize,
    pub(super) kept: usize,
    pub(super) removed: usize,
}

/// What all tables of a server have in common.
pub(super) struct ServerContext {
    pub(super) engine: Engine,
    pub(super) events: Events,
    /// Permits for live guests.
    pub(super) admission: Arc<Admission>,
    /// Memory of machines that are idle.
    pub(super) reclaimable: Arc<Reclaimable>,
    /// Machines of a function beyond one for each request.
    pub(super) spare: usize,
    pub(super) changes: ChangeQueue,
    pub(super) services: Services,
    /// What guests print for which request.
    pub(super) invocations: Arc<Invocations>,
}

impl Served {
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn config(&self) -> &FunctionConfig {
        &self.config
    }

    /// The pace of refusals that involve no guest.
    pub(super) fn refusals(&self) -> &Arc<Pace> {
        &self.refusals
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn tenant(&self) -> Option<&Arc<str>> {
        self.tenant.as_ref().map(|tenant| tenant.name())
    }

    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    /// Logs that no guest could be started, and why; one line a second at most.
    pub(super) fn note_no_room(&self, why: impl FnOnce() -> String) {
        if let Some(others) = self.start_failures.pass(Instant::now()) {
            self.events.no_room(&self.name, &why(), others);
        }
    }

    pub(super) fn function(&self) -> &Function {
        self.deployed.function.as_ref().expect("taken by drop only")
    }

    /// A guest has crashed. Functions of a snapshot keep their layout: their memory holds addresses.
    pub(super) fn crashed(&self) {
        let can_move = matches!(self.config.deployment.source, Source::Image { .. });
        if can_move && self.deployed.layout.crashed(Instant::now()) {
            // Without a receiver the server is at its end.
            let _ = self.changes.send(Change::Relayout(self.name.clone()));
        }
    }

    /// Its figures.
    pub(super) fn figures(&self) -> FunctionFigures {
        FunctionFigures {
            function: self.name.to_string(),
            tenant: self.tenant.as_ref().map(|tenant| tenant.name().clone()),
            fresh: self.config.deployment.isolation == Isolation::Request,
            waiting: self.gate.waiting(),
            min_warm: self.config.min_warm,
            max_instances: self.config.machines(self.spare),
            left_out: self.events.left_out(&self.name),
            services: self
                .deployed
                .services
                .as_ref()
                .map(|services| services.figures().operations())
                .unwrap_or_default(),
            connection_bytes: self
                .deployed
                .services
                .as_ref()
                .map(|services| services.figures().connection_bytes())
                .unwrap_or_default(),
            ..deploy::read(self.function())
        }
    }
}

impl Table {
    /// Deploys what the configuration names, except what `old` has already and is still the same.
    /// Blocks until all functions are ready.
    pub(super) fn deploy(
        config: Config,
        server_context: &ServerContext,
        old: Option<&Table>,
    ) -> Result<(Table, Changes), ServeError> {
        let tenants: Vec<_> =
            config.tenants.iter().map(|tenant| server_context.tenant(tenant, old)).collect();
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
            let tenant =
                tenants.iter().find(|tenant| Some(&**tenant.name()) == function.deployment.tenant.as_deref());
            let deployed = match before.filter(|served| served.deployed.deployment == function.deployment) {
                Some(before) => {
                    changes.kept += 1;
                    before.deployed.clone()
                }
                None => {
                    changes.deployed += 1;
                    server_context.start(function, tenant, None)?
                }
            };
            served.push(Arc::new(server_context.serve(function, tenant.cloned(), deployed)));
        }
        changes.removed =
            old.iter().filter(|old| served.iter().all(|served| served.name != old.name)).count();
        // Shares and limits change at once for all, when nothing can fail any more.
        config.tenants.iter().zip(&tenants).for_each(|(config, tenant)| tenant.set(config));
        served.iter().for_each(|served| {
            served.deployed.group.set_share(served.config.share);
            served.function().set_scale(served.config.machines(server_context.spare), served.config.min_warm);
        });
        server_context.plan_memory(&served);
        Ok((Table::of(config, tenants, served), changes))
    }

    fn of(config: Config, tenants: Vec<Arc<Tenant>>, served: Vec<Arc<Served>>) -> Table {
        let routes = served
            .iter()
            .flat_map(|served| served.config.paths.iter().map(|path| (path.clone(), served.clone())));
        Table { routes: Routes::new(routes), tenants, served, config }
    }

    /// The same functions, of which one was booted again from the image and the disks that it has, so that
    /// its guests have another address. `None` if it is not served any more, or cannot be booted: it is kept
    /// then.
    pub(super) fn relayout(&self, name: &str, server_context: &ServerContext) -> Option<Table> {
        let place = self.served.iter().position(|served| *served.name == *name)?;
        let old = &self.served[place];
        match server_context.start(&old.config, old.tenant.as_ref(), Some(old.function())) {
            Ok(deployed) => {
                let mut served = self.served.clone();
                let new = server_context.serve(&old.config, old.tenant.clone(), deployed);
                served[place] = Arc::new(new);
                Some(Table::of(self.config.clone(), self.tenants.clone(), served))
            }
            Err(error) => {
                old.deployed.layout.keep(Instant::now());
                server_context.events.relayout_failed(name, &error.to_string());
                None
            }
        }
    }

    /// The function at a path.
    pub(super) fn find(&self, path: &str) -> Option<&Arc<Served>> {
        self.routes.find(path)
    }

    /// All functions, in the order of the configuration.
    pub(super) fn served(&self) -> &[Arc<Served>] {
        &self.served
    }

    /// The function of this name.
    pub(super) fn named(&self, name: &str) -> Option<&Arc<Served>> {
        self.served.iter().find(|served| *served.name == *name)
    }

    pub(super) fn figures(&self) -> Vec<FunctionFigures> {
        self.served.iter().map(|served| served.figures()).collect()
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

impl ServerContext {
    /// A tenant: the one that `old` has, or a new one.
    fn tenant(&self, tenant: &TenantConfig, old: Option<&Table>) -> Arc<Tenant> {
        let before = old.and_then(|old| old.tenants.iter().find(|old| **old.name() == *tenant.name));
        before.cloned().unwrap_or_else(|| Tenant::new(&self.engine, &self.admission, tenant))
    }

    fn serve(
        &self,
        function: &FunctionConfig,
        tenant: Option<Arc<Tenant>>,
        deployed: Arc<Deployed>,
    ) -> Served {
        let gate = match &tenant {
            Some(tenant) => tenant.gate().clone(),
            None => TenantGate::of_one(&self.admission, function),
        };
        Served {
            name: function.name.as_str().into(),
            refusals: Arc::default(),
            gate: Gate::new(gate, function, deployed.function.as_ref().map_or(0, Function::promised_memory)),
            tenant,
            config: function.clone(),
            deployed,
            events: self.events.clone(),
            start_failures: Throttle::default(),
            changes: self.changes.clone(),
            spare: self.spare,
        }
    }

    /// Has requests in guests promised what is left beside what hv and its functions' templates hold.
    fn plan_memory(&self, served: &[Arc<Served>]) {
        if let Some((budget, _)) = self.engine.memory_budget() {
            let templates: u64 =
                served.iter().map(|served| served.function().snapshot().template().resident()).sum();
            let guests = budget.saturating_sub(self.reclaimable.own() + templates);
            self.admission.set_memory(guests);
            if let Some(budget) = memory::known() {
                self.events.memory(budget, guests);
            }
        }
    }

    /// Boots a function until it is ready, or opens its snapshot. `before`: the one that it takes the place of,
    /// if only its layout is to be another.
    fn start(
        &self,
        function: &FunctionConfig,
        tenant: Option<&Arc<Tenant>>,
        before: Option<&Function>,
    ) -> Result<Arc<Deployed>, ServeError> {
        let start = Instant::now();
        let group = match tenant {
            Some(tenant) => tenant.group().group(function.share),
            None => self.engine.group(function.share),
        };
        let result = deploy::deploy(self, function, &group, before);
        let (running, services) = result.map_err(|error| ServeError::Deploy {
            location: function.location.clone(),
            function: function.name.clone(),
            error: Box::new(error),
        })?;
        let path = function.deployment.source.path();
        match before {
            Some(_) => self.events.relayout(&function.name, start.elapsed()),
            None => self.events.deployed(&function.name, &path.to_string_lossy(), start.elapsed()),
        }
        let layout = Layout::new(Instant::now());
        let deployed = Arc::new(Deployed {
            deployment: function.deployment.clone(),
            layout,
            group,
            function: Some(running),
            services,
        });
        let weak: Weak<Deployed> = Arc::downgrade(&deployed);
        self.reclaimable.add(weak);
        Ok(deployed)
    }
}
