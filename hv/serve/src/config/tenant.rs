//! A tenant's table, and the keys that tenants and functions have in common.

use super::bindings::span;
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

fn written(number: &Option<Spanned<u32>>) -> Option<String> {
    number.as_ref().map(|number| number.get_ref().to_string())
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
        // What it does not say itself is bounded by its tenant.
        let concurrency = function.concurrency.as_ref().map(|count| *count.get_ref() as usize);
        tenant.check(concurrency, share).map_err(|(key, why)| {
            let (span, written) = match key {
                "concurrency" => (span(&function.concurrency), written(&function.concurrency)),
                "cap" => (span(&function.cap), written(&function.cap)),
                _ => (
                    span(&function.quota),
                    function.quota.as_ref().map(|text| format!("\"{}\"", text.get_ref())),
                ),
            };
            self.at(span, value(key, written.unwrap_or_default(), why))
        })?;
        if let (Some(at), Some(most)) = (&function.memory, tenant.memory)
            && promised > most
        {
            let why = format!(
                "its tenant `{}` has memory = {most} bytes for all instances; lower this or raise that",
                tenant.name
            );
            return Err(self.fail(at, value("memory", format!("\"{}\"", at.get_ref().0), why)));
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

    fn quota(&self, text: &Spanned<String>) -> Result<Quota, ConfigError> {
        parse_quota(text.get_ref()).map_err(|problem| self.fail(text, problem))
    }
}

/// CPU time in a period: `50ms/100ms`.
pub(crate) fn parse_quota(written: &str) -> Result<Quota, Problem> {
    let Some((time, period)) = written.split_once('/') else {
        let why =
            "write CPU time and the period that it is for, as in 50ms/100ms (half a processor) or 30s/1m";
        return Err(value("quota", format!("\"{written}\""), why));
    };
    let parse = |part: &str| {
        let part = part.trim();
        units::time(part).map_err(|error| Problem::Unit { key: "quota", value: part.into(), error })
    };
    Quota::new(parse(time)?, parse(period)?).map_err(|error| Problem::Share { key: "quota", error })
}

impl TenantConfig {
    /// Refuses what would never be had. The error says which key it is of, and why.
    pub(crate) fn check(
        &self,
        concurrency: Option<usize>,
        share: Share,
    ) -> Result<(), (&'static str, String)> {
        let has = |what: String| format!("its tenant `{}` has {what}; lower this or raise that", self.name);
        if let (Some(own), Some(most)) = (concurrency, self.concurrency)
            && own > most
        {
            return Err(("concurrency", has(format!("concurrency = {most}"))));
        }
        if let (Some(cap), Some(most)) = (share.cap(), self.share.cap())
            && cap > most
        {
            return Err(("cap", has(format!("cap = {most}"))));
        }
        let rate = |quota: Quota| quota.time().as_secs_f64() / quota.period().as_secs_f64();
        if let (Some(quota), Some(most)) = (share.quota(), self.share.quota())
            && rate(quota) > rate(most)
        {
            return Err(("quota", has(format!("{:?} in each {:?}", most.time(), most.period()))));
        }
        Ok(())
    }
}
