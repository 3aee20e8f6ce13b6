//! A function that scales PNG images.
//!
//! ```text
//! hv serve --listen 127.0.0.1:8080 --function /scale=fn-image
//! curl 'http://127.0.0.1:8080/scale?w=64' --data-binary @photo.png -o small.png
//! ```
//!
//! `w` and `h` are pixels; the one that is left out follows from the image's
//! proportions. Every colour type and depth is read, interlaced images excepted; the
//! answer has colour and alpha with eight bits each.
//!
//! 400: the query or the body is not what it has to be; 413: too many bytes or
//! pixels (more memory allows more of them); 422: a PNG that cannot be read here.
#![no_std]
#![no_main]

use hv_guest::function::{self, Error, Request, Response, ServeError};
use hv_guest::prelude::*;
use hv_guest_examples::image::{self, Image};

#[hv_guest::entry]
async fn main() -> Result<(), ServeError> {
    function::serve(async |request: Request<'_>| match scaled(request).await {
        Ok(png) => Response::new(200).header("Content-Type", "image/png").body(png),
        Err((status, reason)) => Response::new(status)
            .header("Content-Type", "text/plain; charset=utf-8")
            .body(format!("{reason}\n").into_bytes()),
    })
    .await
}

async fn scaled(mut request: Request<'_>) -> Result<Vec<u8>, (u16, String)> {
    if request.method() != "POST" {
        return Err((405, "send a PNG image with POST".into()));
    }
    let (width, height) = (pixels(&request, "w")?, pixels(&request, "h")?);
    // The body, two images and what scales them are there at a time.
    let heap = hv_guest::heap_size();
    let body = request.read_to_vec(heap / 8).await.map_err(|error| match error {
        Error::TooLong => (413, format!("the image has more than {} bytes", heap / 8)),
        error => (503, error.to_string()),
    })?;
    let limit = heap / 32;
    let image = image::decode(&body, limit).map_err(refused)?;
    let (width, height) = size(&image, width, height)?;
    let scaled = image::scale(&image, width, height, limit).map_err(refused)?;
    Ok(image::encode(&scaled))
}

/// A number of pixels in the query.
fn pixels(request: &Request<'_>, name: &str) -> Result<Option<u32>, (u16, String)> {
    let Some(value) = request.param(name) else { return Ok(None) };
    match value.parse() {
        Ok(number @ 1..) => Ok(Some(number)),
        _ => Err((400, format!("{name}={value} is no number of pixels"))),
    }
}

/// The size that is wanted, in the image's proportions where one side is left out.
fn size(image: &Image, width: Option<u32>, height: Option<u32>) -> Result<(u32, u32), (u16, String)> {
    let part = |length: u32, of: u32, by: u32| {
        let scaled = u64::from(length) * u64::from(of) / u64::from(by);
        u32::try_from(scaled.max(1)).unwrap_or(u32::MAX)
    };
    match (width, height) {
        (Some(width), Some(height)) => Ok((width, height)),
        (Some(width), None) => Ok((width, part(image.height, width, image.width))),
        (None, Some(height)) => Ok((part(image.width, height, image.height), height)),
        (None, None) => Err((400, "say how large the image is to be: ?w=WIDTH, ?h=HEIGHT, or both".into())),
    }
}

fn refused(error: image::Error) -> (u16, String) {
    let status = match error {
        image::Error::NotPng(_) => 400,
        image::Error::Unsupported(_) => 422,
        image::Error::Size { .. } | image::Error::NoMemory => 413,
    };
    (status, error.to_string())
}
