//! From the shape of the file to validated values.

use super::error::of_parser;
use super::file::{File, Scalar};
use super::*;
use hv_core::domain::DEFAULT_MEMORY;
use hv_host::escape::escape;
use hv_host::units;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use toml::Spanned;

/// Paths that hv answers itself where there is no `admin`.
pub(crate) const OWN_PATHS: [&str; 2] = ["/healthz", "/metrics"];

/// Most requests a second that a client can be limited to.
const MAX_RATE: u32 = 1_000_000;

/// Least memory of a server.
const LEAST_MEMORY: u64 = 64 << 20;

/// Validates the text of a file. Paths in it are relative to `folder`.
pub(super) fn validate(
    path: &Path,
    folder: &Path,
    text: &str,
    resolve: Resolve<'_>,
) -> Result<Config, ConfigError> {
    let validator = Validator { path, folder, text, resolve };
    let file: File = toml::from_str(text).map_err(|error| {
        let problem = of_parser(error.message());
        let location = match error.span() {
            Some(span) => validator.location(span.start),
            None => Location::File(path.into()),
        };
        ConfigError { location, problem }
    })?;
    validator.file(file)
}

/// Validates arguments of the form `/path=IMAGE`.
pub(super) fn validate_arguments(functions: &[String], resolve: Resolve<'_>) -> Result<Config, ConfigError> {
    let validator = Validator { path: Path::new(""), folder: Path::new(""), text: "", resolve };
    let mut config = validator.settings(&File::default())?;
    let mut names = BTreeMap::<String, usize>::new();
    for argument in functions {
        let location = Location::Argument(format!("--function {argument}"));
        let fail = |problem| ConfigError { location: location.clone(), problem };
        let Some((path, image)) = argument.split_once('=') else {
            return Err(fail(Problem::Value {
                key: "--function",
                value: argument.clone(),
                why: "write /path=IMAGE, as in /hello=fn-hello".into(),
            }));
        };
        check_path(path, false).map_err(|why| fail(value("path", path, why)))?;
        let file = resolve(image).map_err(|error| fail(Problem::Image(error)))?;
        let stem = file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().replace(['"', '\\'], "_");
        let count = names.entry(stem.clone()).or_default();
        *count += 1;
        let name = if *count == 1 { stem } else { format!("{stem}-{count}") };
        let source = Source::Image {
            path: file.clone(),
            memory: DEFAULT_MEMORY,
            stack: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            disks: Vec::new(),
        };
        let version = FileVersion::of(&file)
            .map_err(|error| fail(Problem::Image(format!("{}: {error}", escape(&file)))))?;
        config.functions.push(FunctionConfig {
            name,
            location: location.clone(),
            paths: vec![path.into()],
            methods: Vec::new(),
            deployment: Deployment::new(source, version),
            share: Share::default(),
            body: DEFAULT_BODY,
            queue: DEFAULT_QUEUE,
            queue_time: DEFAULT_QUEUE_TIME,
            idle: DEFAULT_IDLE,
            min_warm: 0,
            max_instances: None,
        });
    }
    validator.together(config)
}

impl Deployment {
    pub(super) fn new(source: Source, version: FileVersion) -> Deployment {
        Deployment {
            source,
            version,
            isolation: Isolation::Request,
            cpu_time: DEFAULT_CPU_TIME,
            wall_time: DEFAULT_WALL_TIME,
            ready_time: DEFAULT_READY_TIME,
            promised_memory: None,
            share_equal_pages: false,
            tenant: None,
            concurrency: DEFAULT_CONCURRENCY,
            console: true,
            services: hv_services::Spec::default(),
        }
    }
}

pub(super) fn value(key: &'static str, value: impl ToString, why: impl Into<String>) -> Problem {
    Problem::Value { key, value: value.to_string(), why: why.into() }
}

/// Whether a route may have this path.
pub(super) fn check_path(path: &str, admin: bool) -> Result<(), &'static str> {
    let prefix = path.strip_suffix('*').unwrap_or(path);
    if !path.starts_with('/') {
        return Err("a path starts with /, as in /hello or /files/*");
    }
    if prefix.contains('*') || (prefix.len() < path.len() && !prefix.ends_with('/')) {
        return Err("`*` stands only behind the last /, as in /files/*");
    }
    if !prefix.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte)) {
        return Err("write the path as it stands in a request: no spaces, no query, others as %XX");
    }
    if !admin && OWN_PATHS.contains(&path) {
        return Err(
            "hv answers this path itself; choose another, or move hv's own to another port with `admin`",
        );
    }
    Ok(())
}

