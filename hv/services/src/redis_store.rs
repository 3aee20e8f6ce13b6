//! Stores in a service that speaks the protocol of Redis.

use crate::dial::Dialer;
use crate::list::Page;
use crate::names::Names;
use crate::refusal::Refusal;
use crate::spec::RedisSpec;
use crate::tls::TlsError;
use hv_abi::io::services::{Condition, Status};
use hv_core::device::services::ServiceRequest;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisConnectionInfo, RedisError,
};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(2);

/// How long an answer may take.
const ANSWERING: Duration = Duration::from_secs(5);

/// Keys that are looked at in one step of a list.
const STEP: usize = 1000;

/// Compares versions as [`version`](crate::store::version) makes them, then changes the value. One step of the service: nobody
/// changes the value in between. 2: there is no such key. 1: done. 0: the condition does not hold.
const CHANGE: &str = "
local value = redis.call('GET', KEYS[1])
if ARGV[1] == 'absent' then
  if value then return 0 end
elseif ARGV[1] ~= 'always' then
  if not value or string.sub(redis.sha1hex(value), 1, 16) ~= ARGV[1] then return 0 end
end
if ARGV[2] == 'delete' then
  if not value then return 2 end
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[3])
end
return 1
";

/// A store in such a service. One connection serves all functions; it is made when it is needed.
pub(crate) struct RedisStore {
    binding: String,
    spec: RedisSpec,
    dialer: Dialer,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl RedisStore {
    pub(crate) fn new(binding: &str, spec: &RedisSpec, names: &Names) -> Result<RedisStore, TlsError> {
        let tls = spec.tls.as_ref().map(|tls| tls.client_config()).transpose()?;
        Ok(RedisStore {
            binding: binding.into(),
            spec: spec.clone(),
            dialer: Dialer::new(&spec.host, spec.port, names, tls),
            connection: Mutex::default(),
        })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.spec.prefix)
    }

    fn unreachable(&self, why: impl Into<String>) -> Refusal {
        Refusal::Unreachable(self.binding.clone(), why.into())
    }

