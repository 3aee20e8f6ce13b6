//! Deployments by the API: an image that is uploaded, or an image or a snapshot that is named.

use super::answer::{json_value, next, problem, read_json, too_large};
use super::change::{self, Refused};
use super::files::StateFolder;
use super::functions::{deployment, unknown};
use super::saved::Origin;
use crate::config::ApiConfig;
use crate::front_response::FrontResponse;
use crate::server::Server;
use crate::upload::Upload;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Images that are received at a time.
pub(crate) const UPLOADS: usize = 2;

/// What is named.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Named {
    Image(PathBuf),
    Snapshot(PathBuf),
}

/// What is to be deployed.
enum Source {
    /// A file of the folder that has no name yet.
    Received(String),
    Named(Named),
}

/// Deploys a function, and serves it at once if it becomes ready.
pub(super) async fn deploy(
    server: &Arc<Server>,
    api: &ApiConfig,
    name: &str,
    request: &Parts,
    body: &mut Option<Upload>,
) -> Result<FrontResponse, FrontResponse> {
    server.table().named(name).ok_or_else(unknown)?;
    let folder = StateFolder::new(&api.state);
    let kind = request.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let source = match kind.split(';').next().unwrap_or_default().trim() {
        "application/json" => Source::Named(read_json(body).await?),
        "application/octet-stream" => Source::Received(receive(server, api, &folder, body).await?),
        _ => {
            let detail = "send an image as application/octet-stream, or name one in application/json";
            return Err(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
    };
    let name = name.to_owned();
    let shown = change::make(server, move |server| {
        let received = match &source {
            Source::Received(file) => vec![file.clone()],
            Source::Named(_) => Vec::new(),
        };
        let made = install(server, &folder, &name, source);
        if made.is_err() {
            folder.remove(received);
        }
        made
    })
    .await?;
    Ok(json_value(StatusCode::CREATED, &shown))
}

/// On the thread that changes what is served.
fn install(
    server: &Server,
    folder: &StateFolder,
    name: &str,
    source: Source,
) -> Result<serde_json::Value, Refused> {
    let table = server.table();
    table.named(name).ok_or(Refused::NoFunction)?;
    let mut kept = Vec::new();
    let origin = match source {
        Source::Named(Named::Image(path)) => Origin::Image(path),
        Source::Named(Named::Snapshot(path)) => Origin::Snapshot(path),
        Source::Received(part) => {
            let file = format!("{name}.{}.image", table.config.saved.next(name));
            folder.keep(part, file.clone()).map_err(|error| Refused::State(folder.explain(&error)))?;
            kept.push(file.clone());
            Origin::Upload(file)
        }
    };
    let created = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    match change::serve(server, folder, |saved| Ok(saved.deploy(name, origin, created))) {
        Ok(gone) => folder.remove(gone),
        Err(refused) => {
            folder.remove(kept);
            return Err(refused);
        }
    }
    let saved = server.table().config.saved.function(name);
    let id = saved.active();
    server.server_context.events.api_changed(name, &format!("deployment {id} is served"));
    let record = saved.deployments().last();
    Ok(json!({ "function": name, "deployment": deployment(record, &saved) }))
}

/// Receives an image into the folder. Returns the name of its file.
async fn receive(
    server: &Server,
    api: &ApiConfig,
    folder: &StateFolder,
    body: &mut Option<Upload>,
) -> Result<String, FrontResponse> {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let empty = || problem(StatusCode::BAD_REQUEST, "the body is empty; send the image, an ELF file");
    let failed = |error| problem(StatusCode::INTERNAL_SERVER_ERROR, &folder.explain(&error));
    let body = body.as_mut().ok_or_else(empty)?;
    if !body.allow(api.upload) {
        return Err(too_large());
    }
    let Ok(_place) = server.uploads.try_acquire() else {
        let detail = "other images are being received; try again";
        return Err(problem(StatusCode::TOO_MANY_REQUESTS, detail).later());
    };
    let image = folder.receive(NUMBER.fetch_add(1, Ordering::Relaxed)).map_err(failed)?;
    while let Some(bytes) = next(body).await? {
        image.write(bytes).await;
    }
    image.finish().await.map_err(failed)
}

/// Goes back to what was deployed before.
pub(super) async fn roll_back(server: &Arc<Server>, name: &str) -> Result<FrontResponse, FrontResponse> {
    server.table().named(name).ok_or_else(unknown)?;
    let name = name.to_owned();
    let shown = change::make(server, move |server| {
        let table = server.table();
        let (Some(_), Some(api)) = (table.named(&name), &table.config.api) else {
            return Err(Refused::NoFunction);
        };
        let folder = StateFolder::new(&api.state);
        let id = change::serve(server, &folder, |saved| Ok(saved.roll_back(&name)?))?;
        server.server_context.events.api_changed(&name, &format!("rolled back to deployment {id}"));
        let saved = server.table().config.saved.function(&name);
        let record = saved.deployments().iter().find(|record| record.id == id);
        Ok(json!({ "function": name, "deployment": deployment(record, &saved) }))
    })
    .await?;
    Ok(json_value(StatusCode::OK, &shown))
}
