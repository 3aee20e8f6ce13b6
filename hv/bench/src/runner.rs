//! Rounds: warm up, find out how many operations make a round, then all that belong together in turn, round by round, until
//! the intervals are narrow or the time is over.
#![forbid(unsafe_code)]

use super::assemble::{self, Taken};
use super::noise::{RoundWatch, Watch};
use super::operation::{Operation, OperationError, Round};
use super::plan::{Component, Pace, Plan, SLOW, SLOW_ROUNDS, components};
use super::result::{KIND, ProgramInfo, Results, SCHEMA, Settings};
use super::{program, timer};
use fastrand::Rng;
use hv_host::machine::Machine;
use hv_stats::stop::Rounds;
use hv_stats::{interval, order, verdict};
use std::path::Path;
use std::time::{Duration, Instant};

/// Receives the progress of a run.
pub trait RunProgress {
    /// Round `round` of `rounds` of an operation begins; round 0 is the warm-up.
    fn step(&mut self, round: u32, rounds: u32, operation: &str);
}

/// A failure, and the operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}")]
pub struct RunError {
    operation: String,
    source: OperationError,
}

/// Most operations of a round, however fast they are.
const MAX_COUNT: u64 = 20_000_000;

/// Rounds of a component that are repeated because the host was busy, by its rounds: one in so many.
const REPEATS: u32 = 4;

/// Finds out how many operations make a round; that also warms everything up.
fn calibrate(operation: &dyn Operation, round: Duration) -> Result<Pace, OperationError> {
    let mut count = 1u64;
    // Estimates from few operations are poor; a quarter of a round is not few.
    for _ in 0..8 {
        let mut took = operation.round(count)?.lasted;
        if count == 1 && took < round * SLOW {
            // A single operation may just have been interrupted.
            took = took.min(operation.round(count)?.lasted);
        }
        let took = took.max(Duration::from_nanos(1));
        let wanted = (count as f64 * round.as_secs_f64() / took.as_secs_f64()).ceil() as u64;
        if took >= round / 4 {
            let slow = count == 1 && took >= round * SLOW;
            return Ok(Pace { count: wanted.clamp(1, MAX_COUNT), slow });
        }
        count = wanted.clamp(count + 1, count.saturating_mul(64)).min(MAX_COUNT);
    }
    Ok(Pace { count, slow: false })
}

/// A run that is under way.
struct Runner<'a> {
    operations: &'a [&'a dyn Operation],
    plan: &'a Plan,
    paces: Vec<Pace>,
    taken: Vec<Vec<Taken>>,
    rng: Rng,
    begin: Instant,
}

/// Measures the operations; `guest` is the image of the guest that does.
///
/// # Errors
///
/// When an operation fails: then there is no result.
pub fn run(
    operations: &[&dyn Operation],
    plan: &Plan,
    guest: &Path,
    progress: &mut dyn RunProgress,
) -> Result<Results, RunError> {
    let time = hv_host::clock::wall_clock() / 1_000_000_000;
    let start = Instant::now();
    let mut paces = Vec::with_capacity(operations.len());
    for &operation in operations {
        progress.step(0, plan.rounds.least, &operation.spec().name);
        paces.push(calibrate(operation, plan.round).map_err(named(operation))?);
    }
    let watch = Watch::begin();
    let taken = operations.iter().map(|_| Vec::new()).collect();
    let rng = Rng::with_seed(plan.seed);
    let mut runner = Runner { operations, plan, paces, taken, rng, begin: Instant::now() };
    let mut components = components(&operations.iter().map(|operation| operation.spec()).collect::<Vec<_>>());
    let mut repeats = 0;
    for round in 1.. {
        // None always comes after the same others.
        runner.rng.shuffle(&mut components);
        let mut over = true;
        for component in &components {
            if runner.goes_on(component, start.elapsed()) {
                over = false;
                repeats += runner.round(component, round, progress)?;
            }
        }
        if over {
            break;
        }
    }
    let noise = watch.end(repeats);
    let measurements = assemble::measurements(operations, &runner.taken, plan.seed);
    Ok(Results {
        schema: SCHEMA,
        kind: KIND.into(),
        program: ProgramInfo {
            name: "hv".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            optimised: !cfg!(debug_assertions),
            build: program::build(Path::new("/proc/self/exe")),
            guest: program::build(guest),
        },
        time,
        settings: settings(plan),
        machine: Machine::of_this_host(),
        noise,
        curves: assemble::curves(operations, &measurements),
        operations: measurements,
    })
}

fn named(operation: &dyn Operation) -> impl FnOnce(OperationError) -> RunError {
    let operation = operation.spec().name.clone();
    move |source| RunError { operation, source }
}

