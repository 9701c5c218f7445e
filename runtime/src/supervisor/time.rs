//! Times as text. Pure but for [`now`].

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Year, month, day, hour, minute, second, nanosecond in UTC (days to civil date after Hinnant).
fn civil(nanoseconds: i64) -> (i64, i64, i64, i64, i64, i64, i64) {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let nano = nanoseconds.rem_euclid(1_000_000_000);
    (year, month, day, second / 3600, second / 60 % 60, second % 60, nano)
}

/// RFC 3339 with nine digits of fraction, as the CRI log format wants it.
pub(crate) fn rfc3339(nanoseconds: i64) -> String {
    let (year, month, day, hour, minute, second, nano) = civil(nanoseconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nano:09}Z")
}

/// For the names of rotated logs: sorts as time does.
pub(super) fn compact(nanoseconds: i64) -> String {
    let (year, month, day, hour, minute, second, nano) = civil(nanoseconds);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}.{nano:09}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_moments() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(rfc3339(1_735_689_599_999_999_999), "2024-12-31T23:59:59.999999999Z");
        assert_eq!(compact(1_709_251_199_000_000_000), "20240229-235959.000000000");
    }

    proptest! {
        #[test]
        fn text_sorts_as_time(a in 0i64..4_000_000_000_000_000_000, b in 0i64..4_000_000_000_000_000_000) {
            prop_assert_eq!(a.cmp(&b), rfc3339(a).cmp(&rfc3339(b)));
            prop_assert_eq!(a.cmp(&b), compact(a).cmp(&compact(b)));
        }
    }
}
