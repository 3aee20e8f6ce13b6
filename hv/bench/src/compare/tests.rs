use super::*;
use crate::plan::Plan;
use crate::report::tests::{estimate, sample};
use crate::table::Style;
use fastrand::Rng;
use hv_stats::stop::Rounds;

fn named<'a>(name: &'a str, results: &'a Results) -> Named<'a> {
    Named { name, results }
}

fn compare(old: &Results, new: &Results) -> Compared {
    Compared::of(&[named("old.json", old), named("new.json", new)], false).unwrap()
}

/// A host on which other things happen: it drifts, jumps now and then, and hits single measurements.
struct SimulatedHost {
    rng: Rng,
    /// By how much everything takes longer than it might.
    speed: f64,
}

impl SimulatedHost {
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.rng.f64()).sum::<f64>() - 6.0
    }

    /// A measurement of something that takes so long.
    fn measure(&mut self, time: f64) -> f64 {
        // A drift of some per cent within a round, and a jump of up to 30 % in one of fifty measurements.
        self.speed *= (0.005 * self.normal()).exp();
        if self.rng.u8(..50) == 0 {
            self.speed = 1.0 + 0.3 * self.rng.f64();
        }
        let disturbed = if self.rng.u8(..20) == 0 { 1.0 + self.rng.f64() } else { 1.0 };
        time * self.speed * disturbed * (0.03 * self.normal()).exp()
    }

    /// A run of one comparison: rounds of A B B A or B A A B, until the interval is narrow. `by` is the true ratio.
    fn run(&mut self, by: f64, rounds: Rounds) -> Results {
        // What differs from run to run, however many rounds there are: where code and memory lie.
        let (a, b) = (by * (0.005 * self.normal()).exp(), (0.005 * self.normal()).exp());
        let (mut ratios, mut medians) = (Vec::new(), Vec::new());
        let mut ratio = estimate(1.0);
        while rounds.go_on(ratios.len() as u32, [&ratio]) {
            let mut sums = [0.0, 0.0];
            let first = self.rng.usize(..2);
            for which in [first, 1 - first, 1 - first, first] {
                sums[which] += self.measure([a, b][which]);
            }
            ratios.push(sums[0] / sums[1]);
            medians.push(14_000.0 * sums[0] / 2.0);
            ratio = Estimate::of(ratios.iter().copied(), 1);
        }
        let mut results = sample();
        results.operations.truncate(2);
        let m = &mut results.operations[1];
        let round = m.rounds[0].clone();
        m.rounds = medians
            .iter()
            .map(|&median_ns| crate::result::RoundValues { median_ns, ..round.clone() })
            .collect();
        m.median_ns = Estimate::of(medians, 1);
        let against = m.against.as_mut().unwrap();
        (against.ratios, against.ratio) = (ratios, ratio);
        results
    }
}

/// Verdicts on so many pairs of runs, of which the second has its operation take `by` times as long.
fn verdicts(pairs: u64, by: f64, rounds: Rounds) -> Vec<Verdict> {
    let pair = |seed| {
        let mut host = SimulatedHost { rng: Rng::with_seed(seed), speed: 1.0 };
        let (old, new) = (host.run(1.04, rounds), host.run(1.04 * by, rounds));
        compare(&old, &new).ratios[0].changes[0].unwrap().verdict
    };
    (0..pairs).map(pair).collect()
}

fn count(verdicts: &[Verdict], of: Verdict) -> usize {
    verdicts.iter().filter(|verdict| **verdict == of).count()
}

#[test]
fn runs_of_the_same_program_are_told_to_differ_no_more_often_than_chance_allows() {
    for (what, rounds) in [("full", Plan::full().rounds), ("quick", Plan::quick().rounds)] {
        // Fifty runs of a result with ten comparisons.
        let verdicts = verdicts(500, 1.0, rounds);
        let claims = verdicts.iter().filter(|verdict| verdict.claims()).count();
        assert!(claims * 20 <= verdicts.len(), "{what}: {claims} of {}", verdicts.len());
        assert_eq!(count(&verdicts, Verdict::NotCompared), 0);
    }
}

#[test]
fn a_tenth_more_is_found() {
    for (what, rounds) in [("full", Plan::full().rounds), ("quick", Plan::quick().rounds)] {
        for (by, verdict) in [(1.1, Verdict::Slower), (1.0 / 1.1, Verdict::Faster)] {
            let verdicts = verdicts(200, by, rounds);
            let found = count(&verdicts, verdict);
            assert!(found * 100 >= verdicts.len() * 95, "{what}, {by}: {found} of {}", verdicts.len());
        }
    }
}

