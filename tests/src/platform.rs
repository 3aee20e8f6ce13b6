//! The platforms that guests of tests run on. Each test is given one by [`guest_test`](crate::guest_test).

use crate::{Finished, Running, guest};
use hv::platform::Preference;
use std::fmt;
use std::process::{Command, Stdio};

/// What the guests of a test run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Virtual machines.
    Kvm,
    /// Sandboxed processes.
    Process,
}

impl Platform {
    /// Its name: the value of `--platform`.
    pub fn name(self) -> &'static str {
        match self {
            Platform::Kvm => "kvm",
            Platform::Process => "process",
        }
    }

    /// What hv makes guests with on it.
    ///
    /// # Errors
    ///
    /// If this host does not have it.
    pub fn choose(self) -> Result<Box<dyn hv::platform::Platform>, hv::platform::PlatformError> {
        let preference = match self {
            Platform::Kvm => Preference::Kvm,
            Platform::Process => Preference::Process,
        };
        hv::platform::choose(preference).map(|choice| choice.platform)
    }

    /// Whether this host has it; says why not.
    pub fn is_here(self) -> bool {
        let choice = self.choose();
        if let Err(error) = &choice {
            crate::skip(format_args!("needs the platform {self}: {error}"));
        }
        choice.is_ok()
    }

    /// `hv` on it, not yet started.
    pub fn command(self) -> Command {
        let mut command = crate::command();
        self.apply(&mut command);
        command
    }

    /// Has every `hv` that a command starts use it, where `--platform` does not say another one.
    pub fn apply(self, command: &mut Command) -> &mut Command {
        command.env("HV_PLATFORM", self.name())
    }

    /// An engine on it in this process.
    pub fn engine(self, workers: usize) -> hv::Engine {
        let platform = self.choose().expect("the test runs on it");
        hv::Engine::new(platform, workers).expect("an engine can be made")
    }

    /// `hv run GUEST …` on it, not yet started.
    pub fn run(self, name: &str, options: &[&str], arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.arg("run").arg(guest(name)).args(options);
        if !arguments.is_empty() {
            command.arg("--").args(arguments);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs `hv run GUEST …` on it to its end.
    pub fn ran(self, name: &str, options: &[&str], arguments: &[&str]) -> Finished {
        Running::new(&mut self.run(name, options, arguments)).finish()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Runs a test on a platform that this host has. [`guest_test`](crate::guest_test) calls it.
pub fn run_on(platform: Platform, test: impl FnOnce(Platform)) {
    if platform.is_here() {
        test(platform);
    }
}
