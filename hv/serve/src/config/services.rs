//! What functions reach: their keys that name stores and blobs, secrets and connections.

use super::bindings::BindingSpecs;
use super::error::nearest;
use super::file::{File, FunctionSection, Strings};
use super::validate::{Validator, value};
use super::*;
use hv_host::escape::escape;
use hv_services::{NetLimits, NetSpec, Rule, SecretBytes, Spec, TenantSpec};
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use toml::Spanned;

/// Most bytes of a secret.
const SECRET_MAX: u64 = 64 << 10;
/// Most secrets of a function.
const SECRETS_MAX: usize = 64;

/// The variable in which systemd says where a service's credentials are.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

impl Validator<'_> {
    /// What the tenants share with their functions. A binding that a tenant has is no other's.
    pub(super) fn tenants_services(
        &self,
        file: &File,
        specs: &BindingSpecs,
        reads: &mut Vec<PathBuf>,
    ) -> Result<BTreeMap<String, Spec>, ConfigError> {
        let mut all = BTreeMap::new();
        for (name, tenant) in &file.tenant {
            let limits = TenantSpec {
                name: name.get_ref().clone(),
                operations: self.count("operations", &tenant.operations)?.map(|count| count as u32),
                net_connections: self
                    .count("net_connections", &tenant.net_connections)?
                    .map(|count| count as u32),
                net_rate: self.size("net_rate", &tenant.net_rate)?,
            };
            let is_limited =
                limits.operations.is_some() || limits.net_connections.is_some() || limits.net_rate.is_some();
            let spec = Spec {
                stores: self.named("store", &tenant.store, &specs.stores)?,
                blobs: self.named("blob", &tenant.blob, &specs.blobs)?,
                secrets: self.secrets(&tenant.secrets, reads)?,
                tenant: is_limited.then(|| Arc::new(limits)),
                ..Spec::default()
            };
            all.insert(name.get_ref().clone(), spec);
        }
        for (name, tenant) in &file.tenant {
            self.owned(Some(name.get_ref()), &tenant.store, &tenant.blob, &all)?;
        }
        for function in file.function.values() {
            let tenant = function.tenant.as_ref().map(Spanned::get_ref);
            self.owned(tenant, &function.store, &function.blob, &all)?;
        }
        Ok(all)
    }

    /// Refuses bindings that are another tenant's.
    fn owned(
        &self,
        tenant: Option<&String>,
        stores: &Option<Spanned<Strings>>,
        blobs: &Option<Spanned<Strings>>,
        all: &BTreeMap<String, Spec>,
    ) -> Result<(), ConfigError> {
        let others = || all.iter().filter(|(name, _)| Some(*name) != tenant);
        let owner = |key: &str, binding: &String| {
            others().find(|(_, spec)| match key {
                "store" => spec.stores.iter().any(|store| store.name == *binding),
                _ => spec.blobs.iter().any(|blob| blob.name == *binding),
            })
        };
        for (key, names) in [("store", stores), ("blob", blobs)] {
            let Some(names) = names else { continue };
            for binding in &names.get_ref().0 {
                if let Some((owner, _)) = owner(key, binding) {
                    let why = format!(
                        "it is the tenant `{owner}`'s, whose table names it; remove it there, or make another one"
                    );
                    return Err(self.fail(names, value(key, format!("\"{binding}\""), why)));
                }
            }
        }
        Ok(())
    }

    fn secrets(
        &self,
        written: &BTreeMap<Spanned<String>, Spanned<String>>,
        reads: &mut Vec<PathBuf>,
    ) -> Result<BTreeMap<String, SecretBytes>, ConfigError> {
        let mut secrets = BTreeMap::new();
        for (key, from) in written {
            self.check_name("secrets", key)?;
            if secrets.len() == SECRETS_MAX {
                let why = format!("a table has at most {SECRETS_MAX}");
                return Err(self.fail(key, value("secrets", format!("\"{}\"", key.get_ref()), why)));
            }
            secrets.insert(key.get_ref().clone(), self.secret("secrets", from, reads)?);
        }
        Ok(secrets)
    }

    /// What a function reaches: what its tenant shares, and what its own table names. Of secrets with the same name it has its own.
    pub(super) fn services(
        &self,
        function: &FunctionSection,
        specs: &BindingSpecs,
        of_tenant: Option<&Spec>,
        reads: &mut Vec<PathBuf>,
    ) -> Result<Spec, ConfigError> {
        let mut spec = of_tenant.cloned().unwrap_or_default();
        add(&mut spec.stores, self.named("store", &function.store, &specs.stores)?, |store| &store.name);
        add(&mut spec.blobs, self.named("blob", &function.blob, &specs.blobs)?, |blob| &blob.name);
        spec.secrets.extend(self.secrets(&function.secrets, reads)?);
        spec.net = self.net(function)?;
        if spec.stores.is_empty() && spec.blobs.is_empty() && spec.net.rules.is_empty() {
            // There is nothing to limit.
            spec.tenant = None;
        }
        Ok(spec)
    }

    /// Where a function may connect to.
    fn net(&self, function: &FunctionSection) -> Result<NetSpec, ConfigError> {
        let limits = NetLimits {
            connections: self.count("net_connections", &function.net_connections)?.map(|count| count as u32),
            bytes: self.size("net_bytes", &function.net_bytes)?,
            rate: self.size("net_rate", &function.net_rate)?,
        };
        let Some(list) = &function.net else {
            let limit = [
                ("net_connections", function.net_connections.as_ref().map(Spanned::span)),
                ("net_bytes", function.net_bytes.as_ref().map(Spanned::span)),
                ("net_rate", function.net_rate.as_ref().map(Spanned::span)),
            ];
            if let Some((key, span)) = limit.into_iter().find_map(|(key, span)| Some((key, span?))) {
                let remedy = "remove it, or say what may be connected to: net = \"tcp:example.org:443\"";
                let problem = Problem::Conflict { key, with: "a function without `net`", remedy };
                return Err(ConfigError { location: self.location(span.start), problem });
            }
            return Ok(NetSpec::default());
        };
        let rule = |text: &String| {
            let rule = text.parse::<Rule>();
            rule.map_err(|error| self.fail(list, value("net", format!("\"{text}\""), error.to_string())))
        };
        Ok(NetSpec { rules: list.get_ref().0.iter().map(rule).collect::<Result<_, _>>()?, limits })
    }

    /// The bindings that a function names.
    fn named<S>(
        &self,
        key: &'static str,
        names: &Option<Spanned<Strings>>,
        all: &BTreeMap<String, Arc<S>>,
    ) -> Result<Vec<Arc<S>>, ConfigError> {
        let Some(names) = names else { return Ok(Vec::new()) };
        let mut found: BTreeMap<&String, Arc<S>> = BTreeMap::new();
        for name in &names.get_ref().0 {
            let Some(spec) = all.get(name) else {
                let known: Vec<String> = all.keys().cloned().collect();
                let why = match nearest(name, &known) {
                    Some(nearest) => format!("there is no table [{key}.{name}]; did you mean \"{nearest}\"?"),
                    None => format!("there is no table [{key}.{name}]; add one"),
                };
                return Err(self.fail(names, value(key, format!("\"{name}\""), why)));
            };
            found.insert(name, spec.clone());
        }
        Ok(found.into_values().collect())
    }

    /// Reads a secret. What stands there is never shown: somebody may have written the secret itself.
    pub(super) fn secret(
        &self,
        key: &'static str,
        from: &Spanned<String>,
        reads: &mut Vec<PathBuf>,
    ) -> Result<SecretBytes, ConfigError> {
        let wrong = |shown: String, why: String| self.fail(from, value(key, shown, why));
        let path = match from.get_ref().split_once(':') {
            Some(("file", path)) if !path.is_empty() => self.beside(path),
            Some(("credential", name)) => {
                let shown = || format!("\"credential:{}\"", escape(name));
                if name.is_empty() || name.contains('/') || name.starts_with('.') {
                    return Err(wrong(shown(), "a credential has a name without slashes".into()));
                }
                let Some(folder) = std::env::var_os(CREDENTIALS) else {
                    let why = format!(
                        "{CREDENTIALS} is not set: systemd sets it for services with LoadCredential="
                    );
                    return Err(wrong(shown(), why));
                };
                PathBuf::from(folder).join(name)
            }
            _ => {
                return Err(wrong(
                    "…".into(),
                    "write \"file:PATH\" or \"credential:NAME\", not the secret itself".into(),
                ));
            }
        };
        let shown = format!("\"{}\"", escape(&path));
        let mut bytes = Vec::new();
        let read =
            std::fs::File::open(&path).and_then(|file| file.take(SECRET_MAX + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            return Err(wrong(shown, format!("{error}; let hv's user read it")));
        }
        // The line end that editors put there is not meant.
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if bytes.len() as u64 > SECRET_MAX {
            return Err(wrong(shown, "a secret has at most 64K".into()));
        }
        reads.push(path);
        Ok(SecretBytes::new(bytes))
    }
}

/// Adds those that are not there yet, in the order of their names.
fn add<S>(all: &mut Vec<Arc<S>>, more: Vec<Arc<S>>, name: impl Fn(&S) -> &String) {
    all.extend(more);
    all.sort_by(|one, other| name(one).cmp(name(other)));
    all.dedup_by(|one, other| name(one) == name(other));
}
