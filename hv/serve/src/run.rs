//! The life of a server: deploys, serves, drains.
#![forbid(unsafe_code)]

use super::activation::{Manager, Word};
use super::admin::Change;
use super::config::{Config, ConfigError, LogFormat, LogTarget};
use super::descriptors;
use super::error::ServeError;
use super::events::Events;
use super::gate::Admission;
use super::handover::Handover;
use super::listener::{Connections, Drain};
use super::log::{self, Log};
use super::memory::{self, Reclaimable};
use super::metrics::{self, Metrics};
use super::processes;
use super::record::{Ids, Telemetry};
use super::reload::{after, relayout, reload};
use super::server::Server;
use super::sockets::{Inherited, Listening, listeners};
use super::table::{ServerContext, Table};
use super::tidy::Tidy;
use super::tls::{AdminTls, Certificates, Tls};
use super::trace::{Exporter, Invocations, TraceIds};
use hv_core::engine::Engine;
use hv_host::machine::EqualPages;
use hv_host::prompt::{be_first_while_light, be_prompt, look_at_load};
use hv_jail as jail;
use hv_jail::Kind;
use hv_services::{Names, Services};
use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How often instances are looked at that may have been idle for too long.
const REAPING: Duration = Duration::from_millis(250);

/// How often certificates that end soon are told of.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// What it has from those before it.
    pub inherited: Inherited,
}

/// Whether a server could run with this configuration on this host, as far as
/// can be said without starting a guest. Returns the most live guests.
pub fn check(config: &Config) -> Result<usize, ConfigError> {
    metrics::prepare();
    plan(config).map(|plan| plan.guests)
}

pub(super) fn plan(config: &Config) -> Result<descriptors::DescriptorPlan, ConfigError> {
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
    let (config, mut inherited) = (options.config, options.inherited);
    let events = Events::new(log.clone(), options.events);
    let mut random = [0; 24];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(io::Error::from)?;
    let [requests, crashes] = [0, 4].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|n| random[at + n])));
    let invocations = Arc::new(Invocations::new(config.api.as_ref().map_or(0, |api| api.requests)));
    let exporter = config.telemetry.clone().map(|config| Exporter::prepare(config, &options.names));
    let exporter = exporter.transpose()?;
    let traces = config.telemetry.as_ref().map(|config| {
        let random = random.last_chunk().expect("it is longer");
        TraceIds::new(u128::from_le_bytes(*random), config.sample)
    });
    let mut telemetry = Telemetry {
        log: log.clone(),
        format: config.log_format,
        metrics: Metrics::new(),
        crashes: Ids::new(crashes),
        invocations: invocations.clone(),
        exporter: None,
    };
    // One thread is enough for the guests of dozens of workers, and saves a switch between threads at each
    // step.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().on_thread_park(look_at_load).build()?;
    let context = runtime.enter();
    // An address that cannot be used is reported before guests are booted.
    let listeners = listeners(&config, &mut inherited)?;
    let shared = listeners.iter().map(Listening::share).collect::<io::Result<_>>()?;
    let handover = inherited.handover.take().map(|socket| Handover::new(socket, shared)).transpose()?;
    let tls = Arc::new(Tls::new(Certificates::read(&config.certificates)?));
    tls.certificates().tell_of_ends(SystemTime::now(), &events);
    let admin_tls = AdminTls::of(&config)?;
    if config.functions.iter().any(|function| function.deployment.share_equal_pages)
        && EqualPages::of_this_host() == EqualPages::Stopped
    {
        events.equal_pages_are_not_shared();
    }
    let signals = Signals::catch()?;
    let (changes, due) = mpsc::unbounded_channel();
    let server_context = ServerContext {
        reclaimable: Reclaimable::new(&options.engine, &config).map_err(ServeError::Memory)?,
        engine: options.engine,
        events: events.clone(),
        admission: Admission::new(plan.guests),
        spare: plan.spare,
        changes,
        services: Services::new(options.names)?,
        invocations,
    };
    let (connections, header_time) = (config.connections, config.header_time);
    be_prompt();
    be_first_while_light();
    jail::enter(Kind::Serve);
    let (server_context, table) = deploy(config, server_context)?;
    telemetry.exporter = exporter.map(|exporter| exporter.start(events.clone())).transpose()?;
    let telemetry = Arc::new(telemetry);
    let server =
        Arc::new(Server::new(server_context, telemetry.clone(), table, (tls, admin_tls), requests, traces));
    drop(context);
    let (drain, draining) = watch::channel(Drain::No);
    let connections = Connections::new(server.clone(), connections, header_time, draining);
    let drained = runtime.block_on(async {
        for Listening { listener, kind, .. } in listeners {
            events.listening(kind.name(), kind.scheme(), listener.local_addr()?);
            tokio::spawn(connections.clone().accept(listener, kind));
        }
        let manager = inherited.manager.map(Arc::new);
        if let Some(manager) = &manager {
            manager.say(Word::Ready);
            tokio::spawn(keep_alive(manager.clone()));
        }
        if let Err(error) = inherited.received.tell_ready() {
            tracing::warn!("the server before is not told: {error}");
        }
        let reaper = tokio::spawn(reap(server.clone(), connections.clone()));
        tokio::spawn(tell_metrics(server.clone()));
        let life = Life { server: &server, connections: &connections, manager, handover };
        let drained = life.live((signals, due), options.reader, &drain).await;
        reaper.abort();
        Ok::<_, io::Error>(drained)
    })?;
    // A reload that is still booting guests does not hold up the end.
    runtime.shutdown_background();
    if let Some(exporter) = &telemetry.exporter {
        exporter.finish();
    }
    Ok(drained)
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
    match listeners(&config, &mut Inherited::default()) {
        Err(ServeError::Listen { error, .. })
            if error.kind() == io::ErrorKind::AddrInUse && !names_one_twice(&config) => {}
        result => drop(result?),
    }
    drop(context);
    let certificates = Certificates::read(&config.certificates)?;
    AdminTls::of(&config)?;
    let (log, writer) = Log::open(&LogTarget::Off)?;
    let server_context = ServerContext {
        reclaimable: Reclaimable::new(&engine, &config).map_err(ServeError::Memory)?,
        engine,
        events: Events::new(log, events),
        admission: Admission::new(plan.guests),
        spare: plan.spare,
        // The guests of a rehearsal get no requests, so no crash is reported.
        changes: mpsc::unbounded_channel().0,
        services: Services::new(names)?,
        invocations: Arc::new(Invocations::new(0)),
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

/// Tells the service manager that the server is alive, as often as it wants to hear it.
async fn keep_alive(manager: Arc<Manager>) {
    let Some(time) = manager.watchdog() else { return };
    let mut interval = tokio::time::interval(time);
    loop {
        interval.tick().await;
        manager.say(Word::Alive);
    }
}

/// What a running server lives on.
struct Life<'a> {
    server: &'a Arc<Server>,
    connections: &'a Connections,
    manager: Option<Arc<Manager>>,
    handover: Option<Handover>,
}

