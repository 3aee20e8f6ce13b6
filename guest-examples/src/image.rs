//! PNG images made smaller or larger.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use resize::Pixel::RGBA8P;
use resize::Type::Lanczos3;
use rgb::RGBA8;

/// Bytes of a pixel.
const PIXEL: usize = 4;

/// Why there is no scaled image.
#[derive(Debug)]
pub enum Error {
    /// The bytes are no PNG, or a damaged one.
    NotPng(minipng::Error),
    /// It is a PNG of a kind that is not supported.
    Unsupported(minipng::Error),
    /// An image has no pixels, or more than allowed.
    Size {
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// There is no memory for it.
    NoMemory,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotPng(error) => write!(f, "the body is no PNG image: {error}"),
            Error::Unsupported(error) => write!(f, "this kind of PNG is not supported: {error}"),
            Error::Size { width, height } => {
                write!(f, "an image of {width} x {height} pixels is too large, or empty")
            }
            Error::NoMemory => f.write_str("not enough memory for an image of this size"),
        }
    }
}

impl core::error::Error for Error {}

impl From<minipng::Error> for Error {
    fn from(error: minipng::Error) -> Self {
        match error {
            minipng::Error::UnsupportedInterlace => Error::Unsupported(error),
            error => Error::NotPng(error),
        }
    }
}

/// An image: rows of pixels of four bytes, red, green, blue, alpha.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Its pixels.
    pub pixels: Vec<u8>,
}

/// Bytes for an image of this size, which has at most `limit` pixels.
fn bytes(width: u32, height: u32, limit: usize) -> Result<Vec<u8>, Error> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > limit as u64 {
        return Err(Error::Size { width, height });
    }
    let len = pixels as usize * PIXEL;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Error::NoMemory)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Decodes a PNG of any colour type and depth that has at most `limit` pixels.
///
/// # Errors
///
/// [`Error`]: it is no such image.
pub fn decode(png: &[u8], limit: usize) -> Result<Image, Error> {
    let header = minipng::decode_png_header(png)?;
    let (width, height) = (header.width(), header.height());
    let mut pixels = bytes(width, height, limit)?;
    // Pixels of 16 bits a channel take twice the room until they are converted.
    let room = header.required_bytes().max(header.required_bytes_rgba8bpc());
    pixels.try_reserve_exact(room.saturating_sub(pixels.len())).map_err(|_| Error::NoMemory)?;
    pixels.resize(room, 0);
    minipng::decode_png(png, &mut pixels)?.convert_to_rgba8bpc()?;
    pixels.truncate(width as usize * height as usize * PIXEL);
    Ok(Image { width, height, pixels })
}

/// Scales an image to another size, which has at most `limit` pixels.
///
/// # Errors
///
/// [`Error::Size`], [`Error::NoMemory`].
pub fn scale(image: &Image, width: u32, height: u32, limit: usize) -> Result<Image, Error> {
    let mut pixels = bytes(width, height, limit)?;
    let [from, rows, to, new_rows] = [image.width, image.height, width, height].map(|n| n as usize);
    // Premultiplied: transparent pixels do not lend their colour to their neighbours.
    resize::new(from, rows, to, new_rows, RGBA8P, Lanczos3)
        .and_then(|mut resizer| {
            let source: &[RGBA8] = bytemuck::cast_slice(&image.pixels);
            resizer.resize(source, bytemuck::cast_slice_mut(&mut pixels))
        })
        .map_err(|_| Error::NoMemory)?;
    Ok(Image { width, height, pixels })
}

/// Encodes an image as a PNG with eight bits a channel.
pub fn encode(image: &Image) -> Vec<u8> {
    let stride = image.width as usize * PIXEL;
    // Each row has the difference to the one above it: that packs well and is cheap to make.
    const UP: u8 = 2;
    let mut above = &*vec![0; stride];
    let mut filtered = Vec::with_capacity((stride + 1) * image.height as usize);
    for row in image.pixels.chunks_exact(stride) {
        filtered.push(UP);
        filtered.extend(row.iter().zip(above).map(|(byte, above)| byte.wrapping_sub(*above)));
        above = row;
    }
    let data = miniz_oxide::deflate::compress_to_vec_zlib(&filtered, 6);
    let mut png = Vec::with_capacity(data.len() + 64);
    png.extend(b"\x89PNG\r\n\x1a\n");
    let mut header = Vec::with_capacity(13);
    header.extend(image.width.to_be_bytes());
    header.extend(image.height.to_be_bytes());
    // Eight bits, colour with alpha, the only compression and filters that there are, not interlaced.
    header.extend([8, 6, 0, 0, 0]);
    chunk(&mut png, b"IHDR", &header);
    chunk(&mut png, b"IDAT", &data);
    chunk(&mut png, b"IEND", &[]);
    png
}

fn chunk(png: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    png.extend((data.len() as u32).to_be_bytes());
    let start = png.len();
    png.extend(kind);
    png.extend(data);
    let check = crc32fast::hash(&png[start..]);
    png.extend(check.to_be_bytes());
}
