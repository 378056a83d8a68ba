//! Dates as JavaScript spells them.

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const SECONDS_PER_DAY: u64 = 86_400;

/// Days of the 400 years after which the Gregorian calendar repeats.
const DAYS_PER_ERA: u64 = 146_097;

/// The last moment that a JavaScript date can be, in Unix milliseconds.
const MS_MAX: u64 = 8_640_000_000_000_000;

/// A moment of Coordinated Universal Time, as `Date.prototype.toString` has it on a server with that time zone.
/// Whatever is later than a JavaScript date can be is taken for the last one.
pub(super) fn spelled(unix_ms: u64) -> String {
    let seconds = unix_ms.min(MS_MAX) / 1000;
    let days = seconds / SECONDS_PER_DAY;
    let (year, month, day) = civil(days);
    let of_day = seconds % SECONDS_PER_DAY;
    format!(
        "{} {} {day:02} {year:04} {:02}:{:02}:{:02} GMT+0000 (Coordinated Universal Time)",
        DAYS[(days % 7) as usize],
        MONTHS[month],
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
    )
}

/// Year, month counted from zero, and day of the month, of a day since 1970.
fn civil(days: u64) -> (u64, usize, u64) {
    let mut year = 1970 + days / DAYS_PER_ERA * 400;
    let mut left = days % DAYS_PER_ERA;
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 0;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_spelled_as_javascript_spells_them() {
        // Each was asked of Node 20 with TZ=UTC.
        for (unix_ms, text) in [
            (0, "Thu Jan 01 1970 00:00:00"),
            (951_782_400_000, "Tue Feb 29 2000 00:00:00"),
            (951_868_799_999, "Tue Feb 29 2000 23:59:59"),
            (1_700_000_000_123, "Tue Nov 14 2023 22:13:20"),
            (1_795_322_005_000, "Sun Nov 22 2026 04:33:25"),
            (4_107_542_399_000, "Sun Feb 28 2100 23:59:59"),
            (4_107_542_400_000, "Mon Mar 01 2100 00:00:00"),
            (13_574_649_600_000, "Wed Mar 01 2400 00:00:00"),
            (8_640_000_000_000_000, "Sat Sep 13 275760 00:00:00"),
        ] {
            assert_eq!(spelled(unix_ms), format!("{text} GMT+0000 (Coordinated Universal Time)"));
        }
    }
}
