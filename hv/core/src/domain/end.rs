//! How a guest ends: what it was ordered, or what is known of its crash.

use super::fault_report::{Body, FaultRecord};
use super::{Cpu, Domain, End, Order, Outcome, Stop};
use crate::background::Work;
use crate::platform::Fault;
use std::sync::Arc;

impl Domain {
    pub(super) fn obey(&self, cpu: &mut Cpu) -> End {
        // Whoever asked before it was ordered to end wants to know where it was.
        self.answer_inspectors(cpu, false);
        let order = self.order.lock().expect("no panic while held").clone();
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
        End::Crash(Box::new(self.body().remains(reason, Some(cpu.vcpu.registers()))))
    }

    pub(super) fn fault(&self, cpu: &mut Cpu, fault: &Fault) -> End {
        End::Crash(Box::new(self.body().of_fault(fault, cpu.vcpu.registers())))
    }

    /// The guest has crashed: has the report written, by others if this thread has other guests to run.
    pub(super) fn crashed(&self, remains: Box<FaultRecord>) {
        let engine = self.engine.upgrade();
        let reports = engine.as_ref().and_then(|engine| engine.reports.as_ref());
        match (reports, self.me.upgrade()) {
            (Some(reports), Some(domain)) => reports.submit(Box::new(Crash { domain, remains })),
            _ => self.ended(Outcome::Crashed(Box::new(remains.report()))),
        }
    }

    /// The guest has ended: tells all who wait for that.
    pub(super) fn ended(&self, outcome: Outcome) {
        if let Some(observer) = &self.observer {
            observer.ended(&outcome);
        }
        self.status().outcome = Some(outcome);
        self.changed.notify_all();
    }
}

/// A guest that has crashed, and waits for its report.
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
