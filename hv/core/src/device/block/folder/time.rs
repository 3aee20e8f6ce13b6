//! Times as FAT stores them.
#![forbid(unsafe_code)]

/// Date and time of so many seconds since 1970: UTC, from 1980 on, in steps of two seconds.
pub(super) fn stamp(seconds: i64) -> (u16, u16) {
    const FIRST: i64 = 315_532_800;
    const LAST: i64 = 4_354_819_198;
    let seconds = seconds.clamp(FIRST, LAST);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = ((rest / 3600) as u16, (rest / 60 % 60) as u16, (rest % 60) as u16);
    (((year - 1980) << 9) | (month << 5) | day, (hour << 11) | (minute << 5) | (second / 2))
}

/// The date of a day counted from 1970-01-01, which must not be before it.
fn civil(mut days: i64) -> (u16, u16, u16) {
    let leap = |year: u16| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for len in [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < len {
            break;
        }
        days -= len;
        month += 1;
    }
    (year, month, days as u16 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_turned_into_dates() {
        let read = |seconds| {
            let (date, time) = stamp(seconds);
            ((date >> 9) + 1980, (date >> 5) & 15, date & 31, time >> 11, (time >> 5) & 63, time % 32 * 2)
        };
        assert_eq!(read(0), (1980, 1, 1, 0, 0, 0), "before FAT's time");
        assert_eq!(read(951_827_696), (2000, 2, 29, 12, 34, 56));
        assert_eq!(read(1_735_689_599), (2024, 12, 31, 23, 59, 58));
        assert_eq!(read(i64::MAX), (2107, 12, 31, 23, 59, 58));
    }
}
