//! A function that counts its visitors, in a store that all of its instances share.
//!
//! ```text
//! # hv.toml
//! [store.visits]
//! folder = "visits"
//!
//! [function.counter]
//! path = "/count"
//! image = "fn-counter"
//! store = "visits"
//! ```
//!
//! ```text
//! curl http://127.0.0.1:8080/count
//! ```
#![no_std]
#![no_main]

use hv_guest::function::{self, Request, ServeError};
use hv_guest::prelude::*;
use hv_guest::services::{Error, store};

#[hv_guest::entry]
async fn main() -> Result<(), ServeError> {
    function::serve(async |_: Request<'_>| count().await.map(|visitor| format!("visitor {visitor}\n"))).await
}

/// Counts one more visitor. Others count at the same time.
async fn count() -> Result<u64, Error> {
    let number = |text: &[u8]| core::str::from_utf8(text).ok()?.parse::<u64>().ok();
    let next = |old: Option<&[u8]>| (old.and_then(number).unwrap_or(0) + 1).to_string().into_bytes();
    let new = store::open("visits")?.update("count", next).await?;
    Ok(number(&new).unwrap_or(0))
}
