//! The ring code alone: a request and its response, both ends on one processor,
//! nobody notified, no device behind it.

use crate::operation::{Group, Kind, Operation, OperationError, Round, Spec};
use crate::timer::{counter_overhead, cpu_time, nanos_since};
use hv_abi::io::block::{BlockRequest, BlockResponse};
use hv_abi::ring::{Back, Front, Layout};
use hv_abi::{GuestAddr, PAGE_SIZE};
use hv_core::memory::{GuestMemory, RingMemory};
use hv_host::clock::tsc;
use hv_stats::Samples;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::FromZeros;

/// Entries of the ring: as a disk has them.
const ENTRIES: u32 = 128;

struct Batch {
    spec: Spec,
    size: u32,
    memory: Arc<GuestMemory>,
}

pub(super) fn operations() -> Result<Vec<Box<dyn Operation>>, OperationError> {
    let batch = |size: u32, what: &str| {
        let spec = Spec {
            name: format!("ring-{size}"),
            group: Group::Events,
            kind: Kind::Hv,
            against: None,
            bytes: 0,
            curve: Some(("ring code, both ends".into(), size)),
            what: what.into(),
        };
        let memory = Arc::new(GuestMemory::new(GuestAddr(0x20_0000), 16 * PAGE_SIZE)?);
        Ok::<_, OperationError>(Box::new(Batch { spec, size, memory }) as Box<dyn Operation>)
    };
    Ok(vec![
        batch(1, "A block request through a ring and its response back, alone: both ends on one processor.")?,
        batch(8, "The same in batches of 8: the time of one of them.")?,
        batch(64, "The same in batches of 64: the time of one of them.")?,
    ])
}

/// Both ends of a ring.
pub struct Ends {
    front: Front<RingMemory, BlockRequest, BlockResponse>,
    back: Back<RingMemory, BlockRequest, BlockResponse>,
    taken: Vec<BlockRequest>,
    answers: Vec<BlockResponse>,
}

impl Ends {
    /// Both ends of a new ring at the start of this memory, which has room for 16 pages, for
    /// batches of at most `size` requests, which are at most 128.
    pub fn new(memory: &Arc<GuestMemory>, size: u32) -> Ends {
        let layout = Layout::new::<BlockRequest, BlockResponse>(ENTRIES, ENTRIES).expect("a power of two");
        // A ring starts as zeroes.
        memory.host_write(0, &vec![0; layout.size()]);
        let memory = RingMemory::new(memory, 0, &layout);
        Ends {
            front: Front::new(memory.clone(), &layout),
            back: Back::new(memory, &layout),
            taken: vec![BlockRequest::new_zeroed(); size as usize],
            answers: vec![BlockResponse::new_zeroed(); size as usize],
        }
    }

    /// Moves one batch there and back, as driver and device do it.
    pub fn batch(&mut self) {
        let sound = "both ends are this process's";
        for id in 0..self.taken.len() as u64 {
            let request = BlockRequest { id, ..BlockRequest::new_zeroed() };
            self.front.requests.push(&[request]).expect(sound);
        }
        let _ = self.front.requests.publish();
        let taken = self.back.requests.pop(&mut self.taken).expect(sound);
        let _ = self.back.requests.release();
        for (answer, request) in self.answers.iter_mut().zip(black_box(&self.taken[..taken])) {
            *answer = BlockResponse { id: request.id, ..BlockResponse::new_zeroed() };
        }
        self.back.responses.push(&self.answers[..taken]).expect(sound);
        let _ = self.back.responses.publish();
        while let Some(answer) = self.front.responses.pop_one().expect(sound) {
            black_box(answer);
        }
        let _ = self.front.responses.release();
    }
}

impl Operation for Batch {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        let mut ends = Ends::new(&self.memory, self.size);
        // A sample has to be long against the reading of the counter.
        let per_sample = u64::from(512 / self.size);
        let operations_per_sample = per_sample * u64::from(self.size);
        let count = count.div_ceil(operations_per_sample);
        let mut samples = Samples::default();
        (0..count / 10).for_each(|_| ends.batch());
        let (begin, cpu, mut sum) = (Instant::now(), cpu_time(), 0.0);
        for _ in 0..count {
            let start = tsc();
            (0..per_sample).for_each(|_| ends.batch());
            let nanos = nanos_since(start);
            samples.record(nanos / operations_per_sample as f64, 1);
            sum += nanos;
        }
        let (lasted, cpu) = (begin.elapsed(), cpu_time() - cpu);
        let (time, overhead) = (Duration::from_nanos(sum as u64), counter_overhead());
        let operations = count * operations_per_sample;
        Ok(Round { operations, overhead, time, lasted, cpu, exits: BTreeMap::new(), samples })
    }
}
