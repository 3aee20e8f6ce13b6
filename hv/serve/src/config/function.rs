//! A function's table, validated.

use super::file::FunctionSection;
use super::tenant::Processors;
use super::validate::{Validator, check_path, value};
use super::*;
use hv_host::escape::escape;
use toml::Spanned;

/// Largest body that can be allowed.
const MAX_BODY: u64 = 1 << 40;

impl Validator<'_> {
    /// One function's table.
    pub(super) fn function(
        &self,
        name: &Spanned<String>,
        function: &FunctionSection,
        config: &Config,
    ) -> Result<FunctionConfig, ConfigError> {
        let named = name.get_ref();
        self.name("function", name)?;
        let missing =
            |key, example| self.fail(name, Problem::Missing { function: named.clone(), key, example });
        let paths = function.path.as_ref().ok_or_else(|| missing("path", "path = \"/hello\""))?;
        if paths.get_ref().0.is_empty() {
            return Err(self.fail(paths, value("path", "[]", "name at least one path")));
        }
        for path in &paths.get_ref().0 {
            check_path(path, config.admin.is_some())
                .map_err(|why| self.fail(paths, value("path", format!("\"{path}\""), why)))?;
        }
        let isolation = self.isolation(function)?;
        let concurrency = self.count("concurrency", &function.concurrency)?.unwrap_or(DEFAULT_CONCURRENCY);
        self.within_server(&function.concurrency, config)?;
        let (min_warm, max_instances) = self.scale(function)?;
        let share = self.share(&Processors::of_function(function))?;
        let tenant = self.tenant_of(function, config)?;
        if let Some(tenant) = tenant {
            self.within_tenant(function, share, self.memory(function)?.0, tenant)?;
        }
        let body = self.size("body", &function.body)?.unwrap_or(DEFAULT_BODY);
        if let Some(at) = &function.body
            && body > MAX_BODY
        {
            let written = format!("\"{}\"", at.get_ref().0);
            return Err(self.fail(at, value("body", written, "use at most 1024G")));
        }
        let queue = function.queue.as_ref().map_or(DEFAULT_QUEUE, |queue| *queue.get_ref() as usize);
        if let Some(at) = &function.queue_time
            && queue == 0
        {
            return Err(self.fail(
                at,
                Problem::Conflict {
                    key: "queue_time",
                    with: "queue = 0",
                    remedy: "remove it, or let requests wait with queue = 1 or more",
                },
            ));
        }
        let source = self.source(name, function)?;
        let file = source.path();
        let version = FileVersion::of(file).map_err(|error| {
            self.fail(name, Problem::Image(format!("{}: {error}; check its permissions", escape(file))))
        })?;
        let default = Deployment::new(source, version);
        let wall_time = self.time("wall_time", &function.wall_time)?.unwrap_or(default.wall_time);
        let cpu_time = self.time("cpu_time", &function.cpu_time)?;
        if let (Some(at), Some(cpu_time)) = (&function.cpu_time, cpu_time)
            && cpu_time > wall_time
        {
            let why = format!(
                "one virtual CPU cannot use more time than passes: wall_time is {wall_time:?}; lower this or raise that"
            );
            return Err(self.fail(at, value("cpu_time", format!("{cpu_time:?}"), why)));
        }
        Ok(FunctionConfig {
            name: named.clone(),
            location: self.location(name.span().start),
            paths: paths.get_ref().0.clone(),
            methods: self.methods(function)?,
            deployment: Deployment {
                isolation,
                cpu_time: cpu_time.unwrap_or(default.cpu_time.min(wall_time)),
                wall_time,
                ready_time: self.time("ready_time", &function.ready_time)?.unwrap_or(default.ready_time),
                promised_memory: self.promised_memory(function)?,
                share_equal_pages: function.share_equal_pages.as_ref().is_some_and(|share| *share.get_ref()),
                tenant: tenant.map(|tenant| tenant.name.clone()),
                concurrency,
                console: self.console(function)?,
                ..default
            },
            share,
            body,
            queue,
            queue_time: self.time("queue_time", &function.queue_time)?.unwrap_or(DEFAULT_QUEUE_TIME),
            idle: self.time("idle", &function.idle)?.unwrap_or(DEFAULT_IDLE),
            min_warm,
            max_instances,
        })
    }

    fn isolation(&self, function: &FunctionSection) -> Result<Isolation, ConfigError> {
        let isolation = match &function.isolation {
            None => Isolation::Request,
            Some(text) => match text.get_ref().as_str() {
                "request" => Isolation::Request,
                "instance" => Isolation::Instance,
                other => {
                    let why = "use request (each in a fresh instance) or instance (one after the other in the same)";
                    return Err(self.fail(text, value("isolation", format!("\"{other}\""), why)));
                }
            },
        };
        Ok(isolation)
    }

    fn console(&self, function: &FunctionSection) -> Result<bool, ConfigError> {
        match function.console.as_ref().map(|text| (text, text.get_ref().as_str())) {
            None | Some((_, "log")) => Ok(true),
            Some((_, "off")) => Ok(false),
            Some((text, other)) => {
                Err(self.fail(text, value("console", format!("\"{other}\""), "use log or off")))
            }
        }
    }

    fn methods(&self, function: &FunctionSection) -> Result<Vec<Method>, ConfigError> {
        let Some(list) = &function.methods else { return Ok(Vec::new()) };
        let mut methods = Vec::new();
        for text in &list.get_ref().0 {
            let upper = !text.bytes().any(|byte| byte.is_ascii_lowercase());
            let method = Method::from_bytes(text.as_bytes()).ok().filter(|_| upper).ok_or_else(|| {
                let why = "write methods as in a request: GET, POST …";
                self.fail(list, value("methods", format!("\"{text}\""), why))
            })?;
            methods.push(method);
        }
        if methods.is_empty() {
            let why = "no request would ever fit; remove it to take all methods";
            return Err(self.fail(list, value("methods", "[]", why)));
        }
        // GET includes HEAD.
        if methods.contains(&Method::GET) && !methods.contains(&Method::HEAD) {
            methods.push(Method::HEAD);
        }
        Ok(methods)
    }
}
