//! What the commands do.

use super::pattern::fits;
use super::resp::Reply;
use super::store::{Full, Store};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

const SYNTAX: &str = "ERR syntax error";
const NO_INTEGER: &str = "ERR value is not an integer or out of range";
const OVERFLOW: &str = "ERR increment or decrement would overflow";
const FULL: &str = "OOM command not allowed when used memory > 'maxmemory'.";

/// What a command fails with: the text of an error reply.
type Failure = String;

impl From<Full> for Failure {
    fn from(_: Full) -> Self {
        FULL.into()
    }
}

/// Executes a command at time `now` (in milliseconds), and puts the reply
/// behind `output`. Returns whether the connection goes on.
pub fn execute(store: &mut Store, arguments: &[&[u8]], now: u64, output: &mut Vec<u8>) -> bool {
    let Some((name, arguments)) = arguments.split_first() else { return true };
    store.expire(now);
    let start = output.len();
    let name = String::from_utf8_lossy(name).to_ascii_uppercase();
    let mut reply = Reply(output);
    if let Err(failure) = dispatch(store, &name, arguments, now, &mut reply) {
        // Whatever a command replied before it failed is not sent.
        output.truncate(start);
        Reply(output).error(&failure);
    }
    name != "QUIT"
}

fn dispatch(
    store: &mut Store,
    name: &str,
    arguments: &[&[u8]],
    now: u64,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    match (name, arguments) {
        ("PING", []) => reply.simple("PONG"),
        ("PING", [text]) | ("ECHO", [text]) => reply.bulk(text),
        ("QUIT" | "SELECT" | "CLIENT", _) => reply.simple("OK"),
        ("GET", [key]) => reply.bulk_or_null(store.get(key)),
        ("SET", [key, value, options @ ..]) => set(store, key, value, options, now, reply)?,
        ("DEL" | "UNLINK", [_, ..]) => {
            reply.integer(arguments.iter().filter(|key| store.remove(key)).count() as i64);
        }
        ("EXISTS", [_, ..]) => {
            reply.integer(arguments.iter().filter(|key| store.get(key).is_some()).count() as i64);
        }
        ("INCR", [key]) => add(store, key, Some(1), reply)?,
        ("DECR", [key]) => add(store, key, Some(-1), reply)?,
        ("INCRBY", [key, by]) => add(store, key, Some(integer(by)?), reply)?,
        ("DECRBY", [key, by]) => add(store, key, integer(by)?.checked_neg(), reply)?,
        ("EXPIRE", [key, seconds]) => expire(store, key, integer(seconds)?.checked_mul(1000), now, reply)?,
        ("PEXPIRE", [key, millis]) => expire(store, key, Some(integer(millis)?), now, reply)?,
        ("PERSIST", [key]) => {
            let expires = matches!(store.expiry(key), Some(Some(_)));
            store.set_expiry(key, None);
            reply.integer(expires.into());
        }
        ("TTL", [key]) => reply.integer(left(store, key, now, 1000)),
        ("PTTL", [key]) => reply.integer(left(store, key, now, 1)),
        ("TYPE", [key]) => reply.simple(if store.get(key).is_some() { "string" } else { "none" }),
        ("STRLEN", [key]) => reply.integer(store.get(key).map_or(0, <[u8]>::len) as i64),
        ("MGET", [_, ..]) => {
            reply.array(arguments.len());
            arguments.iter().for_each(|key| reply.bulk_or_null(store.get(key)));
        }
        ("MSET", [_, _, ..]) if arguments.len().is_multiple_of(2) => {
            for pair in arguments.chunks_exact(2) {
                store.set(pair[0], pair[1], None)?;
            }
            reply.simple("OK");
        }
        ("KEYS", [pattern]) => {
            let keys = store.keys(|key| fits(pattern, key));
            reply.array(keys.len());
            keys.into_iter().for_each(|key| reply.bulk(key));
        }
        ("DBSIZE", []) => reply.integer(store.len() as i64),
        ("FLUSHALL" | "FLUSHDB", _) => {
            store.clear();
            reply.simple("OK");
        }
        ("INFO", _) => reply.bulk(info(store, now).as_bytes()),
        ("CONFIG", [verb, rest @ ..]) => config(store, verb, rest, reply)?,
        // Clients ask for hints on what they complete; none is a valid answer.
        ("COMMAND", [verb, ..]) if verb.eq_ignore_ascii_case(b"COUNT") => reply.integer(0),
        ("COMMAND", _) => reply.array(0),
        (
            "ECHO" | "GET" | "SET" | "DEL" | "UNLINK" | "EXISTS" | "INCR" | "DECR" | "INCRBY" | "DECRBY"
            | "EXPIRE" | "PEXPIRE" | "PERSIST" | "TTL" | "PTTL" | "TYPE" | "STRLEN" | "MGET" | "MSET"
            | "KEYS" | "DBSIZE" | "CONFIG" | "PING",
            _,
        ) => {
            let name = name.to_ascii_lowercase();
            return Err(format!("ERR wrong number of arguments for '{name}' command"));
        }
        _ => return Err(format!("ERR unknown command '{}'", printable(name))),
    }
    Ok(())
}

