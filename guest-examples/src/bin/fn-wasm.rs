//! A function that runs a function of a WebAssembly module.
//!
//! ```text
//! hv serve --listen 127.0.0.1:8080 --function /wasm=fn-wasm
//! curl 'http://127.0.0.1:8080/wasm?call=add&args=2,40' --data-binary @module.wasm
//! ```
//!
//! The module is the request's body. Without one it is the file `module.wasm` of the
//! first disk, if there is one, which was compiled before the first request came;
//! `module=NAME` names another file there. `call` names the exported function, `args`
//! its integers and floating-point numbers. The results come as text, separated by commas.
//!
//! A module has no imports, at most half of the heap, and fuel for a hundred million steps or so.
//! 400: the request is wrong; 404: no such module or function; 413: the module is too large;
//! 422: the module cannot be run, or trapped.
#![no_std]
#![no_main]

use hv_guest::block;
use hv_guest::fs::{self, FileSystem};
use hv_guest::function::{self, Error, Request, ServeError};
use hv_guest::prelude::*;
use wasmi::{Config, Engine, Linker, Module, Store, StoreLimits, StoreLimitsBuilder, Val, ValType};

/// What a call may burn: about one unit per instruction.
const FUEL: u64 = 100_000_000;

type Refusal = (u16, String);

struct Runner {
    engine: Engine,
    root: Option<FileSystem>,
    /// `module.wasm` of the first disk.
    usual: Option<Module>,
}

#[hv_guest::entry]
async fn main() -> Result<(), ServeError> {
    let mut config = Config::default();
    config.consume_fuel(true);
    let mut runner = Runner { engine: Engine::new(&config), root: None, usual: None };
    runner.root = block::disk(0).and_then(|disk| fs::open_root(disk).ok());
    match runner.file("module.wasm").await {
        Ok(module) => runner.usual = Some(module),
        Err((404, _)) => {}
        Err((_, reason)) => println!("module.wasm: {reason}"),
    }
    function::serve(async |request: Request<'_>| match runner.answer(request).await {
        Ok(results) => (200, results + "\n"),
        Err((status, reason)) => (status, reason + "\n"),
    })
    .await
}

impl Runner {
    fn compile(&self, bytes: &[u8]) -> Result<Module, Refusal> {
        Module::new(&self.engine, bytes).map_err(|error| (422, format!("this is no module: {error}")))
    }

    /// A module from the first disk.
    async fn file(&self, name: &str) -> Result<Module, Refusal> {
        let root =
            self.root.as_ref().ok_or((404, "send a module, or give a disk with modules".to_string()))?;
        let path = format!("/{}", name.trim_start_matches('/'));
        let metadata = root.metadata(&path).map_err(|error| (404, format!("{name}: {error}")))?;
        if metadata.is_dir {
            return Err((404, format!("{name} is a folder")));
        }
        if metadata.len > hv_guest::heap_size() as u64 / 8 {
            return Err((413, format!("{name} has {} bytes, which is too much", metadata.len)));
        }
        let bytes = root.read(&path).await.map_err(|error| (404, format!("{name}: {error}")))?;
        self.compile(&bytes)
    }

    async fn answer(&self, mut request: Request<'_>) -> Result<String, Refusal> {
        let limit = hv_guest::heap_size() / 8;
        let body = request.read_to_vec(limit).await.map_err(|error| match error {
            Error::TooLong => (413, format!("the module has more than {limit} bytes")),
            error => (503, error.to_string()),
        })?;
        let named = request.param("module");
        let module = match (&*body, &named, &self.usual) {
            ([_, ..], None, _) => self.compile(&body)?,
            ([_, ..], Some(_), _) => {
                return Err((400, "a module in the body, or one on the disk: not both".into()));
            }
            ([], Some(name), _) => self.file(name).await?,
            ([], None, Some(usual)) => usual.clone(),
            ([], None, None) => {
                return Err((400, "send a module, or name one on the disk: ?module=NAME".into()));
            }
        };
        let name = request.param("call").ok_or((400, "name the function to call: ?call=NAME".to_string()))?;
        self.call(&module, &name, &request.param("args").unwrap_or_default())
    }

    /// Calls a function of a fresh instance.
    fn call(&self, module: &Module, name: &str, arguments: &str) -> Result<String, Refusal> {
        let trap = |error: wasmi::Error| (422, error.to_string());
        let limits =
            StoreLimitsBuilder::new().memory_size(hv_guest::heap_size() / 2).table_elements(1 << 16).build();
        let mut store = Store::new(&self.engine, limits);
        store.limiter(|limits: &mut StoreLimits| limits);
        store.set_fuel(FUEL).map_err(trap)?;
        let instance = Linker::new(&self.engine).instantiate_and_start(&mut store, module).map_err(trap)?;
        let function = instance
            .get_func(&store, name)
            .ok_or_else(|| (404, format!("the module exports no function {name}")))?;
        let signature = function.ty(&store);
        let given: Vec<&str> = arguments.split(',').filter(|argument| !argument.is_empty()).collect();
        if given.len() != signature.params().len() {
            let (takes, has) = (signature.params().len(), given.len());
            return Err((400, format!("{name} takes {takes} arguments, and args has {has}")));
        }
        let values = given
            .iter()
            .zip(signature.params())
            .map(|(text, kind)| value(text, *kind).ok_or_else(|| (400, format!("{text} is no {kind:?}"))))
            .collect::<Result<Vec<_>, _>>()?;
        let mut results: Vec<Val> =
            signature.results().iter().map(|kind| Val::default_for_ty(*kind)).collect();
        function.call(&mut store, &values, &mut results).map_err(trap)?;
        Ok(results.iter().map(text).collect::<Vec<_>>().join(","))
    }
}

/// A value of this type, from text. Integers may be written with a sign or without.
fn value(text: &str, kind: ValType) -> Option<Val> {
    Some(match kind {
        ValType::I32 => Val::I32(text.parse().or_else(|_| text.parse::<u32>().map(|n| n as i32)).ok()?),
        ValType::I64 => Val::I64(text.parse().or_else(|_| text.parse::<u64>().map(|n| n as i64)).ok()?),
        ValType::F32 => Val::F32(text.parse::<f32>().ok()?.into()),
        ValType::F64 => Val::F64(text.parse::<f64>().ok()?.into()),
        _ => return None,
    })
}

fn text(value: &Val) -> String {
    match value {
        Val::I32(n) => n.to_string(),
        Val::I64(n) => n.to_string(),
        Val::F32(n) => n.to_float().to_string(),
        Val::F64(n) => n.to_float().to_string(),
        other => format!("{other:?}"),
    }
}
