//! What the API has changed, as it is kept in the folder `state`: deployments and scales of the functions that the
//! configuration names. Pure but for reading files.

use crate::config::{
    Config, ConfigError, FileVersion, FunctionConfig, Location, Problem, Source, check_scale, parse_quota,
};
use hv_core::domain::DEFAULT_MEMORY;
use hv_core::sched::Share;
use hv_host::escape::escape;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The file in the folder.
pub(crate) const FILE: &str = "deployments.json";

/// Most bytes of it that are read.
const FILE_MAX: u64 = 16 << 20;

/// Deployments of a function that are kept.
pub(crate) const KEPT: usize = 10;

/// The version of the file's format.
const VERSION: u32 = 1;

/// All changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    version: u32,
    functions: BTreeMap<String, SavedFunction>,
}

impl Default for Saved {
    fn default() -> Self {
        Saved { version: VERSION, functions: BTreeMap::new() }
    }
}

/// The changes of one function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedFunction {
    /// The number of the last deployment.
    last: u64,
    /// That of the one that is served; 0: what the configuration names.
    active: u64,
    /// The oldest first.
    deployments: Vec<DeploymentRecord>,
    #[serde(default)]
    pub(crate) scale: ScaleChange,
}

/// One deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeploymentRecord {
    pub(crate) id: u64,
    /// The one that it took the place of.
    before: u64,
    /// RFC 3339.
    pub(crate) created: String,
    #[serde(flatten)]
    pub(crate) origin: Origin,
}

/// What was deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// An image in the folder.
    Upload(String),
    /// An image elsewhere, relative to the configuration.
    Image(PathBuf),
    /// A snapshot, relative to the configuration.
    Snapshot(PathBuf),
}

/// What differs from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScaleChange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) min_warm: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_instances: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cap: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) concurrency: Option<u32>,
    /// As the configuration writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quota: Option<String>,
}

/// There is no deployment to go back to.
#[derive(Debug, thiserror::Error)]
#[error("nothing was deployed before what is served now")]
pub(crate) struct NothingBefore;

impl SavedFunction {
    /// The number of the one that is served.
    pub(crate) fn active(&self) -> u64 {
        self.active
    }

    /// The oldest first.
    pub(crate) fn deployments(&self) -> &[DeploymentRecord] {
        &self.deployments
    }

    fn find(&self, id: u64) -> Option<&DeploymentRecord> {
        self.deployments.iter().find(|record| record.id == id)
    }
}

impl Saved {
    /// Reads the file in a folder. One that is not there says nothing.
    pub(crate) fn read(folder: &Path) -> Result<Saved, ConfigError> {
        let path = folder.join(FILE);
        let fail = |why: String| ConfigError {
            location: Location::File(path.clone()),
            problem: Problem::Saved(why),
        };
        let mut text = String::new();
        let read = std::fs::File::open(&path).and_then(|file| {
            use io::Read;
            file.take(FILE_MAX).read_to_string(&mut text)
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
            Err(error) => return Err(fail(format!("cannot read it: {error}; let hv's user read it"))),
            Ok(_) => {}
        }
        let saved: Saved = serde_json::from_str(&text).map_err(|error| {
            fail(format!("{error}; restore the file, or remove it to serve what the configuration names"))
        })?;
        match saved.version {
            VERSION => Ok(saved),
            other => {
                Err(fail(format!("version {other}, and this hv knows {VERSION}; use the hv that wrote it")))
            }
        }
    }

    /// The text of the file.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("strings and numbers");
        text.push(b'\n');
        text
    }

    /// Images and snapshots elsewhere that were deployed.
    pub(crate) fn named(&self) -> impl Iterator<Item = &Path> {
        let records = self.functions.values().flat_map(|function| &function.deployments);
        records.filter_map(|record| match &record.origin {
            Origin::Upload(_) => None,
            Origin::Image(path) | Origin::Snapshot(path) => Some(path.as_path()),
        })
    }