impl Life<'_> {
    /// From the first connection to the last. Returns whether none was cut off.
    async fn live(
        self,
        (mut signals, mut due): (Signals, mpsc::UnboundedReceiver<Change>),
        reader: Reader,
        drain: &watch::Sender<Drain>,
    ) -> bool {
        let reader = Arc::new(reader);
        let mut changing: Option<JoinHandle<()>> = None;
        let mut handed_over = pin!(handed_over(self.handover));
        let events = &self.server.server_context.events;
        let how = loop {
            let server = self.server.clone();
            let change: Box<dyn FnOnce() + Send> = tokio::select! {
                _ = signals.interrupt.recv() => break Drain::Ending,
                _ = signals.terminate.recv() => break Drain::Ending,
                () = handed_over.as_mut() => {
                    events.handed_over();
                    break Drain::HandedOver;
                }
                _ = signals.hangup.recv() => {
                    let (reader, manager) = (reader.clone(), self.manager.clone());
                    let tell = move |word| manager.iter().for_each(|manager| manager.say(word));
                    Box::new(move || {
                        tell(Word::Reloading);
                        reload(&server, &reader);
                        tell(Word::Ready);
                    })
                }
                _ = signals.quit.recv() => {
                    let table = server.table();
                    table.figures().iter().for_each(|figures| events.state(figures));
                    continue;
                }
                Some(change) = due.recv() => match change {
                    Change::Relayout(name) => Box::new(move || relayout(&server, &name)),
                    Change::Api(change) => Box::new(move || change(&server)),
                    Change::Drain => break Drain::Ending,
                },
            };
            // One after the other: each changes the table that the one before has left.
            changing = Some(tokio::spawn(after(changing.take(), change)));
        };
        // What nobody has begun will not be done, and who waits for it is told.
        drop(due);
        let at_most = self.server.table().config.drain;
        self.server.drain();
        self.manager.iter().for_each(|manager| manager.say(Word::Stopping));
        let _ = drain.send(how);
        events.draining(self.connections.open(), at_most);
        tokio::select! {
            _ = timeout(at_most, self.connections.closed()) => {}
            () = signals.end() => {}
        }
        events.ended(self.connections.open());
        self.connections.open() == 0
    }
}

/// Waits until another server answers in this one's place.
async fn handed_over(handover: Option<Handover>) {
    match handover {
        Some(handover) => handover.handed_over().await,
        None => std::future::pending().await,
    }
}

/// Tells the collector all metrics now and then, for ever, if there is one.
async fn tell_metrics(server: Arc<Server>) {
    let Some(exporter) = &server.telemetry.exporter else { return };
    let mut interval = tokio::time::interval(exporter.interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        exporter.metrics(server.gather());
    }
}

/// Ends idle instances, gives memory back, and tells of certificates that end, for ever.
async fn reap(server: Arc<Server>, connections: Connections) {
    let mut told = SystemTime::now();
    let mut tidy = Tidy::default();
    let mut interval = tokio::time::interval(REAPING);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        server.table().reap();
        server.clients.forget(Instant::now());
        tidy.look(connections.open(), &server.server_context.changes);
        let now = SystemTime::now();
        if now.duration_since(told).is_ok_and(|time| time >= DAY) {
            told = now;
            server.tls.certificates().tell_of_ends(now, &server.server_context.events);
        }
    }
}