    /// The connection, and whether it was there already.
    async fn connection(&self) -> Result<(MultiplexedConnection, bool), Refusal> {
        let mut place = self.connection.lock().await;
        if let Some(connection) = &*place {
            return Ok((connection.clone(), true));
        }
        let connection = timeout(CONNECTING, self.connect()).await;
        let connection = connection.map_err(|_| self.unreachable("it does not answer"))?;
        let connection = connection.map_err(|why| self.unreachable(why))?;
        Ok((place.insert(connection).clone(), false))
    }

    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let RedisSpec { database, user, password, .. } = &self.spec;
        let stream = self.dialer.connect().await?;
        let mut info = RedisConnectionInfo::default().set_db(*database).set_skip_set_lib_name();
        if let Some(user) = user {
            info = info.set_username(user);
        }
        if let Some(password) = password {
            info = info.set_password(String::from_utf8_lossy(password.reveal()));
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWERING));
        let made = MultiplexedConnection::new_with_config(&info, stream, config).await;
        let (connection, driver) = made.map_err(|error| told(&error))?;
        tokio::spawn(driver);
        Ok(connection)
    }

    /// Sends this, a second time if the service has closed a connection that was idle: only for what may be done twice.
    async fn ask<T: FromRedisValue>(&self, question: &Question) -> Result<T, Refusal> {
        loop {
            let (mut connection, was_there) = self.connection().await?;
            let error = match question.ask(&mut connection).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.is_io_error() && !error.is_unrecoverable_error() && !error.is_timeout() {
                return Err(match error.kind() {
                    ErrorKind::AuthenticationFailed => self.unreachable(told(&error)),
                    _ => Refusal::new(Status::Failed, format!("binding {}: {}", self.binding, told(&error))),
                });
            }
            *self.connection.lock().await = None;
            if !was_there || error.is_timeout() || !question.may_be_repeated() {
                return Err(self.unreachable(told(&error)));
            }
        }
    }

    pub(crate) async fn get(&self, key: &str, most: u64) -> Result<Vec<u8>, Refusal> {
        let key = self.key(key);
        let mut pipeline = redis::pipe();
        // One byte more than allowed shows that it is too large; no more is sent.
        let last = isize::try_from(most).unwrap_or(isize::MAX);
        pipeline.atomic().exists(&key).getrange(&key, 0, last);
        let (exists, value): (bool, Vec<u8>) = self.ask(&Question::Pipeline(pipeline)).await?;
        match exists {
            false => Err(Refusal::new(Status::NotFound, "")),
            true if value.len() as u64 > most => Err(Refusal::new(
                Status::TooLarge,
                format!("the value has more than the {most} bytes that are allowed"),
            )),
            true => Ok(value),
        }
    }

    async fn change(&self, request: &ServiceRequest, what: &str, value: &[u8]) -> Result<(), Refusal> {
        let condition = match request.condition {
            Condition::Always => "always".into(),
            Condition::Absent => "absent".into(),
            Condition::Version => format!("{:016x}", request.first),
        };
        let mut command = redis::cmd("EVAL");
        command.arg(CHANGE).arg(1).arg(self.key(&request.key)).arg(condition).arg(what).arg(value);
        let question = match request.condition {
            Condition::Always => Question::Command(command),
            _ => Question::Once(command),
        };
        match self.ask(&question).await? {
            1 => Ok(()),
            2 => Err(Refusal::new(Status::NotFound, "")),
            0 => Err(Refusal::new(Status::Conflict, "")),
            other => Err(Refusal::new(Status::Failed, format!("the service answered {other}"))),
        }
    }

    pub(crate) async fn put(&self, request: &ServiceRequest, value: &[u8]) -> Result<(), Refusal> {
        self.change(request, "set", value).await
    }

    pub(crate) async fn delete(&self, request: &ServiceRequest) -> Result<(), Refusal> {
        self.change(request, "delete", b"").await
    }

    pub(crate) async fn list(&self, prefix: &str, mut page: Page) -> Result<Page, Refusal> {
        let pattern = format!("{}*", escape_pattern(&self.key(prefix)));
        let mut cursor = 0_u64;
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(STEP);
            let (next, keys): (u64, Vec<Vec<u8>>) = self.ask(&Question::Command(command)).await?;
            for key in keys.into_iter().filter_map(|key| String::from_utf8(key).ok()) {
                if let Some(key) = key.strip_prefix(&self.spec.prefix) {
                    page.offer(key.into(), 0);
                }
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        let keys: Vec<_> = page.keys().cloned().collect();
        if keys.is_empty() {
            return Ok(page);
        }
        let mut pipeline = redis::pipe();
        for key in &keys {
            pipeline.strlen(self.key(key));
        }
        let sizes: Vec<u64> = self.ask(&Question::Pipeline(pipeline)).await?;
        keys.iter().zip(sizes).for_each(|(key, size)| page.set_size(key, size));
        Ok(page)
    }
}

/// What the service is asked.
enum Question {
    Command(Cmd),
    /// A change that must not be made twice.
    Once(Cmd),
    Pipeline(Pipeline),
}

impl Question {
    fn may_be_repeated(&self) -> bool {
        !matches!(self, Question::Once(_))
    }

    async fn ask<T: FromRedisValue>(&self, connection: &mut MultiplexedConnection) -> Result<T, RedisError> {
        match self {
            Question::Command(command) | Question::Once(command) => command.query_async(connection).await,
            Question::Pipeline(pipeline) => pipeline.query_async(connection).await,
        }
    }
}

/// An error, without what was sent.
fn told(error: &RedisError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// A prefix as a pattern that nothing else matches.
fn escape_pattern(prefix: &str) -> String {
    let mut pattern = String::new();
    for character in prefix.chars() {
        if "*?[]\\^-".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_nothing_but_itself() {
        assert_eq!(escape_pattern("a*b[c]?\\"), "a\\*b\\[c\\]\\?\\\\");
    }
}
