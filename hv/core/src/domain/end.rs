//! How a guest ends: the order that it was given, or the record of its crash.

use super::fault_report::{Body, FaultRecord};
use super::life::Event;
use super::vcpu::Cpu;
use super::{Domain, Outcome, Stop};
use crate::background::Work;
use crate::platform::Fault;
use std::sync::Arc;

/// What ended a guest.
pub(super) enum End {
    Outcome(Outcome),
    /// A crash whose report is still to be written.
    Crash(Box<FaultRecord>),
}

/// An order to end.
#[derive(Clone, Debug)]
pub(super) enum Order {
    Stop(Stop),
    /// A device found that the guest broke its protocol.
    ProtocolViolation(String),
}

impl Domain {
    /// Tells the guest to end.
    pub(super) fn order(&self, order: Order) {
        self.life.order(order);
        self.kick_all();
    }

    /// A virtual CPU leaves the guest for good: it has ended the guest, or obeys the order to end. Returns whether it is
    /// the last one, which then does the remaining work. The first one decides how the guest has ended.
    pub(super) fn leave(&self, vcpu: usize, end: End) -> bool {
        // Recorded before the others can see that the guest stops: they would find no order, and decide.
        let decides = self.drain.begin(end);
        self.life.happen(Event::Stop);
        if decides {
            self.kick_others(vcpu);
        }
        self.life.leave(vcpu)
    }

    pub(super) fn obey(&self, cpu: &mut Cpu) -> End {
        // Inspectors that were added before the order to end are told where the guest was.
        self.answer_inspectors(cpu, false);
        let order = self.life.record().order.clone();
        match order {
            Some(Order::ProtocolViolation(reason)) => self.crash(cpu, reason),
            Some(Order::Stop(stop)) => End::Outcome(Outcome::Stopped(stop)),
            None => End::Outcome(Outcome::Stopped(Stop::Dropped)),
        }
    }

    pub(super) fn body(&self) -> Body<'_> {
        Body {
            name: &self.name,
            image: &self.image,
            image_base: self.memory.base().0 + self.places.image,
            memory: &self.memory,
            stack: self.memory.base().0 + self.places.stack,
            stack_size: self.places.stack_size(),
        }
    }

    pub(super) fn crash(&self, cpu: &mut Cpu, reason: String) -> End {
        self.on_vcpu(cpu.number, self.body().remains(reason, Some(cpu.vcpu.registers())))
    }

    /// A crash, with the virtual CPU named if there are several.
    fn on_vcpu(&self, number: usize, mut record: FaultRecord) -> End {
        if self.vcpus.len() > 1 {
            record.reason += &format!(" (on virtual CPU {number})");
        }
        End::Crash(Box::new(record))
    }

    pub(super) fn fault(&self, cpu: &mut Cpu, fault: &Fault) -> End {
        self.on_vcpu(cpu.number, self.body().of_fault(fault, cpu.vcpu.registers()))
    }

    /// The guest has crashed: has the report written. The background thread writes it if this thread has other guests to run.
    pub(super) fn crashed(&self, remains: Box<FaultRecord>) {
        let engine = self.engine.upgrade();
        let reports = engine.as_ref().and_then(|engine| engine.reports.as_ref());
        match (reports, self.me.upgrade()) {
            (Some(reports), Some(domain)) => reports.submit(Box::new(Crash { domain, remains })),
            _ => self.ended(Outcome::Crashed(Box::new(remains.report()))),
        }
    }

    /// The guest has ended: publishes the outcome to all waiters.
    pub(super) fn ended(&self, outcome: Outcome) {
        if let Some(hook) = &self.hook {
            hook.ended(&outcome);
        }
        self.memory_meter.ended();
        self.life.finish(outcome);
    }
}

/// A guest that has crashed and whose report is queued.
struct Crash {
    domain: Arc<Domain>,
    remains: Box<FaultRecord>,
}

impl Work for Crash {
    fn run(self: Box<Self>) {
        self.domain.ended(Outcome::Crashed(Box::new(self.remains.report())));
    }

    fn refused(self: Box<Self>) {
        let missing = "many guests crash at the same time";
        self.domain.ended(Outcome::Crashed(Box::new(self.remains.without_names(missing))));
    }
}
