//! Changes of what a running server serves: by a new configuration, or after crashes.
#![forbid(unsafe_code)]

use super::config::{ApiConfig, Config, ConfigError};
use super::error::ServeError;
use super::run::{Reader, plan};
use super::server::Server;
use super::table::Table;
use super::time_limit::within;
use super::tls::{AdminTls, Certificates};
use hv_host::limits;
use hv_jail as jail;
use hv_jail::Kind;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long a reload may read its configuration, and look for what that names.
const READING: Duration = Duration::from_secs(10);

/// Makes a change of what is served, on a thread that may boot functions, once the change before has been made.
pub(super) async fn after(before: Option<JoinHandle<()>>, change: Box<dyn FnOnce() + Send>) {
    if let Some(before) = before {
        let _ = before.await;
    }
    let (done, wait) = oneshot::channel();
    let thread = jail::spawn(Kind::Deploy, "hv-deploy", move || {
        change();
        let _ = done.send(());
    });
    match thread {
        Ok(_) => drop(wait.await),
        Err(error) => tracing::error!("no thread to change what is served: {}", limits::explain(&error)),
    }
}

/// Boots a function again whose guests have crashed often, at another address.
pub(super) fn relayout(server: &Server, name: &str) {
    if let Some(table) = server.table().relayout(name, &server.server_context) {
        drop(server.replace(table));
    }
}

/// Reads the configuration again, and serves what it says; or goes on as before.
pub(super) fn reload(server: &Server, reader: &Arc<Reader>) {
    let server_context = &server.server_context;
    let old = server.table();
    server.telemetry.log.reopen();
    let changed = read(reader).and_then(|config| {
        let certificates = Certificates::read(&config.certificates)?;
        let admin_tls = AdminTls::of(&config)?;
        Ok((Table::deploy(config, server_context, Some(&old))?, certificates, admin_tls))
    });
    server.telemetry.metrics.reloaded(changed.is_ok());
    match changed {
        Err(error) => server_context.events.reload_refused(&told(&error)),
        Ok(((table, changes), certificates, admin_tls)) => {
            let fixed = fixed_changes(&old.config, &table.config);
            drop(server.replace(table));
            certificates.tell_of_ends(SystemTime::now(), &server_context.events);
            server.tls.replace(certificates);
            if let (Some(admin), Some(tls)) = (&server.admin_tls, admin_tls) {
                admin.replace(tls);
            }
            server_context.events.reloaded(changes.deployed, changes.kept, changes.removed);
            if !fixed.is_empty() {
                server_context.events.needs_restart(&fixed);
            }
        }
    }
}

/// Reads and validates the configuration, unless that takes too long: it asks for all files that are named there.
fn read(reader: &Arc<Reader>) -> Result<Config, ServeError> {
    let reader = reader.clone();
    let read = within(READING, move || {
        let config = reader()?;
        plan(&config)?;
        Ok::<_, ConfigError>(config)
    });
    Ok(read?.ok_or(ServeError::Silent(READING))??)
}

/// The error, and what may be behind it if files are closed to a server in its jail.
pub(super) fn told(error: &ServeError) -> String {
    let mut cause = Some(error as &(dyn Error + 'static));
    let mut denied = false;
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        denied |= io.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
        cause = error.source();
    }
    if denied && jail::is_on() {
        return format!(
            "{error}; in its jail, a server reads the folders that its first configuration named: restart it for others"
        );
    }
    limits::explain(error)
}

fn of_api<'c, T>(config: &'c Config, what: impl Fn(&'c ApiConfig) -> T) -> Option<T> {
    config.api.as_ref().map(what)
}

/// Which settings differ that a running server cannot change.
fn fixed_changes(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("listen", old.listen != new.listen),
        ("listen_tls", old.listen_tls != new.listen_tls),
        ("admin", old.admin != new.admin),
        ("api", old.api.is_some() != new.api.is_some()),
        ("state", of_api(old, |api| &api.state) != of_api(new, |api| &api.state)),
        ("clients", of_api(old, |api| api.tls.is_some()) != of_api(new, |api| api.tls.is_some())),
        ("requests", of_api(old, |api| api.requests) != of_api(new, |api| api.requests)),
        ("log", old.log != new.log),
        ("log_format", old.log_format != new.log_format),
        ("telemetry", old.telemetry != new.telemetry),
        ("handover", old.handover != new.handover),
        ("header_time", old.header_time != new.header_time),
        ("connections", old.connections != new.connections),
        ("client_connections", old.client_limits.connections != new.client_limits.connections),
        ("client_rate", old.client_limits.rate != new.client_limits.rate),
        ("guests", old.guests != new.guests),
        ("memory", old.memory != new.memory),
        ("name_servers", old.name_servers != new.name_servers),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}
