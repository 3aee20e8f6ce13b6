//! Functions as the API shows them, and their scales.

use super::answer::{json_value, problem, read_json};
use super::change;
use super::files::StateFolder;
use super::saved::{DeploymentRecord, Origin, SavedFunction, ScaleChange};
use crate::config::Config;
use crate::front_response::FrontResponse;
use crate::server::Server;
use crate::table::Served;
use crate::upload::Upload;
use http::StatusCode;
use http::request::Parts;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// All functions.
pub(super) fn list(server: &Server) -> FrontResponse {
    let table = server.table();
    let functions: Vec<_> = table.served().iter().map(|served| function(&table.config, served)).collect();
    json_value(StatusCode::OK, &json!({ "functions": functions }))
}

/// One function.
pub(super) fn show(server: &Server, name: &str) -> Result<FrontResponse, FrontResponse> {
    let table = server.table();
    let served = table.named(name).ok_or_else(unknown)?;
    Ok(json_value(StatusCode::OK, &function(&table.config, served)))
}

/// What was deployed of a function, the newest first.
pub(super) fn deployments(server: &Server, name: &str) -> Result<FrontResponse, FrontResponse> {
    let table = server.table();
    table.named(name).ok_or_else(unknown)?;
    let saved = table.config.saved.function(name);
    let mut all: Vec<_> =
        saved.deployments().iter().rev().map(|record| deployment(Some(record), &saved)).collect();
    all.push(deployment(None, &saved));
    Ok(json_value(StatusCode::OK, &json!({ "deployments": all })))
}

pub(super) fn unknown() -> FrontResponse {
    problem(StatusCode::NOT_FOUND, "no such function; GET /v1/functions lists those that there are")
}

/// One deployment; `None` is what the configuration names.
pub(super) fn deployment(record: Option<&DeploymentRecord>, saved: &SavedFunction) -> Value {
    let Some(DeploymentRecord { id, created, origin, .. }) = record else {
        return json!({"id": 0, "from": "configuration", "created": null, "active": saved.active() == 0});
    };
    let (from, path) = match origin {
        Origin::Upload(file) => ("upload", file.clone()),
        Origin::Image(path) => ("image", path.to_string_lossy().into_owned()),
        Origin::Snapshot(path) => ("snapshot", path.to_string_lossy().into_owned()),
    };
    json!({"id": id, "from": from, "path": path, "created": created, "active": saved.active() == *id})
}

fn function(config: &Config, served: &Served) -> Value {
    let saved = config.saved.function(served.name());
    let (own, figures) = (served.config(), served.figures());
    let millis = |time: Duration| format!("{}ms", time.as_secs_f64() * 1000.0);
    let quota = own.share.quota().map(|quota| format!("{}/{}", millis(quota.time()), millis(quota.period())));
    json!({
        "name": &**served.name(),
        "tenant": own.deployment.tenant,
        "paths": own.paths,
        "deployment": saved.active(),
        "source": own.deployment.source.path().to_string_lossy(),
        "scale": {
            "min_warm": own.min_warm,
            "max_instances": figures.max_instances,
            "weight": own.share.weight(),
            "cap": own.share.cap(),
            "concurrency": own.deployment.concurrency,
            "quota": quota,
        },
        "changed": saved.scale,
        "instances": {"starting": figures.starting, "ready": figures.idle, "busy": figures.live},
        "waiting": figures.waiting,
        "answered": figures.answered,
    })
}

/// What a client wants to change: a value, `null` for what the configuration says, or nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    #[serde(default, deserialize_with = "given")]
    min_warm: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    max_instances: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    weight: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    cap: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    concurrency: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    quota: Option<Option<String>>,
}

/// What is there, be it `null`.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Patch {
    fn apply(&self, scale: &mut ScaleChange) {
        for (new, old) in [
            (self.min_warm, &mut scale.min_warm),
            (self.max_instances, &mut scale.max_instances),
            (self.weight, &mut scale.weight),
            (self.cap, &mut scale.cap),
            (self.concurrency, &mut scale.concurrency),
        ] {
            if let Some(new) = new {
                *old = new;
            }
        }
        if let Some(quota) = &self.quota {
            scale.quota.clone_from(quota);
        }
    }
}

/// Changes the scale of a function.
pub(super) async fn scale(
    server: &Arc<Server>,
    name: &str,
    _request: &Parts,
    body: &mut Option<Upload>,
) -> Result<FrontResponse, FrontResponse> {
    let patch: Patch = read_json(body).await?;
    let name = name.to_owned();
    let changed = name.clone();
    change::make(server, move |server| {
        let table = server.table();
        let (Some(_), Some(api)) = (table.named(&changed), &table.config.api) else {
            return Err(change::Refused::NoFunction);
        };
        change::serve(server, &StateFolder::new(&api.state), |saved| {
            let mut scale = saved.function(&changed).scale;
            patch.apply(&mut scale);
            saved.scale(&changed, scale);
            Ok(())
        })?;
        server.server_context.events.api_changed(&changed, "scaled");
        Ok(())
    })
    .await?;
    show(server, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let mut scale = ScaleChange { min_warm: Some(1), weight: Some(2), ..ScaleChange::default() };
        let patch: Patch = serde_json::from_str(r#"{"weight": null, "cap": 50}"#).unwrap();
        patch.apply(&mut scale);
        assert_eq!(scale, ScaleChange { min_warm: Some(1), cap: Some(50), ..ScaleChange::default() });
        assert!(serde_json::from_str::<Patch>(r#"{"waight": 1}"#).is_err());
    }
}
