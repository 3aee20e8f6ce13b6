//! The life of a server: deploys, serves, reloads, drains.
#![forbid(unsafe_code)]

use super::config::{Config, ConfigError, LogFormat, LogTarget};
use super::descriptors;
use super::error::ServeError;
use super::events::Events;
use super::gate::Admission;
use super::listener::{Connections, ListenerKind, listen};
use super::log::{self, Log};
use super::memory::{self, Reclaimable};
use super::metrics::{self, Metrics};
use super::processes;
use super::record::{Ids, Telemetry};
use super::server::Server;
use super::table::{ServerContext, Table};
use super::time_limit::within;
use super::tls::{Certificates, Tls};
use hv_core::engine::Engine;
use hv_host::limits;
use hv_host::prompt::{be_first_while_light, be_prompt, look_at_load};
use hv_jail as jail;
use hv_jail::Kind;
use hv_services::{Names, Services};
use std::error::Error;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How often instances are looked at that may have been idle for too long.
const REAPING: Duration = Duration::from_millis(250);

/// How often certificates that end soon are told of.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a reload may read its configuration, and look for what that names.
const READING: Duration = Duration::from_secs(10);

/// Reads the configuration again, at each reload.
pub type Reader = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// How the server runs.
pub struct Options {
    /// What is served first.
    pub config: Config,
    /// What runs the guests.
    pub engine: Engine,
    /// How events are told on standard error.
    pub events: LogFormat,
    /// Reads the configuration.
    pub reader: Reader,
    /// Looks up names for what functions reach.
    pub names: Names,
}

/// Whether a server could run with this configuration on this host, as far as
/// can be said without starting a guest. Returns the most live guests.
pub fn check(config: &Config) -> Result<usize, ConfigError> {
    metrics::prepare();
    plan(config).map(|plan| plan.guests)
}

fn plan(config: &Config) -> Result<descriptors::DescriptorPlan, ConfigError> {
    let plan = descriptors::plan(config, descriptors::raise_limit(), threads())?;
    memory::check(config, memory::budget(config))?;
    processes::check(config, processes::limit(), plan.spare, threads(), processes::threads_of)?;
    Ok(plan)
}

/// Threads that run guests: one for each core.
pub fn threads() -> usize {
    // Asked once: the answer is in files that a server in its jail cannot open.
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Serves until a signal ends it. Returns whether all requests were answered to their end.
pub fn run(options: Options) -> Result<bool, ServeError> {
    let config = &options.config;
    let plan = plan(config)?;
    let (log, writer) = Log::open(&config.log).map_err(|error| match &config.log {
        LogTarget::File(path) => ServeError::Log { path: path.clone(), error },
        _ => ServeError::Host(error),
    })?;
    let result = serve(options, plan, &log);
    writer.finish();
    result
}

fn serve(options: Options, plan: descriptors::DescriptorPlan, log: &Log) -> Result<bool, ServeError> {
    let config = options.config;
    let events = Events::new(log.clone(), options.events);
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(io::Error::from)?;
    let [requests, crashes] = [0, 4].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|n| random[at + n])));
    let telemetry = Arc::new(Telemetry {
        log: log.clone(),
        format: config.log_format,
        metrics: Metrics::new(),
        crashes: Ids::new(crashes),
    });
    // One thread is enough for the guests of dozens of workers, and saves a switch between threads at each
    // step.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().on_thread_park(look_at_load).build()?;
    let context = runtime.enter();
    // An address that cannot be used is reported before guests are booted.
    let listeners = listeners(&config)?;
    let tls = Arc::new(Tls::new(Certificates::read(&config.certificates)?));
    tls.certificates().tell_of_ends(SystemTime::now(), &events);
    let signals = Signals::catch()?;
    let (relayouts, due) = mpsc::unbounded_channel();
    let server_context = ServerContext {
        reclaimable: Reclaimable::new(&options.engine, &config).map_err(ServeError::Memory)?,
        engine: options.engine,
        events: events.clone(),
        admission: Admission::new(plan.guests),
        spare: plan.spare,
        relayouts,
        services: Services::start(options.names)?,
    };
    let (connections, header_time) = (config.connections, config.header_time);
    be_prompt();
    be_first_while_light();
    jail::enter(Kind::Serve);
    let (server_context, table) = deploy(config, server_context)?;
    let server = Arc::new(Server::new(server_context, telemetry, table, tls, requests));
    drop(context);
    let (drain, draining) = watch::channel(false);
    let connections = Connections::new(server.clone(), connections, header_time, draining);
    let drained = runtime.block_on(async {
        for (listener, kind) in listeners {
            events.listening(kind.name(), kind.scheme(), listener.local_addr()?);
            tokio::spawn(connections.clone().accept(listener, kind));
        }
        let reaper = tokio::spawn(reap(server.clone()));
        let drained = live(&server, &connections, (signals, due), options.reader, &drain).await;
        reaper.abort();
        Ok::<_, io::Error>(drained)
    })?;
    // A reload that is still booting guests does not hold up the end.
    runtime.shutdown_background();
    Ok(drained)
}

