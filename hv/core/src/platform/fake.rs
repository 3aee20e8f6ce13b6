//! A scripted platform, for tests of everything above the platforms.

use super::{
    CpuState, Exit, HypercallPage, Kick, Machine, Platform, PlatformError, Registers, Start, Started, Vcpu,
};
use crate::memory::GuestMemory;
use hv_abi::{EventPort, GuestAddr};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// Runs no instructions. Its virtual CPU exits with the exits of the script, one after the other, and with
/// [`Exit::Failed`] after the last one.
#[derive(Default)]
pub struct FakePlatform {
    script: Mutex<VecDeque<Exit>>,
    results: Arc<Mutex<Vec<i64>>>,
    upcalls: Arc<Mutex<Vec<GuestAddr>>>,
}

impl FakePlatform {
    /// A platform whose only guest has these exits.
    pub fn new(script: impl IntoIterator<Item = Exit>) -> Self {
        FakePlatform { script: Mutex::new(script.into_iter().collect()), ..FakePlatform::default() }
    }

    /// The handlers to which the guest was redirected so far.
    pub fn upcalls(&self) -> Vec<GuestAddr> {
        self.upcalls.lock().expect("no panic while held").clone()
    }

    /// What the guest's hypercalls returned so far.
    pub fn results(&self) -> Vec<i64> {
        self.results.lock().expect("no panic while held").clone()
    }
}

impl Platform for FakePlatform {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn prepare(&self, _: &GuestMemory, _: &[HypercallPage]) -> Result<(), PlatformError> {
        Ok(())
    }

    fn start(&self, _: &Start<'_>) -> Result<Started, PlatformError> {
        let script = std::mem::take(&mut *self.script.lock().expect("no panic while held"));
        let (results, upcalls) = (self.results.clone(), self.upcalls.clone());
        let vcpu = FakeVcpu { script, results, upcalls, kicked: Arc::default() };
        Ok(Started { machine: Box::new(FakeMachine), vcpus: vec![Box::new(vcpu)] })
    }
}

struct FakeMachine;

impl Machine for FakeMachine {
    fn bind_doorbell(&mut self, _: EventPort, _: &EventFd) -> std::io::Result<()> {
        Ok(())
    }

    fn tsc_khz(&self) -> u32 {
        hv_host::clock::tsc_khz()
    }
}

struct FakeVcpu {
    script: VecDeque<Exit>,
    results: Arc<Mutex<Vec<i64>>>,
    upcalls: Arc<Mutex<Vec<GuestAddr>>>,
    kicked: Arc<Kicked>,
}

#[derive(Default)]
struct Kicked(AtomicBool);

impl Kick for Kicked {
    fn kick(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Vcpu for FakeVcpu {
    fn run(&mut self) -> Exit {
        if self.kicked.0.swap(false, Ordering::SeqCst) {
            return Exit::Interrupted;
        }
        self.script.pop_front().unwrap_or_else(|| Exit::Failed("the script has ended".into()))
    }

    fn set_result(&mut self, value: i64) {
        self.results.lock().expect("no panic while held").push(value);
    }

    fn registers(&mut self) -> Registers {
        Registers::default()
    }

    fn save(&mut self) -> Result<CpuState, PlatformError> {
        Ok(CpuState::at_entry(0, 0, 0))
    }

    fn reset(&mut self, _: &CpuState) -> Result<(), PlatformError> {
        Ok(())
    }

    fn redirect(&mut self, handler: GuestAddr) -> Result<(), PlatformError> {
        self.upcalls.lock().expect("no panic while held").push(handler);
        Ok(())
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kicked.clone()
    }
}
