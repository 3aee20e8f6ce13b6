//! What the guests of functions have used, as metrics.
#![forbid(unsafe_code)]

use super::metrics::{FunctionFigures, counters, registered};
use hv_services::Figure;
use prometheus::{CounterVec, IntCounterVec, Opts, Registry};

/// The metrics of one reading.
pub(super) struct UsageMetrics {
    cpu: CounterVec,
    memory: CounterVec,
    operations: IntCounterVec,
    bytes: IntCounterVec,
    tenant_cpu: CounterVec,
    tenant_memory: CounterVec,
    services: IntCounterVec,
    connection_bytes: IntCounterVec,
}

impl UsageMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let seconds = |name, help, label| {
            registered(registry, CounterVec::new(Opts::new(name, help), &["function", label]))
        };
        let of_tenant =
            |name, help| registered(registry, CounterVec::new(Opts::new(name, help), &["tenant"]));
        let moved = |name, help| counters(registry, name, help, &["function", "device", "direction"]);
        UsageMetrics {
            cpu: seconds(
                "hv_guest_cpu_seconds_total",
                "CPU time of a function's guests: of their virtual CPUs, and of work for their devices.",
                "kind",
            ),
            memory: seconds(
                "hv_guest_memory_byte_seconds_total",
                "Memory of a function's guests over time: of single ones, and what all share.",
                "kind",
            ),
            operations: moved(
                "hv_guest_device_operations_total",
                "Operations of the devices of a function's guests.",
            ),
            bytes: moved("hv_guest_device_bytes_total", "Bytes that these operations moved."),
            tenant_cpu: of_tenant(
                "hv_tenant_cpu_seconds_total",
                "CPU time of the guests of a tenant's functions, and of work for their devices.",
            ),
            tenant_memory: of_tenant(
                "hv_tenant_memory_byte_seconds_total",
                "Memory of a tenant's functions over time: of single guests, and what those of a function share.",
            ),
            services: counters(
                registry,
                "hv_service_operations_total",
                "What a function's guests have asked of stores, blobs, secrets and connections, by result.",
                &["function", "service", "binding", "result"],
            ),
            connection_bytes: counters(
                registry,
                "hv_service_connection_bytes_total",
                "Bytes of connections of a function's guests.",
                &["function", "direction"],
            ),
        }
    }

    pub(super) fn add(&self, figures: &FunctionFigures) {
        let (name, usage) = (figures.function.as_str(), &figures.usage);
        if let Some(tenant) = &figures.tenant {
            let memory = usage.memory_byte_seconds() + figures.shared_byte_seconds;
            self.tenant_cpu.with_label_values(&[&**tenant]).inc_by(usage.cpu_time().as_secs_f64());
            self.tenant_memory.with_label_values(&[&**tenant]).inc_by(memory);
        }
        for (kind, time) in [("vcpu", usage.vcpu_time), ("device", usage.device_time)] {
            self.cpu.with_label_values(&[name, kind]).inc_by(time.as_secs_f64());
        }
        for (kind, area) in
            [("private", usage.memory_byte_seconds()), ("shared", figures.shared_byte_seconds)]
        {
            self.memory.with_label_values(&[name, kind]).inc_by(area);
        }
        for (Figure { service, binding, result }, count) in &figures.services {
            self.services.with_label_values(&[name, service, binding, result]).inc_by(*count);
        }
        for (direction, bytes) in ["in", "out"].into_iter().zip(figures.connection_bytes) {
            self.connection_bytes.with_label_values(&[name, direction]).inc_by(bytes);
        }
        for (device, traffic) in &usage.devices {
            for (direction, operations, bytes) in [
                ("in", traffic.operations_in, traffic.bytes_in),
                ("out", traffic.operations_out, traffic.bytes_out),
            ] {
                let labels = [name, device, direction];
                self.operations.with_label_values(&labels).inc_by(operations);
                self.bytes.with_label_values(&labels).inc_by(bytes);
            }
        }
    }
}