/// All addresses of a configuration, listened on.
fn listeners(config: &Config) -> Result<Vec<(TcpListener, ListenerKind)>, ServeError> {
    let public = config.listen.iter().map(|address| ("listen", *address, ListenerKind::Public));
    let tls = config.listen_tls.iter().map(|address| ("listen_tls", *address, ListenerKind::PublicTls));
    let admin = config.admin.iter().map(|address| ("admin", *address, ListenerKind::Admin));
    public.chain(tls).chain(admin).map(|(key, address, kind)| Ok((listen(key, address)?, kind))).collect()
}

/// Whether it wants to listen twice on the same port.
fn names_one_twice(config: &Config) -> bool {
    let mut ports: Vec<_> = config
        .listen
        .iter()
        .chain(&config.listen_tls)
        .chain(&config.admin)
        .filter(|at| at.port() != 0)
        .collect();
    ports.sort();
    ports.windows(2).any(|two| two[0] == two[1])
}

/// Does what a start does, and ends: takes its addresses, boots every function, and tries each. What passes
/// will start, on this host as it is now. An address that is in use is accepted: the server that uses it may
/// be the one to be replaced or reloaded.
pub fn rehearse(config: Config, engine: Engine, names: Names, events: LogFormat) -> Result<(), ServeError> {
    let plan = plan(&config)?;
    log::check(&config.log).map_err(|error| match &config.log {
        LogTarget::File(path) => ServeError::Log { path: path.clone(), error },
        _ => ServeError::Host(error),
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let context = runtime.enter();
    match listeners(&config) {
        Err(ServeError::Listen { error, .. })
            if error.kind() == io::ErrorKind::AddrInUse && !names_one_twice(&config) => {}
        result => drop(result?),
    }
    drop(context);
    let certificates = Certificates::read(&config.certificates)?;
    let (log, writer) = Log::open(&LogTarget::Off)?;
    let server_context = ServerContext {
        reclaimable: Reclaimable::new(&engine, &config).map_err(ServeError::Memory)?,
        engine,
        events: Events::new(log, events),
        admission: Admission::new(plan.guests),
        spare: plan.spare,
        // The guests of a rehearsal get no requests, so no crash is reported.
        relayouts: mpsc::unbounded_channel().0,
        services: Services::start(names)?,
    };
    certificates.tell_of_ends(SystemTime::now(), &server_context.events);
    jail::enter(Kind::Serve);
    let result = deploy(config, server_context);
    writer.finish();
    result.map(drop)
}

/// Deploys all functions, on a thread that may open their files.
fn deploy(config: Config, server_context: ServerContext) -> Result<(ServerContext, Table), ServeError> {
    let (deployed, wait) = crossbeam_channel::bounded(1);
    jail::spawn(Kind::Deploy, "hv-deploy", move || {
        let table = Table::deploy(config, &server_context, None);
        let _ = deployed.send(table.map(|(table, _)| (server_context, table)));
    })?;
    wait.recv().map_err(|_| io::Error::other("the thread that deploys functions has ended"))?
}

/// The signals that a server knows.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    fn catch() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for one that ends the server.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// From the first connection to the last. Returns whether none was cut off.
async fn live(
    server: &Arc<Server>,
    connections: &Connections,
    (mut signals, mut due): (Signals, mpsc::UnboundedReceiver<Arc<str>>),
    reader: Reader,
    drain: &watch::Sender<bool>,
) -> bool {
    let reader = Arc::new(reader);
    let mut changing: Option<JoinHandle<()>> = None;
    loop {
        let server = server.clone();
        let change: Box<dyn FnOnce() + Send> = tokio::select! {
            _ = signals.interrupt.recv() => break,
            _ = signals.terminate.recv() => break,
            _ = signals.hangup.recv() => {
                let reader = reader.clone();
                Box::new(move || reload(&server, &reader))
            }
            _ = signals.quit.recv() => {
                let table = server.table();
                table.figures().iter().for_each(|figures| server.server_context.events.state(figures));
                continue;
            }
            Some(name) = due.recv() => Box::new(move || relayout(&server, &name)),
        };
        // One after the other: each changes the table that the one before has left.
        changing = Some(tokio::spawn(after(changing.take(), change)));
    }
    let at_most = server.table().config.drain;
    let events = &server.server_context.events;
    server.drain();
    let _ = drain.send(true);
    events.draining(connections.open(), at_most);
    tokio::select! {
        _ = timeout(at_most, connections.closed()) => {}
        () = signals.end() => {}
    }
    events.ended(connections.open());
    connections.open() == 0
}

/// Makes a change of what is served, on a thread that may boot functions, once the change before has been made.
async fn after(before: Option<JoinHandle<()>>, change: Box<dyn FnOnce() + Send>) {
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
fn relayout(server: &Server, name: &str) {
    if let Some(table) = server.table().relayout(name, &server.server_context) {
        drop(server.replace(table));
    }
}

/// Reads the configuration again, and serves what it says; or goes on as before.
fn reload(server: &Server, reader: &Arc<Reader>) {
    let server_context = &server.server_context;
    let old = server.table();
    server.telemetry.log.reopen();
    let changed = read(reader).and_then(|config| {
        let certificates = Certificates::read(&config.certificates)?;
        Ok((Table::deploy(config, server_context, Some(&old))?, certificates))
    });
    server.telemetry.metrics.reloaded(changed.is_ok());
    match changed {
        Err(error) => server_context.events.reload_refused(&told(&error)),
        Ok(((table, changes), certificates)) => {
            let fixed = fixed_changes(&old.config, &table.config);
            drop(server.replace(table));
            certificates.tell_of_ends(SystemTime::now(), &server_context.events);
            server.tls.replace(certificates);
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
fn told(error: &ServeError) -> String {
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

/// Which settings differ that a running server cannot change.
fn fixed_changes(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("listen", old.listen != new.listen),
        ("listen_tls", old.listen_tls != new.listen_tls),
        ("admin", old.admin != new.admin),
        ("log", old.log != new.log),
        ("log_format", old.log_format != new.log_format),
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

/// Ends idle instances, and tells of certificates that end, for ever.
async fn reap(server: Arc<Server>) {
    let mut told = SystemTime::now();
    let mut interval = tokio::time::interval(REAPING);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        server.table().reap();
        server.clients.forget(Instant::now());
        let now = SystemTime::now();
        if now.duration_since(told).is_ok_and(|time| time >= DAY) {
            told = now;
            server.tls.certificates().tell_of_ends(now, &server.server_context.events);
        }
    }
}
