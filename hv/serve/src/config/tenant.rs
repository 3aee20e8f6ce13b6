//! A tenant's table, and the keys that tenants and functions have in common.

use super::file::{FunctionSection, TenantSection};
use super::validate::{Validator, value};
use super::*;
use hv_core::sched::{Quota, ShareError};
use hv_host::units;
use toml::Spanned;

/// Longest name of a function or a tenant.
const MAX_NAME: usize = 64;

/// What a table says of processors.
pub(super) struct Processors<'a> {
    weight: &'a Option<Spanned<u32>>,
    cap: &'a Option<Spanned<u32>>,
    quota: &'a Option<Spanned<String>>,
}

impl<'a> Processors<'a> {
    pub(super) fn of_function(FunctionSection { weight, cap, quota, .. }: &'a FunctionSection) -> Self {
        Processors { weight, cap, quota }
    }

    fn of_tenant(TenantSection { weight, cap, quota, .. }: &'a TenantSection) -> Self {
        Processors { weight, cap, quota }
    }
}

impl Validator<'_> {
    /// One tenant's table.
    pub(super) fn tenant(
        &self,
        name: &Spanned<String>,
        tenant: &TenantSection,
        config: &Config,
    ) -> Result<TenantConfig, ConfigError> {
        self.name("tenant", name)?;
        let concurrency = self.count("concurrency", &tenant.concurrency)?;
        self.within_server(&tenant.concurrency, config)?;
        Ok(TenantConfig {
            name: name.get_ref().clone(),
            location: self.location(name.span().start),
            share: self.share(&Processors::of_tenant(tenant))?,
            concurrency,
            queue: tenant.queue.as_ref().map(|queue| *queue.get_ref() as usize),
            memory: self.tenant_memory(tenant, config)?,
        })
    }

    fn tenant_memory(&self, tenant: &TenantSection, config: &Config) -> Result<Option<u64>, ConfigError> {
        let memory = self.size("memory", &tenant.memory)?;
        if let (Some(at), Some(bytes), Some(most)) = (&tenant.memory, memory, config.memory)
            && bytes > most
        {
            let why = format!("the whole server has memory = {most} bytes; lower this or raise that");
            return Err(self.fail(at, value("memory", format!("\"{}\"", at.get_ref().0), why)));
        }
        Ok(memory)
    }

    /// The tenant that a function names.
    pub(super) fn tenant_of<'a>(
        &self,
        function: &FunctionSection,
        config: &'a Config,
    ) -> Result<Option<&'a TenantConfig>, ConfigError> {
        let Some(name) = &function.tenant else { return Ok(None) };
        let found = config.tenants.iter().find(|tenant| tenant.name == *name.get_ref());
        match found {
            Some(tenant) => Ok(Some(tenant)),
            None => {
                let known = config.tenants.iter().map(|tenant| tenant.name.clone()).collect();
                Err(self.fail(name, Problem::unknown_tenant(name.get_ref().clone(), known)))
            }
        }
    }

    /// Refuses what a function asks for beyond what its tenant has: it would never get it.
    pub(super) fn within_tenant(
        &self,
        function: &FunctionSection,
        share: Share,
        promised: u64,
        tenant: &TenantConfig,
    ) -> Result<(), ConfigError> {
        let has = |what: String| format!("its tenant `{}` has {what}; lower this or raise that", tenant.name);
        if let (Some(at), Some(most)) = (&function.concurrency, tenant.concurrency)
            && *at.get_ref() as usize > most
        {
            let why = has(format!("concurrency = {most}"));
            return Err(self.fail(at, value("concurrency", at.get_ref(), why)));
        }
        if let (Some(at), Some(cap), Some(most)) = (&function.cap, share.cap(), tenant.share.cap())
            && cap > most
        {
            return Err(self.fail(at, value("cap", cap, has(format!("cap = {most}")))));
        }
        if let (Some(at), Some(most)) = (&function.memory, tenant.memory)
            && promised > most
        {
            let why = has(format!("memory = {most} bytes for all instances"));
            return Err(self.fail(at, value("memory", format!("\"{}\"", at.get_ref().0), why)));
        }
        let rate = |quota: Quota| quota.time().as_secs_f64() / quota.period().as_secs_f64();
        if let (Some(at), Some(quota), Some(most)) = (&function.quota, share.quota(), tenant.share.quota())
            && rate(quota) > rate(most)
        {
            let why = has(format!("{:?} in each {:?}", most.time(), most.period()));
            return Err(self.fail(at, value("quota", format!("\"{}\"", at.get_ref()), why)));
        }
        Ok(())
    }

    /// Refuses more requests at a time than the whole server has.
    pub(super) fn within_server(
        &self,
        concurrency: &Option<Spanned<u32>>,
        config: &Config,
    ) -> Result<(), ConfigError> {
        if let (Some(at), Some(guests)) = (concurrency, config.guests)
            && *at.get_ref() as usize > guests
        {
            let why = format!("the whole server has guests = {guests}; lower this or raise that");
            return Err(self.fail(at, value("concurrency", at.get_ref(), why)));
        }
        Ok(())
    }

    /// Checks the name of a table.
    pub(super) fn name(&self, key: &'static str, name: &Spanned<String>) -> Result<(), ConfigError> {
        let named = name.get_ref();
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if named.is_empty() || named.len() > MAX_NAME || !named.chars().all(plain) {
            let why = format!("use 1 to {MAX_NAME} letters, digits, dots, underscores and dashes");
            return Err(self.fail(name, value(key, format!("\"{named}\""), why)));
        }
        Ok(())
    }

    pub(super) fn share(&self, table: &Processors<'_>) -> Result<Share, ConfigError> {
        let default = Share::default();
        let weight = table.weight.as_ref().map_or(default.weight(), |weight| *weight.get_ref());
        let cap = table.cap.as_ref().map_or(0, |cap| *cap.get_ref());
        let share = Share::new(weight, cap).map_err(|error| {
            let (key, at) = match error {
                ShareError::Weight(_) => ("weight", table.weight),
                _ => ("cap", table.cap),
            };
            let location =
                at.as_ref().map_or(Location::File(self.path.into()), |at| self.location(at.span().start));
            ConfigError { location, problem: Problem::Share { key, error } }
        })?;
        let quota = table.quota.as_ref().map(|text| self.quota(text)).transpose()?;
        Ok(share.with_quota(quota))
    }

    /// CPU time in a period: `50ms/100ms`.
    fn quota(&self, text: &Spanned<String>) -> Result<Quota, ConfigError> {
        let written = text.get_ref();
        let Some((time, period)) = written.split_once('/') else {
            let why =
                "write CPU time and the period that it is for, as in 50ms/100ms (half a processor) or 30s/1m";
            return Err(self.fail(text, value("quota", format!("\"{written}\""), why)));
        };
        let parse = |part: &str| {
            let part = part.trim();
            units::time(part)
                .map_err(|error| self.fail(text, Problem::Unit { key: "quota", value: part.into(), error }))
        };
        Quota::new(parse(time)?, parse(period)?)
            .map_err(|error| self.fail(text, Problem::Share { key: "quota", error }))
    }
}
