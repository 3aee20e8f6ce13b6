//! Glob patterns as Redis has them: `*`, `?`, `[a-c]`, `[^a]`, `\` before what is meant as it is.

/// Whether a text fits a pattern. Takes time proportional to the product of
/// their lengths at worst, whatever the pattern.
pub(super) fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last `*` does not fit: that `*` takes one byte more.
    let mut retry = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
        } else if let Some(next) = one(pattern, p, text[t]) {
            (p, t) = (next, t + 1);
        } else if let Some((after, taken)) = retry {
            retry = Some((after, taken + 1));
            (p, t) = (after, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Whether the pattern's element at `at` fits a byte: then where the next one starts.
fn one(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'\\' if at + 1 < pattern.len() => (pattern[at + 1] == byte).then_some(at + 2),
        b'[' => {
            let (start, negated) =
                if pattern.get(at + 1) == Some(&b'^') { (at + 2, true) } else { (at + 1, false) };
            // The end, beyond a `]` that is the first of the set.
            let end =
                pattern[start..].iter().skip(1).position(|byte| *byte == b']').map(|end| start + 1 + end)?;
            let set = &pattern[start..end];
            let mut found = false;
            let mut index = 0;
            while index < set.len() {
                match set[index..] {
                    [low, b'-', high, ..] => {
                        found |= (low.min(high)..=low.max(high)).contains(&byte);
                        index += 3;
                    }
                    _ => {
                        found |= set[index] == byte;
                        index += 1;
                    }
                }
            }
            (found != negated).then_some(end + 1)
        }
        same => (same == byte).then_some(at + 1),
    }
}
