//! What is measured together: operations that are compared, in rounds of their own. Pure.
#![forbid(unsafe_code)]

use super::operation::Spec;
use hv_stats::interval::FEWEST;
use hv_stats::stop::Rounds;
use std::time::Duration;

/// How much is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Rounds of each operation.
    pub rounds: Rounds,
    /// What the operations of a round are to take together.
    pub round: Duration,
    /// The pause before each round of operations that belong together: what the others have left to the kernel ends meanwhile.
    pub cool_down: Duration,
    /// How long there are more rounds than at least.
    pub budget: Duration,
    /// The seed of the orders within rounds, and of the bootstraps.
    pub seed: u64,
    /// The processors that this process has been confined to, if it has.
    pub pinned: Option<String>,
}

impl Plan {
    /// Enough for figures that are published. The operations of the largest comparison take their turns within a second.
    pub fn full() -> Plan {
        Plan {
            rounds: Rounds { least: 20, most: 40 },
            round: Duration::from_millis(60),
            cool_down: Duration::from_millis(10),
            budget: Duration::from_secs(240),
            seed: 1,
            pinned: None,
        }
    }

    /// Enough to see whether something is wrong: everything within a minute and a half.
    pub fn quick() -> Plan {
        Plan {
            rounds: Rounds { least: 7, most: 20 },
            round: Duration::from_millis(30),
            cool_down: Duration::from_millis(2),
            budget: Duration::from_secs(45),
            ..Plan::full()
        }
    }
}

/// An operation that takes as long as so many rounds is slow.
pub const SLOW: u32 = 10;

/// Rounds of a slow operation: enough for an interval.
pub const SLOW_ROUNDS: u32 = FEWEST as u32;

/// How often an operation is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Operations of a round.
    pub count: u64,
    /// Whether one takes as long as several rounds.
    pub slow: bool,
}

/// Operations that are compared with each other, directly or by others: they take turns within each round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Their places in the list.
    pub members: Vec<usize>,
    /// Who is compared with whom: places in the list.
    pub pairs: Vec<(usize, usize)>,
}

/// Takes the list of operations apart, in its order.
pub fn components(specs: &[&Spec]) -> Vec<Component> {
    let pairs: Vec<(usize, usize)> = specs
        .iter()
        .enumerate()
        .filter_map(|(own, spec)| {
            let name = spec.against.as_ref()?;
            Some((own, specs.iter().position(|other| other.name == *name)?))
        })
        .collect();
    // Each starts alone, and takes the number of who it is compared with; every pair joins at most two numbers.
    let mut number: Vec<usize> = (0..specs.len()).collect();
    for &(own, other) in &pairs {
        let (from, to) = (number[own], number[other]);
        number.iter_mut().filter(|n| **n == from).for_each(|n| *n = to);
    }
    let mut components: Vec<(usize, Component)> = Vec::new();
    for (member, &n) in number.iter().enumerate() {
        match components.iter_mut().find(|(known, _)| *known == n) {
            Some((_, component)) => component.members.push(member),
            None => components.push((n, Component { members: vec![member], pairs: Vec::new() })),
        }
    }
    for pair in pairs {
        let of_pair = components.iter_mut().find(|(n, _)| *n == number[pair.0]);
        of_pair.expect("every member has a component").1.pairs.push(pair);
    }
    components.into_iter().map(|(_, component)| component).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{Group, Kind};

    fn spec(name: &str, against: Option<&str>) -> Spec {
        Spec {
            name: name.into(),
            group: Group::Exits,
            kind: Kind::Hv,
            against: against.map(Into::into),
            bytes: 0,
            curve: None,
            what: "Something.".into(),
        }
    }

    #[test]
    fn what_is_compared_belongs_together() {
        let specs = [
            spec("a", None),
            spec("b", Some("a")),
            spec("c", None),
            spec("d", Some("b")),
            spec("e", Some("missing")),
            spec("f", Some("c")),
            spec("g", Some("a")),
        ];
        let found = components(&specs.iter().collect::<Vec<_>>());
        let of = |members: &[usize], pairs: &[(usize, usize)]| Component {
            members: members.into(),
            pairs: pairs.into(),
        };
        assert_eq!(
            found,
            [of(&[0, 1, 3, 6], &[(1, 0), (3, 1), (6, 0)]), of(&[2, 5], &[(5, 2)]), of(&[4], &[])]
        );
    }

    #[test]
    fn operations_that_are_compared_in_a_circle_end() {
        let specs = [spec("a", Some("b")), spec("b", Some("a"))];
        let found = components(&specs.iter().collect::<Vec<_>>());
        assert_eq!((found.len(), found[0].pairs.len()), (1, 2));
    }
}