#[test]
fn ratios_are_compared_and_medians_are_not() {
    let (old, mut new) = (sample(), sample());
    // The host is twice as slow: every median is twice as long, and no ratio differs.
    for m in &mut new.operations {
        m.rounds.iter_mut().for_each(|round| round.median_ns *= 2.0);
        m.median_ns = estimate(2.0 * m.median_ns.median);
    }
    let same = compare(&old, &new);
    assert!(same.changes().all(|change| !change.verdict.claims()) && same.changes().count() == 1);
    assert!((same.medians[0].changes[0].unwrap().median - 2.0).abs() < 1e-9);
    let against = new.operations[1].against.as_mut().unwrap();
    against.ratios.iter_mut().for_each(|ratio| *ratio *= 1.5);
    let slower = compare(&old, &new);
    assert!(slower.has_slower() && !compare(&new, &old).has_slower());
    assert_eq!(compare(&new, &old).ratios[0].changes[0].unwrap().verdict, Verdict::Faster);
}

#[test]
fn what_was_measured_in_another_way_is_refused() {
    let old = sample();
    let refuse = |change: fn(&mut Results), part: &str| {
        let mut new = sample();
        change(&mut new);
        let runs = [named("old.json", &old), named("new.json", &new)];
        let error = Compared::of(&runs, false).unwrap_err().to_string();
        assert!(error.contains("old.json and new.json") && error.contains(part), "{error}");
        Compared::of(&runs, true)
    };
    for shown in [
        refuse(|new| new.settings.round_ms = 7, "25 ms in the one and of 7 ms in the other (--quick)"),
        refuse(|new| new.program.optimised = false, "not optimised in the other"),
    ] {
        let shown = shown.unwrap();
        assert_eq!((shown.changes().count(), shown.notes.len()), (0, 1));
        assert!(shown.files[1].not_compared.is_some());
    }
    let nothing =
        refuse(|new| new.operations.iter_mut().for_each(|m| m.name += "-2"), "no operation in common");
    assert!(matches!(nothing, Err(CompareError::NothingInCommon { .. })));
}

#[test]
fn hosts_that_differ_are_named_and_nothing_is_compared() {
    let (old, mut new) = (sample(), sample());
    assert_eq!(compare(&old, &new).notes, Vec::<String>::new());
    new.machine.kvm = "kvm_amd".into();
    let compared = compare(&old, &new);
    assert!(
        compared.notes.len() == 1 && compared.notes[0].contains("kvm_pvm; kvm_amd"),
        "{:?}",
        compared.notes
    );
    assert_eq!(compared.changes().count(), 0);
    new.noise.warnings.push("somebody sang".into());
    assert!(compare(&old, &new).notes.iter().any(|note| note == "new.json was noisy: somebody sang"));
}

#[test]
fn what_one_run_lacks_is_told() {
    let (old, mut new) = (sample(), sample());
    let gone = new.operations.pop().unwrap().name;
    let compared = compare(&old, &new);
    assert_eq!(compared.missing, [Missing { file: "new.json".into(), operations: vec![gone.clone()] }]);
    let row = compared.medians.iter().find(|row| row.name == gone).unwrap();
    assert!(row.columns[0].is_some() && row.columns[1].is_none() && row.changes[0].is_none());
    // Compared with something else, the ratio is another one.
    new.operations[1].against.as_mut().unwrap().name = "clock-page".into();
    assert_eq!(compare(&old, &new).ratios[0].columns[1], None);
}

#[test]
fn three_files_are_three_columns_in_each_form() {
    let all = [sample(), sample(), sample()];
    let names = ["a.json", "folder/b.json", "c,|.json"];
    let runs: Vec<_> = names.iter().zip(&all).map(|(name, results)| named(name, results)).collect();
    let compared = Compared::of(&runs, false).unwrap();
    assert_eq!((compared.ratios[0].columns.len(), compared.ratios[0].changes.len()), (3, 2));
    let text = table(&compared, Style { colour: false });
    assert!(text.find("Ratios").unwrap() < text.find("Medians").unwrap(), "{text}");
    assert!(text.contains("b by a") && text.contains("0 of 2 ratios differ"), "{text}");
    let csv = csv(&compared);
    assert!(csv.lines().all(|line| line.replace("\"c,|.json\"", "").matches(',').count() == 11), "{csv}");
    assert_eq!(csv.lines().count(), 1 + 3 + 9);
    let markdown = markdown(&compared);
    let row = markdown.lines().find(|line| line.starts_with("| hypercall")).unwrap();
    assert_eq!(row.matches('|').count(), 8, "{row}");
    assert!(markdown.contains("c,\\|"), "{markdown}");
    // One file is a table of its own.
    let alone = Compared::of(&runs[..1], false).unwrap();
    assert!(table(&alone, Style { colour: true }).contains("hypercall"));
}

#[test]
fn a_cell_is_no_formula() {
    for (cell, written) in
        [("=1+1", "'=1+1"), ("a\"b", "\"a\"\"b\""), ("plain", "plain"), ("-x,y", "\"'-x,y\"")]
    {
        assert_eq!(text::quoted(cell), written);
    }
}
