//! What the functions of a tenant may do together.

use crate::rate::{Pace, Rate};
use crate::refusal::Refusal;
use crate::spec::TenantSpec;
use hv_abi::io::services::Status;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A tenant with limits.
pub(crate) struct Tenant {
    spec: Arc<TenantSpec>,
    operations: Rate,
    /// Connections that may still be made.
    free: Option<Arc<Semaphore>>,
    /// Of its connections.
    pub(crate) pace: Pace,
}

impl Tenant {
    pub(crate) fn new(spec: &Arc<TenantSpec>) -> Tenant {
        let free = spec.net_connections.map(|most| Arc::new(Semaphore::new(most as usize)));
        Tenant {
            spec: spec.clone(),
            operations: Rate::new(spec.operations),
            free,
            pace: Pace::new(spec.net_rate),
        }
    }

    /// Whether an operation of one of its functions may begin.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Refusal> {
        match self.operations.admit(now) {
            true => Ok(()),
            false => {
                let most = self.spec.operations.unwrap_or(0);
                let text =
                    format!("the functions of tenant {} may do {most} operations a second", self.spec.name);
                Err(Refusal::new(Status::Limited, text))
            }
        }
    }

    /// A seat for a connection, where they are limited.
    pub(crate) fn seat(&self) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        let Some(free) = &self.free else { return Ok(None) };
        free.clone().try_acquire_owned().map(Some).map_err(|_| {
            let most = self.spec.net_connections.unwrap_or(0);
            let text = format!("the functions of tenant {} have at most {most} connections", self.spec.name);
            Refusal::new(Status::Limited, text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_limits_of_its_own() {
        let spec =
            TenantSpec { name: "a".into(), operations: Some(2), net_connections: Some(1), net_rate: None };
        let (tenant, now) = (Tenant::new(&Arc::new(spec)), Instant::now());
        assert!(tenant.admit(now).is_ok() && tenant.admit(now).is_ok());
        assert!(
            matches!(tenant.admit(now), Err(Refusal::Status(Status::Limited, text)) if text.contains("tenant a"))
        );
        let seat = tenant.seat().unwrap().unwrap();
        assert!(tenant.seat().is_err());
        drop(seat);
        assert!(tenant.seat().is_ok());
    }
}