    /// What was changed of a function.
    pub(crate) fn function(&self, name: &str) -> SavedFunction {
        self.functions.get(name).cloned().unwrap_or_default()
    }

    /// The number that the next deployment of a function gets.
    pub(crate) fn next(&self, name: &str) -> u64 {
        self.functions.get(name).map_or(1, |function| function.last + 1)
    }

    /// A function is deployed. Returns files of the folder that are needed no more.
    pub(crate) fn deploy(&mut self, name: &str, origin: Origin, created: String) -> Vec<String> {
        let function = self.functions.entry(name.into()).or_default();
        function.last += 1;
        let (id, before) = (function.last, function.active);
        function.deployments.push(DeploymentRecord { id, before, created, origin });
        function.active = id;
        let surplus = function.deployments.len().saturating_sub(KEPT);
        let oldest = function.deployments.iter().filter(|record| record.id != before && record.id != id);
        let gone: Vec<u64> = oldest.take(surplus).map(|record| record.id).collect();
        let files = function.deployments.extract_if(.., |record| gone.contains(&record.id));
        files
            .filter_map(|record| match record.origin {
                Origin::Upload(file) => Some(file),
                _ => None,
            })
            .collect()
    }

    /// A function goes back to what was deployed before. Returns the number of that.
    pub(crate) fn roll_back(&mut self, name: &str) -> Result<u64, NothingBefore> {
        let function = self.functions.get_mut(name).ok_or(NothingBefore)?;
        let before = function.find(function.active).ok_or(NothingBefore)?.before;
        if before != 0 && function.find(before).is_none() {
            return Err(NothingBefore);
        }
        function.active = before;
        Ok(before)
    }

    /// Changes the scale of a function.
    pub(crate) fn scale(&mut self, name: &str, scale: ScaleChange) {
        self.functions.entry(name.into()).or_default().scale = scale;
    }

    /// What is served of the functions that the configuration names.
    pub(crate) fn apply(&self, config: &Config) -> Result<Vec<FunctionConfig>, ConfigError> {
        let Some(api) = &config.api else { return Ok(config.configured.clone()) };
        let apply = |function: &FunctionConfig| match self.functions.get(&function.name) {
            None => Ok(function.clone()),
            Some(saved) => saved.apply(function, &api.state, config).map_err(|why| ConfigError {
                location: Location::File(api.state.join(FILE)),
                problem: Problem::Saved(format!("function {}: {why}", function.name)),
            }),
        };
        config.configured.iter().map(apply).collect()
    }
}

impl SavedFunction {
    fn apply(
        &self,
        configured: &FunctionConfig,
        state: &Path,
        config: &Config,
    ) -> Result<FunctionConfig, String> {
        let folder = &config.folder;
        let mut function = configured.clone();
        if let Some(record) = self.find(self.active) {
            let source = record.source(&configured.deployment.source, state, folder);
            let version = FileVersion::of(source.path()).map_err(|error| {
                let path = escape(source.path());
                format!(
                    "deployment {}: {path}: {error}; bring it back, or roll back before it is gone",
                    record.id
                )
            })?;
            function.deployment.source = source;
            function.deployment.version = version;
        }
        self.scale.apply(&mut function, config)?;
        Ok(function)
    }
}

