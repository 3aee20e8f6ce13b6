//! Which trace a request belongs to: W3C Trace Context, version 00.

use http::{HeaderMap, HeaderName};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

/// The trace of a request, and its own span in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) id: u128,
    /// The span of the client that it belongs to.
    pub(crate) parent: Option<u64>,
    /// Its lowest three bits are free for [`Part`](super::spans::Part)s of it.
    pub(crate) span: u64,
    pub(crate) sampled: bool,
    /// A client has begun it, and its `tracestate` belongs to it.
    pub(crate) continues: bool,
}

impl Trace {
    /// What the guest is told: that it is called by this span.
    pub(crate) fn header(&self, span: u64) -> String {
        format!("00-{:032x}-{span:016x}-{:02x}", self.id, u8::from(self.sampled))
    }

    /// The trace as people and programs name it.
    pub(crate) fn name(&self) -> String {
        let mut name = String::with_capacity(32);
        let _ = write!(name, "{:032x}", self.id);
        name
    }
}

/// What a client says: the trace, its span, and whether it is sampled.
fn parse(value: &[u8]) -> Option<(u128, u64, bool)> {
    let version = value.get(..2)?;
    // Later versions may have more behind it, but begin alike.
    let fits = if version == b"00" {
        value.len() == LENGTH
    } else {
        value.get(LENGTH).is_none_or(|&byte| byte == b'-')
    };
    let lower = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !fits || !lower(version) || version == b"ff" {
        return None;
    }
    let part = |from: usize, to: usize| {
        let digits = value.get(from..to).filter(|digits| lower(digits))?;
        std::str::from_utf8(digits).ok()
    };
    if [2, 35, 52].iter().any(|&dash| value.get(dash) != Some(&b'-')) {
        return None;
    }
    let trace = u128::from_str_radix(part(3, 35)?, 16).ok().filter(|id| *id != 0)?;
    let span = u64::from_str_radix(part(36, 52)?, 16).ok().filter(|id| *id != 0)?;
    let flags = u8::from_str_radix(part(53, 55)?, 16).ok()?;
    Some((trace, span, flags & 1 == 1))
}

/// The trace that a client says, its span, and whether it is sampled.
fn given(headers: &HeaderMap) -> Option<(u128, u64, bool)> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    match (given.next(), given.next()) {
        (Some(given), None) => parse(given.as_bytes()),
        _ => None,
    }
}

/// The id of the trace that a client says.
pub(crate) fn given_trace(headers: &HeaderMap) -> Option<u128> {
    given(headers).map(|(trace, ..)| trace)
}

/// Makes ids of traces and spans. They have to be different, not secret.
pub(crate) struct TraceIds {
    process: u128,
    next: AtomicU64,
    /// One of so many is sampled where a client has not decided.
    sample: u64,
}

impl TraceIds {
    pub(crate) fn new(random: u128, sample: u32) -> Self {
        TraceIds { process: random | 1 << 127, next: AtomicU64::new(1), sample: u64::from(sample.max(1)) }
    }

    /// The trace of a request with these fields.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Trace {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let span = mix((self.process >> 64) as u64 ^ number) & !7 | 8;
        match given(headers) {
            Some((id, parent, sampled)) => Trace { id, parent: Some(parent), span, sampled, continues: true },
            None => {
                let id = self.process ^ u128::from(mix(self.process as u64 ^ number));
                Trace {
                    id,
                    parent: None,
                    span,
                    sampled: number.is_multiple_of(self.sample),
                    continues: false,
                }
            }
        }
    }
}

/// Spreads a number over all bits; different ones stay different (splitmix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_goes_on_where_the_client_has_begun_it() {
        let ids = TraceIds::new(7, 1);
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACEPARENT, value.parse().unwrap());
            }
            ids.of(&headers)
        };
        let trace = of(&[GOOD]);
        assert_eq!(trace.parent, Some(0xb7ad_6b71_6920_3331));
        assert_eq!(trace.header(0xb7ad_6b71_6920_3331), GOOD);
        assert_eq!(trace.name(), "0af7651916cd43dd8448eb211c80319c");
        assert!(!of(&[&GOOD.replace("-01", "-00")]).sampled, "the client has decided");
        assert!(of(&[&(GOOD.replacen("00", "01", 1) + "-more")]).continues, "a later version");
        for wrong in [
            "",
            "00",
            &GOOD[1..],
            &GOOD.to_uppercase(),
            &GOOD.replace('7', "g"),
            &(GOOD.to_owned() + "-"),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replace('-', "_"),
            &(GOOD.to_owned() + " "),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            &(GOOD.replacen("00", "01", 1) + "more"),
        ] {
            let trace = of(&[wrong]);
            assert!(!trace.continues && trace.parent.is_none() && trace.id != 0, "{wrong:?}");
        }
        assert!(!of(&[GOOD, GOOD]).continues, "two of them");
    }

    #[test]
    fn ids_are_different_and_some_are_sampled() {
        let ids = TraceIds::new(0x1234_5678_9abc_def0_1234_5678_9abc_def0, 10);
        let none = HeaderMap::new();
        let traces: Vec<_> = (0..1000).map(|_| ids.of(&none)).collect();
        assert_eq!(traces.iter().map(|trace| trace.id).collect::<BTreeSet<_>>().len(), 1000);
        // Those that differ in the lowest bits alone would have the same parts.
        assert_eq!(traces.iter().map(|trace| trace.span >> 3).collect::<BTreeSet<_>>().len(), 1000);
        assert_eq!(traces.iter().filter(|trace| trace.sampled).count(), 100);
    }
}
