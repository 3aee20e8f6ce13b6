//! In which order the members of a round take their turns.

use fastrand::Rng;

/// Each of `members` twice: in a random order, and then in the opposite one (A B B A for two). What drifts evenly during the
/// round adds the same to all of them, and none is always the first.
pub fn mirrored(members: usize, rng: &mut Rng) -> Vec<usize> {
    let mut order = once(members, rng);
    order.extend_from_within(..);
    order[members..].reverse();
    order
}

/// Each of `members` once, in a random order: for operations that cannot be done by halves.
pub fn once(members: usize, rng: &mut Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..members).collect();
    rng.shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_drift_adds_the_same_to_every_member() {
        let mut rng = Rng::with_seed(1);
        for members in 1..8 {
            let order = mirrored(members, &mut rng);
            let drift = |member| -> usize {
                order.iter().enumerate().filter(|(_, m)| **m == member).map(|(at, _)| at).sum()
            };
            assert!((0..members).all(|member| drift(member) == 2 * members - 1), "{order:?}");
        }
    }

    #[test]
    fn each_member_comes_first_now_and_then() {
        let mut rng = Rng::with_seed(2);
        let firsts: Vec<usize> = (0..200).map(|_| mirrored(2, &mut rng)[0]).collect();
        let ones = firsts.iter().filter(|first| **first == 1).count();
        assert!((60..140).contains(&ones), "{ones} of 200");
    }
}