impl ScaleChange {
    /// The error says what is wrong, and what to do.
    fn apply(&self, function: &mut FunctionConfig, config: &Config) -> Result<(), String> {
        let ScaleChange { min_warm, max_instances, weight, cap, concurrency, quota } = self;
        if let Some(min_warm) = min_warm {
            function.min_warm = *min_warm as usize;
        }
        for (key, most) in [("max_instances", max_instances), ("concurrency", concurrency)] {
            if *most == Some(0) {
                return Err(format!("{key} = 0: nothing would ever be answered; use 1 or more"));
            }
        }
        if let Some(most) = max_instances {
            function.max_instances = Some(*most as usize);
        }
        if let Some(concurrency) = concurrency {
            let concurrency = *concurrency as usize;
            if let Some(guests) = config.guests.filter(|guests| concurrency > *guests) {
                return Err(format!("concurrency = {concurrency}: the whole server has guests = {guests}"));
            }
            if let Some(most) = function.max_instances.filter(|most| concurrency > *most) {
                return Err(format!(
                    "concurrency = {concurrency}: max_instances is {most}, and each request has an instance"
                ));
            }
            function.deployment.concurrency = concurrency;
        }
        check_scale(function.min_warm, function.max_instances, function.deployment.concurrency)
            .map_err(|why| format!("min_warm = {}: {why}", function.min_warm))?;
        let old = function.share;
        let share = Share::new(weight.unwrap_or(old.weight()), cap.or(old.cap()).unwrap_or(0));
        let quota = match quota {
            Some(text) => Some(parse_quota(text).map_err(|problem| problem.to_string())?),
            None => old.quota(),
        };
        function.share = share.map_err(|error| error.to_string())?.with_quota(quota);
        let tenant =
            config.tenants.iter().find(|tenant| Some(&tenant.name) == function.deployment.tenant.as_ref());
        if let (Some(tenant), true) = (tenant, *self != ScaleChange::default()) {
            let concurrency = concurrency.map(|count| count as usize);
            tenant.check(concurrency, function.share).map_err(|(key, why)| format!("{key}: {why}"))?;
        }
        Ok(())
    }
}

impl DeploymentRecord {
    /// The source, with what the configuration says besides: memory, arguments, disks.
    fn source(&self, configured: &Source, state: &Path, folder: &Path) -> Source {
        let disks = configured.disks().to_vec();
        let new = match &self.origin {
            Origin::Upload(file) => state.join(file),
            Origin::Image(path) => folder.join(path),
            Origin::Snapshot(path) => return Source::Snapshot { path: folder.join(path), disks },
        };
        match configured {
            Source::Image { .. } => {
                let mut source = configured.clone();
                if let Source::Image { path, .. } = &mut source {
                    *path = new;
                }
                source
            }
            Source::Snapshot { .. } => Source::Image {
                path: new,
                memory: DEFAULT_MEMORY,
                stack: None,
                arguments: Vec::new(),
                environment: Vec::new(),
                disks,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_back_to_what_was_served_before() {
        let mut saved = Saved::default();
        assert!(saved.roll_back("f").is_err());
        let upload = |id: u64| Origin::Upload(format!("f.{id}.image"));
        for id in 1..=3 {
            assert_eq!(saved.next("f"), id);
            assert!(saved.deploy("f", upload(id), String::new()).is_empty());
        }
        assert_eq!(saved.roll_back("f").unwrap(), 2);
        // The next one takes the place of 2, not of 3.
        saved.deploy("f", upload(4), String::new());
        assert_eq!([2, 1, 0].map(|_| saved.roll_back("f").unwrap()), [2, 1, 0]);
        assert!(saved.roll_back("f").is_err(), "the configuration is the first");
        let text = saved.text();
        assert_eq!(serde_json::from_slice::<Saved>(&text).unwrap(), saved);
    }

    #[test]
    fn only_so_many_are_kept() {
        let mut saved = Saved::default();
        let mut removed = Vec::new();
        for id in 1..=100 {
            removed.extend(saved.deploy("f", Origin::Upload(format!("{id}")), String::new()));
        }
        let kept = saved.function("f");
        assert_eq!(kept.deployments().len(), KEPT);
        assert_eq!((removed.len(), kept.active()), (100 - KEPT, 100));
        for id in (91..100).rev() {
            assert_eq!(saved.roll_back("f").unwrap(), id);
        }
        assert!(saved.roll_back("f").is_err(), "90 is gone");
        assert_eq!(saved.function("f").active(), 91, "it stays");
    }
}