/// Text that stays on the line of an error.
fn printable(text: &str) -> String {
    text.chars().take(64).map(|char| if char.is_control() { ' ' } else { char }).collect()
}

fn integer(digits: &[u8]) -> Result<i64, Failure> {
    let text = core::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'));
    text.and_then(|text| text.parse().ok()).ok_or_else(|| NO_INTEGER.into())
}

fn set(
    store: &mut Store,
    key: &[u8],
    value: &[u8],
    options: &[&[u8]],
    now: u64,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let (mut expires, mut only_if) = (None, None);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let option = option.to_ascii_uppercase();
        match option.as_slice() {
            b"EX" | b"PX" if expires.is_none() => {
                let unit = if option == b"EX" { 1000 } else { 1 };
                let time = integer(options.next().ok_or(SYNTAX)?)?;
                let invalid = || String::from("ERR invalid expire time in 'set' command");
                let millis = u64::try_from(time).ok().filter(|time| *time > 0).ok_or_else(invalid)?;
                let millis = millis.checked_mul(unit).and_then(|millis| now.checked_add(millis));
                expires = Some(millis.ok_or_else(invalid)?);
            }
            b"NX" if only_if.is_none() => only_if = Some(false),
            b"XX" if only_if.is_none() => only_if = Some(true),
            _ => return Err(SYNTAX.into()),
        }
    }
    if only_if.is_some_and(|there| store.get(key).is_some() != there) {
        reply.null();
        return Ok(());
    }
    store.set(key, value, expires)?;
    reply.simple("OK");
    Ok(())
}

fn add(store: &mut Store, key: &[u8], by: Option<i64>, reply: &mut Reply<'_>) -> Result<(), Failure> {
    let before = store.get(key).map_or(Ok(0), integer)?;
    let after = by.and_then(|by| before.checked_add(by)).ok_or(OVERFLOW)?;
    let expires = store.expiry(key).flatten();
    store.set(key, after.to_string().as_bytes(), expires)?;
    reply.integer(after);
    Ok(())
}

fn expire(
    store: &mut Store,
    key: &[u8],
    millis: Option<i64>,
    now: u64,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let millis = millis.ok_or("ERR invalid expire time in 'expire' command")?;
    let done = match u64::try_from(millis) {
        Ok(millis @ 1..) => store.set_expiry(key, Some(now.saturating_add(millis))),
        _ => store.remove(key),
    };
    reply.integer(done.into());
    Ok(())
}

/// Time left to a key, in units of so many milliseconds; -1 for good, -2 without the key.
fn left(store: &Store, key: &[u8], now: u64, unit: u64) -> i64 {
    match store.expiry(key) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => (at.saturating_sub(now) + unit / 2).div_euclid(unit) as i64,
    }
}

fn info(store: &Store, now: u64) -> String {
    let (used, limit) = store.bytes();
    format!(
        "# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\nuptime_in_seconds:{}\r\n\
         # Memory\r\nused_memory:{used}\r\nmaxmemory:{limit}\r\n\
         # Keyspace\r\ndb0:keys={}\r\n",
        now / 1000,
        store.len(),
    )
}

fn config(store: &Store, verb: &[u8], rest: &[&[u8]], reply: &mut Reply<'_>) -> Result<(), Failure> {
    if !verb.eq_ignore_ascii_case(b"GET") {
        return Err("ERR this server has no settings to change".into());
    }
    let limit = store.bytes().1.to_string();
    let all = [("save", ""), ("appendonly", "no"), ("maxmemory", &limit), ("maxmemory-policy", "noeviction")];
    let wanted = |name: &str| rest.iter().any(|pattern| fits(&pattern.to_ascii_lowercase(), name.as_bytes()));
    let found: Vec<_> = all.into_iter().filter(|(name, _)| wanted(name)).collect();
    reply.array(2 * found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(())
}
