//! Tenants: functions that have a share of the processors and of the permits for guests together.
#![forbid(unsafe_code)]

use super::config::TenantConfig;
use super::gate::{Admission, TenantGate};
use hv_core::engine::Engine;
use hv_core::sched::Group;
use std::sync::Arc;

/// A tenant that is served.
pub(super) struct Tenant {
    name: Arc<str>,
    group: Group,
    gate: Arc<TenantGate>,
}

impl Tenant {
    pub(super) fn new(engine: &Engine, admission: &Arc<Admission>, config: &TenantConfig) -> Arc<Self> {
        Arc::new(Tenant {
            name: config.name.as_str().into(),
            group: engine.group(config.share),
            gate: TenantGate::new(admission, config),
        })
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The group that its functions' groups are in.
    pub(super) fn group(&self) -> &Group {
        &self.group
    }

    pub(super) fn gate(&self) -> &Arc<TenantGate> {
        &self.gate
    }

    /// Has what the configuration says now count from now on.
    pub(super) fn set(&self, config: &TenantConfig) {
        self.group.set_share(config.share);
        self.gate.set(config);
    }
}
