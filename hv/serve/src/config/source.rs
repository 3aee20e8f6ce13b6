//! What a function is made of: an image with its memory, arguments and disks, or a snapshot.

use super::file::{FunctionSection, Scalar};
use super::validate::{Validator, value};
use super::*;
use hv_core::device::block::SpecError;
use hv_core::domain::{DEFAULT_MEMORY, MAX_MEMORY, MIN_STACK};
use hv_host::escape::escape;
use hv_host::units;
use toml::Spanned;

impl Validator<'_> {
    /// What the function is made of.
    pub(super) fn source(
        &self,
        name: &Spanned<String>,
        function: &FunctionSection,
    ) -> Result<Source, ConfigError> {
        let named = name.get_ref();
        match (&function.image, &function.snapshot) {
            (Some(_), Some(snapshot)) => {
                Err(self.fail(snapshot, Problem::TwoSources { function: named.clone() }))
            }
            (None, None) => Err(self.fail(
                name,
                Problem::Missing {
                    function: named.clone(),
                    key: "image",
                    example: "image = \"fn-hello\", or a snapshot",
                },
            )),
            (None, Some(snapshot)) => {
                let boot_only = [
                    ("memory", function.memory.as_ref().map(Spanned::span)),
                    ("stack", function.stack.as_ref().map(Spanned::span)),
                    ("args", function.args.as_ref().map(Spanned::span)),
                    ("env", function.env.keys().next().map(Spanned::span)),
                ];
                if let Some((key, span)) = boot_only.into_iter().find_map(|(key, span)| Some((key, span?))) {
                    return Err(ConfigError {
                        location: self.location(span.start),
                        problem: Problem::Conflict {
                            key,
                            with: "`snapshot`, which has its own",
                            remedy: "remove it, or make the snapshot anew with it",
                        },
                    });
                }
                let path = self.beside(snapshot.get_ref());
                if !path.is_dir() {
                    return Err(self.fail(snapshot, Problem::Snapshot(escape(&path).to_string())));
                }
                Ok(Source::Snapshot { path, disks: self.disks(function)? })
            }
            (Some(image), None) => Ok(Source::Image {
                path: self.image(image)?,
                memory: self.memory(function)?.1,
                stack: self.stack(function)?,
                arguments: function.args.as_ref().map_or_else(Vec::new, |args| args.get_ref().0.clone()),
                environment: self.environment(function)?,
                disks: self.disks(function)?,
            }),
        }
    }

    fn image(&self, image: &Spanned<String>) -> Result<PathBuf, ConfigError> {
        let text = image.get_ref();
        let beside = self.beside(text);
        // A bare name is a guest that is built, unless such a file stands beside.
        let found = if beside.is_file() {
            Ok(beside)
        } else if text.contains(['/', '.']) {
            (self.resolve)(&beside.to_string_lossy())
        } else {
            (self.resolve)(text)
        };
        found.map_err(|error| self.fail(image, Problem::Image(error)))
    }

    /// What each instance is promised of its memory, and its memory: `SIZE`, or `MIN..MAX`.
    pub(super) fn memory(&self, function: &FunctionSection) -> Result<(u64, u64), ConfigError> {
        let Some(at) = &function.memory else { return Ok((DEFAULT_MEMORY, DEFAULT_MEMORY)) };
        let Scalar(written) = at.get_ref();
        let (promised, most) = written.split_once("..").unwrap_or((written, written));
        let parse = |text: &str| {
            units::size(text).map_err(|error| {
                self.fail(at, Problem::Unit { key: "memory", value: written.clone(), error })
            })
        };
        let (promised, most) = (parse(promised)?, parse(most)?);
        let refuse = |why| Err(self.fail(at, value("memory", format!("\"{written}\""), why)));
        if most == 0 || !most.is_multiple_of(hv_abi::PAGE_SIZE) || most > MAX_MEMORY {
            return refuse("use a multiple of 4096 bytes up to 64G");
        }
        if promised == 0 || promised > most {
            return refuse("an instance is promised the first size, which is the smaller one, as in 1M..16M");
        }
        Ok((promised, most))
    }

    /// What each instance is promised, if that is not all of its memory.
    pub(super) fn promised_memory(&self, function: &FunctionSection) -> Result<Option<u64>, ConfigError> {
        let (promised, most) = self.memory(function)?;
        Ok((promised < most).then_some(promised))
    }

    fn stack(&self, function: &FunctionSection) -> Result<Option<u64>, ConfigError> {
        let stack = self.size("stack", &function.stack)?;
        let fits =
            |bytes: u64| bytes.is_multiple_of(hv_abi::PAGE_SIZE) && (MIN_STACK..=MAX_MEMORY).contains(&bytes);
        match (&function.stack, stack) {
            (Some(at), Some(bytes)) if !fits(bytes) => {
                let written = format!("\"{}\"", at.get_ref().0);
                Err(self.fail(at, value("stack", written, "use a multiple of 4096 bytes from 16K to 64G")))
            }
            _ => Ok(stack),
        }
    }

    fn environment(&self, function: &FunctionSection) -> Result<Vec<(String, String)>, ConfigError> {
        let pairs = function.env.iter().map(|(key, Scalar(text))| {
            if key.get_ref().is_empty() || key.get_ref().contains(['=', '\0']) || text.contains('\0') {
                let why = "a variable has a name without `=`, and no NUL bytes";
                return Err(self.fail(key, value("env", format!("\"{}\"", key.get_ref()), why)));
            }
            Ok((key.get_ref().clone(), text.clone()))
        });
        pairs.collect()
    }

    fn disks(&self, function: &FunctionSection) -> Result<Vec<DiskSpec>, ConfigError> {
        let Some(list) = &function.disks else { return Ok(Vec::new()) };
        let overlay = |text: &String| {
            let fail = |why| self.fail(list, value("disks", format!("\"{text}\""), why));
            let mut spec: DiskSpec = text.parse().map_err(|error: SpecError| fail(error.to_string()))?;
            spec.path = self.beside(&spec.path.to_string_lossy());
            for folder in &mut spec.bases {
                *folder = self.beside(&folder.to_string_lossy());
            }
            match spec.path.try_exists() {
                Ok(true) => {}
                Ok(false) => {
                    return Err(fail(format!("there is no {}; create it first", escape(&spec.path))));
                }
                Err(error) => {
                    let path = escape(&spec.path);
                    return Err(fail(format!(
                        "{path}: {error}; bring its storage back, or name another file"
                    )));
                }
            }
            if !spec.read_only && !spec.overlay && !spec.path.is_dir() {
                return Err(fail(
                    "all instances share it, so none may change it; append ,ro or ,overlay".into(),
                ));
            }
            Ok(spec)
        };
        list.get_ref().0.iter().map(overlay).collect()
    }
}
