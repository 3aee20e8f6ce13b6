//! A function that greets.
//!
//! ```text
//! hv serve --listen 127.0.0.1:8080 --function /hello=fn-hello
//! curl 'http://127.0.0.1:8080/hello?name=Ada'
//! ```
#![no_std]
#![no_main]

use hv_guest::function::{self, Request, ServeError};
use hv_guest::prelude::*;

#[hv_guest::entry]
async fn main() -> Result<(), ServeError> {
    function::serve(async |request: Request<'_>| {
        format!("Hello, {}!\n", request.param("name").as_deref().unwrap_or("world"))
    })
    .await
}
