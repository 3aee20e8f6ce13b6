//! A function that does with its services what the request says.
#![no_std]
#![no_main]

use hv_guest::embassy_futures::join::join_array;
use hv_guest::embassy_futures::select::{Either, select};
use hv_guest::embassy_time::{Duration, Timer};
use hv_guest::embedded_io_async::{Read, Write};
use hv_guest::function::{self, IntoResponse, Request, Response, ServeError};
use hv_guest::prelude::*;
use hv_guest::services::{Condition, Entry, Error, TcpStream, UdpSocket, Value, blob, secrets, store};

/// What the services said before the first request.
static EARLY: hv_guest::sync::OnceLock<String> = hv_guest::sync::OnceLock::new();

#[hv_guest::entry]
async fn main() -> Result<(), ServeError> {
    let early = secrets::get("TOKEN").await.map(|_| "a secret".to_owned());
    let _ = EARLY.set(early.unwrap_or_else(|error| format!("{error:?}")));
    function::serve(async |request: Request<'_>| answer(request).await).await
}

fn list(entries: Vec<Entry>) -> Response {
    let lines = entries.iter().map(|entry| format!("{} {}\n", entry.key, entry.size));
    lines.collect::<String>().into_response()
}

fn value(value: Option<Value>) -> Response {
    value.map_or_else(|| Response::status(404), |value| value.bytes.into_response())
}

async fn answer(mut request: Request<'_>) -> Result<Response, Error> {
    let param = |name: &str| request.param(name).map(String::from).unwrap_or_default();
    let number = |name: &str, default: u64| param(name).parse().unwrap_or(default);
    let (name, key) = (param("name"), param("key"));
    // Several functions may have it, each at a path of its own.
    let path = request.path();
    let path = path.rfind('/').map_or(path, |at| &path[at..]);
    Ok(match (request.method(), path) {
        (_, "/early") => EARLY.get().cloned().unwrap_or_default().into_response(),
        (_, "/secret") => secrets::get(&key).await?.as_bytes().to_vec().into_response(),
        // What the guest is told, by name.
        (_, "/why") => match store::open(&name)?.get(&key).await {
            Ok(_) => "ok".into_response(),
            Err(error) => format!("{error:?}").into_response(),
        },
        ("GET", "/store") => value(store::open(&name)?.get(&key).await?),
        ("PUT", "/store") => {
            let bytes = request.read_to_vec(64 << 20).await.unwrap_or_default();
            let condition = match request.param("if").as_deref() {
                Some("absent") => Condition::Absent,
                _ => Condition::Always,
            };
            match store::open(&name)?.put_if(&key, &bytes, condition).await {
                Err(Error::Conflict) => Response::status(409),
                result => result.map(|_| "stored\n")?.into_response(),
            }
        }
        ("DELETE", "/store") => format!("{}\n", store::open(&name)?.delete(&key).await?).into_response(),
        (_, "/keys") => list(store::open(&name)?.list(&key).await?),
        // One more, also if others count at the same time.
        (_, "/add") => {
            let next = |old: Option<&[u8]>| {
                let old = old.and_then(|old| core::str::from_utf8(old).ok()?.parse::<u64>().ok());
                (old.unwrap_or(0) + 1).to_string().into_bytes()
            };
            store::open(&name)?.update(&key, next).await?.into_response()
        }
        // Many operations at a time.
        (_, "/many") => {
            let store = store::open(&name)?;
            let keys: [String; 16] = core::array::from_fn(|n| format!("{key}{n:02}"));
            let puts = keys.each_ref().map(|key| store.put(key, key.as_bytes()));
            for put in join_array(puts).await {
                put?;
            }
            list(store.list(&key).await?)
        }
        ("GET", "/blob") => {
            let (first, end) = (number("first", 0), number("end", u64::MAX));
            let mut reader = match blob::open(&name)?.read_range(&key, first..end).await {
                Err(Error::NotFound) => return Ok(Response::status(404)),
                reader => reader?,
            };
            let size = reader.size().to_string();
            let mut stream = request.stream(Response::new(200).header("X-Size", &size));
            let mut bytes = [0; 4096];
            loop {
                match reader.read(&mut bytes).await? {
                    0 => break stream.finish(),
                    count => stream.write_all(&bytes[..count]).await.map_err(|_| Error::Broken)?,
                }
            }
        }
        ("PUT", "/blob") => {
            let size = request.header("content-length").and_then(|size| size.parse().ok());
            let mut writer = blob::open(&name)?.write(&key, number("size", size.unwrap_or(0)))?;
            let mut bytes = [0; 4096];
            loop {
                match request.read(&mut bytes).await.map_err(|_| Error::Broken)? {
                    0 => break,
                    count => writer.write_all(&bytes[..count]).await?,
                }
            }
            writer.finish().await?;
            "stored\n".into_response()
        }
        ("DELETE", "/blob") => format!("{}\n", blob::open(&name)?.delete(&key).await?).into_response(),
        (_, "/blobs") => list(blob::open(&name)?.list(&key).await?),
        // What the other side sends for what it is sent.
        (_, "/tcp") => {
            let to = param("to");
            let bytes = request.read_to_vec(64 << 20).await.unwrap_or_default();
            let mut stream = TcpStream::connect(&to).await?;
            stream.write_all(&bytes).await?;
            stream.shutdown();
            let mut answer = Vec::new();
            let mut bytes = [0; 4096];
            while let count @ 1.. = stream.read(&mut bytes).await? {
                answer.extend_from_slice(&bytes[..count]);
            }
            answer.into_response()
        }
        (_, "/udp") => {
            let to = param("to");
            let bytes = request.read_to_vec(64 << 10).await.unwrap_or_default();
            let socket = UdpSocket::connect(&to).await?;
            let mut answer = vec![0; 16 << 10];
            // Datagrams may be lost.
            let count = loop {
                socket.send(&bytes).await?;
                match select(socket.recv(&mut answer), Timer::after(Duration::from_millis(500))).await {
                    Either::First(count) => break count?,
                    Either::Second(()) => {}
                }
            };
            answer.truncate(count);
            answer.into_response()
        }
        (_, "/connect") => match TcpStream::connect(&param("to")).await {
            Ok(_) => "connected".into_response(),
            Err(error) => format!("{error:?}").into_response(),
        },
        // So many connections at a time, of which the errors are told.
        (_, "/seats") => {
            let mut open = Vec::new();
            let mut said = String::new();
            for _ in 0..number("n", 1) {
                match TcpStream::connect(&param("to")).await {
                    Ok(stream) => open.push(stream),
                    Err(error) => said = format!("{error:?}"),
                }
            }
            format!("{} {said}", open.len()).into_response()
        }
        // Goes on until the request is ended from outside, with a connection that is open.
        (_, "/hold") => {
            let _stream = TcpStream::connect(&param("to")).await?;
            core::future::pending().await
        }
        // Opens and drops operations as fast as it can, without hearing of any.
        (_, "/flood") => {
            let store = store::open(&name)?;
            for at in 0..number("n", 1) {
                let mut operation = core::pin::pin!(store.get(&key));
                let _ = hv_guest::embassy_futures::poll_once(operation.as_mut());
                if at % 512 == 0 {
                    hv_guest::embassy_futures::yield_now().await;
                }
            }
            "flooded".into_response()
        }
        _ => Response::status(404),
    })
}
