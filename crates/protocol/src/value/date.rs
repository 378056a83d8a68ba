//! A moment as JavaScript prints it in JSON.

/// The last moment a JavaScript `Date` can hold, in milliseconds since 1970; its negative is the first
/// (ECMA-262, "Time Values and Time Range").
pub(crate) const DATE_MS_MAX: i64 = 8_640_000_000_000_000;

const DAY_MS: i64 = 86_400_000;

/// Appends the ISO 8601 form of `Date.prototype.toISOString`, without quotes. Appends nothing and returns false when
/// the moment is beyond [`DATE_MS_MAX`].
pub(crate) fn push_iso(out: &mut Vec<u8>, unix_ms: i64) -> bool {
    if !(-DATE_MS_MAX..=DATE_MS_MAX).contains(&unix_ms) {
        return false;
    }
    let (year, month, day) = civil(unix_ms.div_euclid(DAY_MS));
    let of_day = unix_ms.rem_euclid(DAY_MS).cast_unsigned();
    if (0..=9999).contains(&year) {
        push_digits(out, year.unsigned_abs(), 4);
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        push_digits(out, year.unsigned_abs(), 6);
    }
    for (separator, value, digits) in [
        (b'-', month, 2),
        (b'-', day, 2),
        (b'T', of_day / 3_600_000, 2),
        (b':', of_day / 60_000 % 60, 2),
        (b':', of_day / 1000 % 60, 2),
        (b'.', of_day % 1000, 3),
    ] {
        out.push(separator);
        push_digits(out, value, digits);
    }
    out.push(b'Z');
    true
}

fn push_digits(out: &mut Vec<u8>, value: u64, digits: u32) {
    for place in (0..digits).rev() {
        let [digit, ..] = (value / 10_u64.pow(place) % 10).to_le_bytes();
        out.push(b'0' + digit);
    }
}

/// The proleptic Gregorian year, month and day of a day counted from 1970-01-01.
///
/// The count is moved to years that begin on 1 March, so that the leap day is a year's last, and to eras of 400
/// years, which all have 146 097 days.
fn civil(days: i64) -> (i64, u64, u64) {
    const ERA_DAYS: i64 = 146_097;
    // From 0000-03-01 to 1970-01-01.
    const EPOCH_DAYS: i64 = 719_468;
    let days = days + EPOCH_DAYS;
    let era = days.div_euclid(ERA_DAYS);
    let of_era = days.rem_euclid(ERA_DAYS);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / (ERA_DAYS - 1)) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March have 31, 30, 31, 30, 31 days, again and again: 153 days in five months.
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month.cast_unsigned(), day.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iso(unix_ms: i64) -> Option<String> {
        let mut out = Vec::new();
        push_iso(&mut out, unix_ms).then(|| String::from_utf8_lossy(&out).into_owned())
    }

    /// Each line was printed by `new Date(ms).toISOString()` in Node 20.
    #[test]
    fn dates_print_as_in_javascript() {
        assert_eq!(iso(0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(iso(1).as_deref(), Some("1970-01-01T00:00:00.001Z"));
        assert_eq!(iso(-1).as_deref(), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!(iso(1_700_000_000_123).as_deref(), Some("2023-11-14T22:13:20.123Z"));
        assert_eq!(iso(951_782_400_000).as_deref(), Some("2000-02-29T00:00:00.000Z"));
        assert_eq!(iso(951_868_799_999).as_deref(), Some("2000-02-29T23:59:59.999Z"));
        assert_eq!(iso(4_107_542_400_000).as_deref(), Some("2100-03-01T00:00:00.000Z"));
        assert_eq!(iso(-62_135_596_800_000).as_deref(), Some("0001-01-01T00:00:00.000Z"));
        assert_eq!(iso(-62_167_219_200_000).as_deref(), Some("0000-01-01T00:00:00.000Z"));
        assert_eq!(iso(-62_167_219_200_001).as_deref(), Some("-000001-12-31T23:59:59.999Z"));
        assert_eq!(iso(253_402_300_799_999).as_deref(), Some("9999-12-31T23:59:59.999Z"));
        assert_eq!(iso(253_402_300_800_000).as_deref(), Some("+010000-01-01T00:00:00.000Z"));
        assert_eq!(iso(8_640_000_000_000_000).as_deref(), Some("+275760-09-13T00:00:00.000Z"));
        assert_eq!(iso(-8_640_000_000_000_000).as_deref(), Some("-271821-04-20T00:00:00.000Z"));
        assert_eq!(iso(-2_203_891_200_000).as_deref(), Some("1900-03-01T00:00:00.000Z"));
        assert_eq!(iso(1_709_164_800_000).as_deref(), Some("2024-02-29T00:00:00.000Z"));
    }

    #[test]
    fn a_moment_beyond_javascript_has_no_form() {
        for unix_ms in [DATE_MS_MAX + 1, -DATE_MS_MAX - 1, i64::MAX, i64::MIN] {
            assert_eq!(iso(unix_ms), None);
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let (mut year, mut month, mut day) = civil(-800_000);
        for days in -799_999..800_000 {
            let next = civil(days);
            let ends = day >= 28 && next.2 == 1;
            assert!(
                next == (year, month, day + 1)
                    || (ends && next == (year, month + 1, 1))
                    || (ends && month == 12 && next == (year + 1, 1, 1)),
                "{days}"
            );
            (year, month, day) = next;
        }
    }
}
