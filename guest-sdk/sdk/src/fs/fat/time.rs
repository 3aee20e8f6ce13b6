//! Times as FAT has them, which are local times of an unknown time zone: taken as UTC.
#![forbid(unsafe_code)]

use crate::clock::wall_nanos;
use fatfs::{Date, DateTime, Time, TimeProvider};

/// Seconds since 1970-01-01 of a date and time.
pub(super) fn seconds(time: &DateTime) -> i64 {
    // Days by the Gregorian calendar, with years that start in March, so that the leap day is the last day of a year.
    let (year, month) = (i64::from(time.date.year), i64::from(time.date.month));
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + i64::from(time.date.day) - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468;
    let (hour, minute) = (i64::from(time.time.hour), i64::from(time.time.min));
    days * 86400 + hour * 3600 + minute * 60 + i64::from(time.time.sec)
}

/// The guest's wall clock.
#[derive(Debug)]
pub(super) struct WallClock;

impl TimeProvider for WallClock {
    fn get_current_date(&self) -> Date {
        self.get_current_date_time().date
    }

    fn get_current_date_time(&self) -> DateTime {
        date_time(wall_nanos() / 1_000_000)
    }
}

/// The date and time of so many milliseconds since 1970-01-01. FAT has the years 1980 to 2107: what is outside of them is the nearest that there is.
fn date_time(millis: u64) -> DateTime {
    const SECONDS_1980: u64 = 315_532_800;
    const SECONDS_2108: u64 = 4_354_819_200;
    let (seconds, millis) = (millis / 1000, (millis % 1000) as u16);
    let seconds = seconds.clamp(SECONDS_1980, SECONDS_2108 - 1);
    let (days, of_day) = (seconds / 86400, (seconds % 86400) as u32);
    // The inverse of `seconds`: years that start in March, from that of 0000-03-01 on.
    let days = days as u32 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match era * 400 + year_of_era {
        year if month < 10 => (year, month + 3),
        year => (year + 1, month - 9),
    };
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    DateTime::new(
        Date::new(year as u16, month as u16, day as u16),
        Time::new(hour as u16, minute as u16, second as u16, millis),
    )
}
