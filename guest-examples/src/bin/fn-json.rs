//! A function that computes statistics over the numbers of a JSON body.
//!
//! ```text
//! hv serve --listen 127.0.0.1:8080 --function /stats=fn-json
//! curl http://127.0.0.1:8080/stats --data '{"numbers": [3, 1, 4, 1, 5, 9, 2.6]}'
//! ```
//!
//! It answers with `count`, `min`, `max`, `mean`, `median` and `deviation`, or with 400 and `error`.
#![no_std]
#![no_main]

use hv_guest::function::{self, Error, Request, Response, ServeError};
use hv_guest::prelude::*;
use hv_guest_examples::statistics;
use serde::{Deserialize, Serialize};

/// Most bytes of a body.
const LIMIT: usize = 4 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    numbers: Vec<f64>,
}

#[derive(Serialize)]
struct Refusal<'a> {
    error: &'a str,
}

#[hv_guest::entry]
async fn main() -> Result<(), ServeError> {
    function::serve(async |mut request: Request<'_>| {
        if request.method() != "POST" {
            return refuse(405, "send the numbers with POST").header("Allow", "POST");
        }
        match request.read_to_vec(LIMIT).await {
            Ok(body) => answer(&body),
            Err(error @ Error::TooLong) => refuse(413, &error.to_string()),
            Err(error) => refuse(503, &error.to_string()),
        }
    })
    .await
}

fn answer(body: &[u8]) -> Response {
    match serde_json::from_slice::<Question>(body) {
        Ok(question) => match statistics::of(question.numbers) {
            Some(statistics) => json(200, &statistics),
            None => refuse(400, "there are no numbers"),
        },
        Err(error) => refuse(400, &error.to_string()),
    }
}

fn refuse(status: u16, error: &str) -> Response {
    json(status, &Refusal { error })
}

fn json(status: u16, value: &impl Serialize) -> Response {
    // Neither of the two has anything that JSON cannot say.
    Response::json(status, serde_json::to_string(value).unwrap_or_default() + "\n")
}
