//! msgpack timestamps as JavaScript's `Date.toJSON` writes them.

use std::io::Write;

/// The largest distance from 1970 that a JavaScript `Date` can have, in milliseconds.
const DATE_MS_MAX: i64 = 8_640_000_000_000_000;
const DAY_MS: i64 = 86_400_000;
const NANOS_MAX: u32 = 999_999_999;

/// The milliseconds since 1970 that the content of a timestamp ext means; `None` when no `Date` can hold it.
pub(crate) fn timestamp_ms(content: &[u8]) -> Option<i64> {
    let (seconds, nanos) = match *content {
        [a, b, c, d] => (i64::from(u32::from_be_bytes([a, b, c, d])), 0),
        [a, b, c, d, e, f, g, h] => {
            let packed = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            let seconds = i64::try_from(packed & 0x3_ffff_ffff).ok()?;
            (seconds, u32::try_from(packed >> 34).ok()?)
        }
        [a, b, c, d, ref seconds @ ..] => {
            let seconds = i64::from_be_bytes(seconds.try_into().ok()?);
            (seconds, u32::from_be_bytes([a, b, c, d]))
        }
        _ => return None,
    };
    if nanos > NANOS_MAX {
        return None;
    }
    let ms = seconds.checked_mul(1000)?.checked_add(i64::from(nanos / 1_000_000))?;
    (-DATE_MS_MAX..=DATE_MS_MAX).contains(&ms).then_some(ms)
}

/// Appends the ISO 8601 text of a moment, without quotes: `1969-12-31T23:59:59.999Z`. Years outside 0 to 9999 have a
/// sign and six digits.
///
/// Invariant: `ms` came from [`timestamp_ms`].
pub(crate) fn iso_text(out: &mut Vec<u8>, ms: i64) {
    let (year, month, day) = civil_date(ms.div_euclid(DAY_MS));
    let in_day = ms.rem_euclid(DAY_MS);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1000 % 60, in_day % 1000);
    let year = if (0..=9999).contains(&year) { format!("{year:04}") } else { format!("{year:+07}") };
    write!(out, "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z").expect("writing to a Vec");
}

/// Year, month (1 to 12) and day of the month, `days` after 1970-01-01 in the proleptic Gregorian calendar.
fn civil_date(days: i64) -> (i64, i64, i64) {
    const CYCLE_DAYS: i64 = 146_097; // 400 years
    const YEAR_0_TO_1970_DAYS: i64 = 719_528;
    let since_year_0 = days + YEAR_0_TO_1970_DAYS;
    let cycle = since_year_0.div_euclid(CYCLE_DAYS);
    let in_cycle = since_year_0.rem_euclid(CYCLE_DAYS);
    // Close from below, then at most one step: leap days make up for less than a year.
    let mut year = in_cycle / 366;
    while days_before_year(year + 1) <= in_cycle {
        year += 1;
    }
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year == 0);
    let mut day = in_cycle - days_before_year(year);
    let mut month = 1;
    for len in [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < len {
            break;
        }
        day -= len;
        month += 1;
    }
    (cycle * 400 + year, month, day + 1)
}

/// Days from the start of a 400-year cycle to the start of its year `year`; the cycle's year 0 is a leap year.
fn days_before_year(year: i64) -> i64 {
    if year == 0 { 0 } else { year * 365 + (year - 1) / 4 - (year - 1) / 100 + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ms: i64) -> String {
        let mut out = Vec::new();
        iso_text(&mut out, ms);
        String::from_utf8(out).unwrap()
    }

    /// Expected texts were printed by `new Date(ms).toJSON()` in Node 20.
    #[test]
    fn moments_are_written_as_javascript_does() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (1_699_005_123_456, "2023-11-03T09:52:03.456Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (-62_167_219_200_000, "0000-01-01T00:00:00.000Z"),
            (-62_167_219_200_001, "-000001-12-31T23:59:59.999Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "+010000-01-01T00:00:00.000Z"),
            (DATE_MS_MAX, "+275760-09-13T00:00:00.000Z"),
            (-DATE_MS_MAX, "-271821-04-20T00:00:00.000Z"),
        ] {
            assert_eq!(text(ms), expected);
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut previous = civil_date(-800_001);
        for day in -800_000..800_000 {
            let (year, month, of_month) = civil_date(day);
            let follows = (year, month, of_month) == (previous.0, previous.1, previous.2 + 1)
                || ((year, month, of_month) == (previous.0, previous.1 + 1, 1) && previous.2 >= 28)
                || ((month, of_month) == (1, 1) && previous == (year - 1, 12, 31));
            assert!(follows, "day {day}: {previous:?} then {:?}", (year, month, of_month));
            previous = (year, month, of_month);
        }
    }

    #[test]
    fn timestamps_of_all_three_sizes_are_read() {
        assert_eq!(timestamp_ms(&[0, 0, 0, 1]), Some(1000));
        assert_eq!(timestamp_ms(&((456_000_000_u64 << 34) | 1_699_005_123).to_be_bytes()), Some(1_699_005_123_456));
        let mut long = 999_000_000_u32.to_be_bytes().to_vec();
        long.extend_from_slice(&(-1_i64).to_be_bytes());
        assert_eq!(timestamp_ms(&long), Some(-1));
        assert_eq!(timestamp_ms(&[0xff]), None);
        assert_eq!(timestamp_ms(&[]), None);
        assert_eq!(timestamp_ms(&[0xff; 8]), None);
        assert_eq!(timestamp_ms(&[0, 0, 0, 0, 0x7f, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
