//! Sizes and times as people write them: `64M`, `500ms`.
#![forbid(unsafe_code)]

use crate::escape::escape;
use std::time::Duration;

/// Why a text is no size or no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// Another unit than K, M or G.
    #[error("`{}` is no unit; use K, M or G, as in 64M", escape(.0))]
    Unit(String),
    /// No whole number in front of the unit.
    #[error("use a number such as 65536, 512K, 64M or 1G")]
    Size,
    /// The size does not fit 64 bits.
    #[error("that is more than 2^64 bytes")]
    TooLarge,
    /// No number with a unit of time.
    #[error("use a time such as 500ms, 5s, 2m or 1h")]
    Time,
}

/// Bytes, from a whole number with an optional K, M or G (powers of 1024).
///
/// # Errors
///
/// If it is no whole number, has another unit, or does not fit 64 bits.
pub fn size(text: &str) -> Result<u64, UnitError> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(at);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return Err(UnitError::Unit(unit.into())),
    };
    let number: u64 = digits.parse().map_err(|_| UnitError::Size)?;
    number.checked_mul(1 << shift).ok_or(UnitError::TooLarge)
}

/// A time such as `500ms`, `5s`, `1.5m`, `1h`, or a number of seconds.
///
/// # Errors
///
/// [`UnitError::Time`] if it is none.
pub fn time(text: &str) -> Result<Duration, UnitError> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| UnitError::Time)?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(UnitError::Time),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| UnitError::Time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("16M"), Ok(16 << 20));
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("100"), Ok(100));
        assert_eq!(size("1g"), Ok(1 << 30));
        assert_eq!(size("12X"), Err(UnitError::Unit("X".into())));
        assert_eq!(size("1.5M"), Err(UnitError::Unit(".5M".into())));
        assert_eq!(size("18446744073709551615G"), Err(UnitError::TooLarge));
        for bad in ["", "M", "99999999999999999999"] {
            assert_eq!(size(bad), Err(UnitError::Size), "{bad}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("5"), Ok(Duration::from_secs(5)));
        assert_eq!(time("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "s", "5x", "-1s", "1e999", "..s"] {
            assert_eq!(time(bad), Err(UnitError::Time), "{bad}");
        }
    }
}