/// The settings of a plan, as results have them.
pub fn settings(plan: &Plan) -> Settings {
    Settings {
        rounds: plan.rounds.least,
        most_rounds: plan.rounds.most,
        budget_s: plan.budget.as_secs(),
        round_ms: plan.round.as_millis() as u64,
        cool_down_ms: plan.cool_down.as_millis() as u64,
        seed: plan.seed,
        confidence: interval::CONFIDENCE,
        effect: verdict::EFFECT,
        pinned: plan.pinned.clone(),
        timer_ns: [timer::counter_overhead(), timer::clock_overhead()],
    }
}

impl Runner<'_> {
    /// Rounds of a component that there have been.
    fn done(&self, component: &Component) -> u32 {
        component.members.iter().map(|&member| self.taken[member].len() as u32).max().unwrap_or(0)
    }

    /// Whether there is another round of a component, when the run has taken so long.
    fn goes_on(&self, component: &Component, elapsed: Duration) -> bool {
        let Rounds { least, most } = self.plan.rounds;
        let (done, slow) = (self.done(component), |member: usize| self.paces[member].slow);
        if component.members.iter().all(|&member| slow(member)) {
            return done < least.min(SLOW_ROUNDS);
        }
        let most = if elapsed < self.plan.budget { most } else { least };
        if done < least || done >= most {
            return done < least;
        }
        let (spec, seed) = (|member: usize| self.operations[member].spec(), self.plan.seed);
        let pairs = component.pairs.iter().filter(|(own, other)| !slow(*own) && !slow(*other));
        let mut known: Vec<_> = pairs
            .map(|&(own, other)| assemble::ratio(spec(own), &self.taken[own], &self.taken[other], seed))
            .collect();
        if component.pairs.is_empty() {
            known.push(assemble::median(&self.taken[component.members[0]], seed));
        }
        Rounds { least, most }.go_on(done, &known)
    }

    /// A round of a component. One during which the host was busy with other things is repeated, now and then; what it came to has no
    /// part in that. Returns whether it was.
    fn round(
        &mut self,
        component: &Component,
        round: u32,
        progress: &mut dyn RunProgress,
    ) -> Result<u32, RunError> {
        let (mut taken, noisy) = self.turns(component, round, progress)?;
        let repeated = component.members.first().map_or(0, |&member| self.repeated(member));
        // Of slow ones there is no time for more.
        let slow = component.members.iter().any(|&member| self.paces[member].slow);
        let repeat = noisy && !slow && repeated < self.plan.rounds.least.div_ceil(REPEATS);
        if repeat {
            (taken, _) = self.turns(component, round, progress)?;
            taken.iter_mut().for_each(|(_, taken)| taken.repeated = true);
        }
        for (member, taken) in taken {
            self.taken[member].push(taken);
        }
        Ok(repeat.into())
    }

    fn repeated(&self, member: usize) -> u32 {
        self.taken[member].iter().filter(|taken| taken.repeated).count() as u32
    }

    /// All members once: half of each, in a random order, and then the other halves in the opposite one; those that cannot be halved
    /// come after these, and slow ones no more when they have had their rounds. Returns what they came to, and whether the host was
    /// busy with other things.
    fn turns(
        &mut self,
        component: &Component,
        round: u32,
        progress: &mut dyn RunProgress,
    ) -> Result<(Vec<(usize, Taken)>, bool), RunError> {
        std::thread::sleep(self.plan.cool_down);
        let done = self.done(component);
        let (halves, wholes): (Vec<usize>, Vec<usize>) =
            component.members.iter().partition(|&&member| self.paces[member].count > 1);
        let wholes: Vec<usize> =
            wholes.into_iter().filter(|&member| !self.paces[member].slow || done < SLOW_ROUNDS).collect();
        let mirrored = order::mirrored(halves.len(), &mut self.rng).into_iter().map(|turn| halves[turn]);
        let turns: Vec<usize> = mirrored
            .chain(order::once(wholes.len(), &mut self.rng).into_iter().map(|turn| wholes[turn]))
            .collect();
        let mut taken: Vec<(usize, Taken)> = Vec::new();
        let watch = RoundWatch::begin();
        let mut turns = turns.into_iter().peekable();
        while let Some(member) = turns.next() {
            let (operation, count) = (self.operations[member], self.paces[member].count);
            // The two halves in the middle are neighbours.
            let both = turns.next_if_eq(&member).is_some();
            let count = if both { count } else { count.div_ceil(2) };
            progress.step(round, self.plan.rounds.least, &operation.spec().name);
            let begin = self.begin.elapsed();
            let part: Round = operation.round(count).map_err(named(operation))?;
            let end = self.begin.elapsed();
            match taken.iter_mut().find(|(known, _)| *known == member) {
                Some((_, taken)) => {
                    taken.round.add(&part);
                    taken.end = end;
                }
                None => {
                    taken.push((member, Taken { round: part, begin, end, noisy: false, repeated: false }))
                }
            }
        }
        let noisy = watch.end();
        taken.iter_mut().for_each(|(_, taken)| taken.noisy = noisy);
        Ok((taken, noisy))
    }
}
