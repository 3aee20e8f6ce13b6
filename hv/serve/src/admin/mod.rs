//! What hv answers on the listener `admin`: `/metrics`, `/healthz`, and the API under `/v1/`, which
//! `docs/admin-api.json` describes.
#![forbid(unsafe_code)]

mod access;
mod answer;
mod change;
mod deploy;
mod files;
mod functions;
mod requests;
mod saved;

pub(crate) use saved::Saved;

pub(super) use change::{Change, ChangeQueue};
pub(super) use deploy::UPLOADS;

use super::config::ApiConfig;
use super::front_response::{self, FrontResponse};
use super::server::Server;
use super::upload::Upload;
use answer::{json_text, problem};
use http::header::ALLOW;
use http::request::Parts;
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use std::sync::Arc;

/// The description of the API.
const DOCUMENT: &str = include_str!("../../../../docs/admin-api.json");

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Document,
    List,
    Show,
    Deployments,
    Deploy,
    RollBack,
    Scale,
    Drain,
    Request,
}

/// All operations: the method, the path, what it does.
const OPERATIONS: [(Method, &str, Operation); 9] = [
    (Method::GET, "/v1/openapi.json", Operation::Document),
    (Method::GET, "/v1/functions", Operation::List),
    (Method::GET, "/v1/functions/{function}", Operation::Show),
    (Method::GET, "/v1/functions/{function}/deployments", Operation::Deployments),
    (Method::POST, "/v1/functions/{function}/deployments", Operation::Deploy),
    (Method::POST, "/v1/functions/{function}/rollback", Operation::RollBack),
    (Method::PATCH, "/v1/functions/{function}/scale", Operation::Scale),
    (Method::POST, "/v1/drain", Operation::Drain),
    (Method::GET, "/v1/requests/{request}", Operation::Request),
];

/// Whether a path is one of these, and what stands in the place of its name in braces.
fn matches<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    let mut name = "";
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return Some(name),
            (Some(part), Some(given)) if part.starts_with('{') && !given.is_empty() => name = given,
            (Some(part), Some(given)) if part == given => {}
            _ => return None,
        }
    }
}

/// Answers a request. Its body is read as far as it is needed.
pub(super) async fn answer(
    server: &Arc<Server>,
    request: &Parts,
    body: &mut Option<Upload>,
) -> FrontResponse {
    let path = request.uri.path();
    if let Some(page) = front_response::page(server, path, &request.method).await {
        return page;
    }
    let table = server.table();
    match &table.config.api {
        Some(api) if path.starts_with("/v1/") => api_answer(server, api, request, body).await,
        Some(_) => problem(StatusCode::NOT_FOUND, "only /metrics, /healthz and /v1/ are here"),
        None => FrontResponse::new(StatusCode::NOT_FOUND, "only /metrics and /healthz are here"),
    }
}

async fn api_answer(
    server: &Arc<Server>,
    api: &ApiConfig,
    request: &Parts,
    body: &mut Option<Upload>,
) -> FrontResponse {
    let path = request.uri.path();
    let method = if request.method == Method::HEAD { &Method::GET } else { &request.method };
    let here: Vec<_> = OPERATIONS
        .iter()
        .filter_map(|(method, pattern, operation)| Some((method, *operation, matches(pattern, path)?)))
        .collect();
    let found = here.iter().find(|(known, ..)| *known == method);
    if let Some((_, Operation::Document, _)) = found {
        return json_text(StatusCode::OK, DOCUMENT.into());
    }
    if !access::is_allowed(api, &request.headers) {
        server.refusals().wait().await;
        return access::refusal();
    }
    let Some((_, operation, name)) = found else {
        if here.is_empty() {
            return problem(StatusCode::NOT_FOUND, "no such path; /v1/openapi.json has them");
        }
        let allow: Vec<_> = here.iter().map(|(method, ..)| method.as_str()).collect();
        let text = format!("this path takes {}", allow.join(", "));
        return problem(StatusCode::METHOD_NOT_ALLOWED, &text).with(ALLOW, &allow.join(", "));
    };
    let name = percent_decode_str(name).decode_utf8_lossy();
    let result = match operation {
        Operation::Document => Ok(json_text(StatusCode::OK, DOCUMENT.into())),
        Operation::List => Ok(functions::list(server)),
        Operation::Show => functions::show(server, &name),
        Operation::Deployments => functions::deployments(server, &name),
        Operation::Deploy => deploy::deploy(server, api, &name, request, body).await,
        Operation::RollBack => deploy::roll_back(server, &name).await,
        Operation::Scale => functions::scale(server, &name, request, body).await,
        Operation::Drain => change::drain(server),
        Operation::Request => requests::show(server, &name),
    };
    result.unwrap_or_else(|refusal| refusal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    #[test]
    fn the_document_has_the_operations_and_no_others() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                described.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        let known: BTreeSet<_> =
            OPERATIONS.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
        assert_eq!(described, known);
    }

    #[test]
    fn paths_match_as_a_whole() {
        assert_eq!(matches("/v1/functions/{function}", "/v1/functions/a"), Some("a"));
        assert_eq!(matches("/v1/functions", "/v1/functions"), Some(""));
        for path in ["/v1/functions", "/v1/functions/", "/v1/functions/a/b", "/v1/function/a", "/"] {
            assert_eq!(matches("/v1/functions/{function}", path), None, "{path}");
        }
    }
}
