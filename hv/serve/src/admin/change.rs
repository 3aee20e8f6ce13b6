//! ChangeQueue of what is served that the API makes. They are made one after the other, as reloads are, on a thread that
//! may boot functions.

use super::answer::{json_value, problem};
use super::files::StateFolder;
use super::saved::{FILE, NothingBefore, Saved};
use crate::config::ConfigError;
use crate::error::ServeError;
use crate::front_response::FrontResponse;
use crate::reload::told;
use crate::run::plan;
use crate::server::Server;
use crate::table::Table;
use http::StatusCode;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Something that changes what is served.
pub(crate) enum Change {
    /// This function is to get another layout.
    Relayout(Arc<str>),
    /// Something of the API.
    Api(Box<dyn FnOnce(&Server) + Send>),
    /// The server is to end.
    Drain,
}

/// Takes changes. Each layout asks at most once for another, and each connection of `admin` has a bounded number of requests.
pub(crate) type ChangeQueue = mpsc::UnboundedSender<Change>;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("no such function")]
    NoFunction,
    #[error(transparent)]
    NothingBefore(#[from] NothingBefore),
    /// The functions would not run so.
    #[error("{}", told(.0))]
    Serve(#[from] ServeError),
    /// The folder does not take it.
    #[error("{0}")]
    State(String),
}

impl From<ConfigError> for Refused {
    fn from(error: ConfigError) -> Self {
        Refused::Serve(error.into())
    }
}

impl Refused {
    fn answer(&self) -> FrontResponse {
        let status = match self {
            Refused::NoFunction => StatusCode::NOT_FOUND,
            Refused::NothingBefore(_) => StatusCode::CONFLICT,
            Refused::Serve(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refused::State(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        problem(status, &self.to_string())
    }
}

/// Makes a change, and waits for it. It is made also if nobody waits any more.
pub(super) async fn make<T: Send + 'static>(
    server: &Server,
    change: impl FnOnce(&Server) -> Result<T, Refused> + Send + 'static,
) -> Result<T, FrontResponse> {
    let ending =
        || problem(StatusCode::SERVICE_UNAVAILABLE, "the server drains, and changes nothing any more");
    let (done, wait) = oneshot::channel();
    let work = Box::new(move |server: &Server| drop(done.send(change(server))));
    if server.is_draining() || server.server_context.changes.send(Change::Api(work)).is_err() {
        return Err(ending());
    }
    let made = wait.await.map_err(|_| ending())?;
    made.map_err(|refused| refused.answer())
}

/// Serves what `edit` makes of the changes so far, and keeps it: all of that, or nothing. Blocks.
pub(super) fn serve<T>(
    server: &Server,
    folder: &StateFolder,
    edit: impl FnOnce(&mut Saved) -> Result<T, Refused>,
) -> Result<T, Refused> {
    let old = server.table();
    let mut config = old.config.clone();
    let mut saved = config.saved.clone();
    let result = edit(&mut saved)?;
    config.apply(saved)?;
    plan(&config)?;
    let (table, _) = Table::deploy(config, &server.server_context, Some(&old))?;
    let text = table.config.saved.text();
    folder.replace(FILE, text).map_err(|error| Refused::State(folder.explain(&error)))?;
    drop(server.replace(table));
    Ok(result)
}

/// Ends the server as SIGTERM does.
pub(super) fn drain(server: &Server) -> Result<FrontResponse, FrontResponse> {
    // Without a receiver it is draining already.
    let _ = server.server_context.changes.send(Change::Drain);
    Ok(json_value(StatusCode::ACCEPTED, &json!({ "draining": true })))
}