pub(super) struct Validator<'a> {
    pub(super) path: &'a Path,
    folder: &'a Path,
    text: &'a str,
    pub(super) resolve: Resolve<'a>,
}

impl Validator<'_> {
    pub(super) fn location(&self, offset: usize) -> Location {
        let before = self.text.as_bytes().iter().take(offset);
        Location::Line(self.path.into(), 1 + before.filter(|&&byte| byte == b'\n').count())
    }

    pub(super) fn fail<T>(&self, at: &Spanned<T>, problem: Problem) -> ConfigError {
        ConfigError { location: self.location(at.span().start), problem }
    }

    pub(super) fn time(
        &self,
        key: &'static str,
        text: &Option<Spanned<Scalar>>,
    ) -> Result<Option<Duration>, ConfigError> {
        let Some(text) = text else { return Ok(None) };
        let Scalar(written) = text.get_ref();
        let time = units::time(written)
            .map_err(|error| self.fail(text, Problem::Unit { key, value: written.clone(), error }))?;
        if time.is_zero() {
            return Err(self.fail(
                text,
                value(key, format!("\"{written}\""), "nothing could be done in that time; use at least 1ms"),
            ));
        }
        Ok(Some(time))
    }

    pub(super) fn size(
        &self,
        key: &'static str,
        text: &Option<Spanned<Scalar>>,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(text) = text else { return Ok(None) };
        let Scalar(written) = text.get_ref();
        units::size(written)
            .map(Some)
            .map_err(|error| self.fail(text, Problem::Unit { key, value: written.clone(), error }))
    }

    /// A number of at least 1.
    pub(super) fn count(
        &self,
        key: &'static str,
        number: &Option<Spanned<u32>>,
    ) -> Result<Option<usize>, ConfigError> {
        match number {
            Some(number) if *number.get_ref() == 0 => {
                Err(self.fail(number, value(key, 0, "nothing would ever be answered; use 1 or more")))
            }
            number => Ok(number.as_ref().map(|number| *number.get_ref() as usize)),
        }
    }

    pub(super) fn address(&self, key: &'static str, text: &str) -> Result<SocketAddr, Problem> {
        text.parse().map_err(|_| {
            value(
                key,
                format!("\"{text}\""),
                "write an IP address and a port, as in 127.0.0.1:8080 or [::]:8080",
            )
        })
    }

    fn file(&self, file: File) -> Result<Config, ConfigError> {
        let mut config = self.settings(&file)?;
        for (name, tenant) in &file.tenant {
            let tenant = self.tenant(name, tenant, &config)?;
            config.tenants.push(tenant);
        }
        let mut secrets = Vec::new();
        config.api = self.api(&file, &mut secrets)?;
        config.telemetry = self.telemetry(&file, &mut secrets)?;
        let bindings = self.bindings(&file, &mut secrets)?;
        let shared = self.tenants_services(&file, &bindings, &mut secrets)?;
        for (name, section) in &file.function {
            let mut function = self.function(name, section, &config)?;
            let of_tenant = function.deployment.tenant.as_ref().and_then(|tenant| shared.get(tenant));
            function.deployment.services = self.services(section, &bindings, of_tenant, &mut secrets)?;
            config.functions.push(function);
        }
        config.secrets = secrets;
        // In the order of the file: what is double is the later one.
        config.functions.sort_by_key(|function| match function.location {
            Location::Line(_, line) => line,
            _ => 0,
        });
        self.together(config)
    }

    /// Everything but the functions.
    fn settings(&self, file: &File) -> Result<Config, ConfigError> {
        let listen = match &file.listen {
            // Who wants TLS and nothing else gets that.
            None if file.listen_tls.is_some() => Vec::new(),
            None => vec![DEFAULT_LISTEN],
            Some(list) if list.get_ref().0.is_empty() => {
                return Err(self.fail(list, value("listen", "[]", "name at least one address")));
            }
            Some(list) => {
                let addresses = list.get_ref().0.iter().map(|text| self.address("listen", text));
                addresses.collect::<Result<_, _>>().map_err(|problem| self.fail(list, problem))?
            }
        };
        let admin = file
            .admin
            .as_ref()
            .map(|text| self.address("admin", text.get_ref()).map_err(|problem| self.fail(text, problem)));
        let log = match file.log.as_ref().map_or(LogTarget::Stdout, |text| LogTarget::of(text.get_ref())) {
            LogTarget::File(path) => LogTarget::File(self.beside(&path.to_string_lossy())),
            other => other,
        };
        let log_format = match &file.log_format {
            None => LogFormat::Text,
            Some(text) => match text.get_ref().as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => {
                    return Err(
                        self.fail(text, value("log_format", format!("\"{other}\""), "use text or json"))
                    );
                }
            },
        };
        let (listen_tls, certificates) = self.tls(file)?;
        Ok(Config {
            listen,
            listen_tls,
            certificates,
            admin: admin.transpose()?,
            api: None,
            telemetry: None,
            log,
            log_format,
            handover: file.handover.as_ref().map(|path| self.beside(path.get_ref())),
            drain: self.time("drain", &file.drain)?.unwrap_or(DEFAULT_DRAIN),
            header_time: self.time("header_time", &file.header_time)?.unwrap_or(DEFAULT_HEADER_TIME),
            connections: self.count("connections", &file.connections)?.unwrap_or(DEFAULT_CONNECTIONS),
            client_limits: self.client_limits(file)?,
            guests: self.count("guests", &file.guests)?,
            proxies: self.proxies(file)?,
            memory: self.server_memory(&file.memory)?,
            name_servers: self.name_servers(file)?,
            secrets: Vec::new(),
            location: Location::File(self.path.into()),
            tenants: Vec::new(),
            functions: Vec::new(),
            configured: Vec::new(),
            saved: Saved::default(),
            folder: self.folder.into(),
        })
    }

    fn client_limits(&self, file: &File) -> Result<ClientLimits, ConfigError> {
        let connections = self.count("client_connections", &file.client_connections)?;
        let all = file.connections.as_ref().map_or(DEFAULT_CONNECTIONS, |all| *all.get_ref() as usize);
        if let (Some(at), Some(own)) = (&file.client_connections, connections)
            && own > all
        {
            let why = format!("the whole server has connections = {all}; lower this or raise that");
            return Err(self.fail(at, value("client_connections", own, why)));
        }
        self.count("client_rate", &file.client_rate)?;
        let rate = file.client_rate.as_ref().map(|rate| *rate.get_ref());
        if let (Some(at), Some(rate)) = (&file.client_rate, rate)
            && rate > MAX_RATE
        {
            return Err(self.fail(
                at,
                value("client_rate", rate, "use at most 1000000 requests a second, or remove it"),
            ));
        }
        Ok(ClientLimits { connections, rate })
    }

    fn server_memory(&self, text: &Option<Spanned<Scalar>>) -> Result<Option<u64>, ConfigError> {
        let memory = self.size("memory", text)?;
        if let (Some(at), Some(bytes)) = (text, memory)
            && bytes < LEAST_MEMORY
        {
            let why = "hv itself needs some of it; use at least 64M";
            return Err(self.fail(at, value("memory", format!("\"{}\"", at.get_ref().0), why)));
        }
        Ok(memory)
    }

    fn name_servers(&self, file: &File) -> Result<Vec<SocketAddr>, ConfigError> {
        let Some(list) = &file.name_servers else { return Ok(Vec::new()) };
        let server = |text: &String| match text.parse::<IpAddr>() {
            Ok(address) => Ok(SocketAddr::new(address, 53)),
            Err(_) => self.address("name_servers", text),
        };
        list.get_ref()
            .0
            .iter()
            .map(server)
            .collect::<Result<_, _>>()
            .map_err(|problem| self.fail(list, problem))
    }

    /// Networks and addresses of proxies.
    fn proxies(&self, file: &File) -> Result<Vec<IpNet>, ConfigError> {
        let Some(list) = &file.proxy_protocol else { return Ok(Vec::new()) };
        let network = |text: &String| {
            let address = text.parse::<IpAddr>().map(IpNet::from);
            address.or_else(|_| text.parse::<IpNet>().map(|network| network.trunc())).map_err(|_| {
                let why = "write the address or the network of a proxy, as in 10.0.0.7 or 10.0.0.0/24";
                self.fail(list, value("proxy_protocol", format!("\"{text}\""), why))
            })
        };
        list.get_ref().0.iter().map(network).collect()
    }

    /// A path of the file, relative to the folder that the file is in.
    pub(super) fn beside(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }
}
