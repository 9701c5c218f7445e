//! When a CronJob runs: the schedule's text and its time zone. Pure.
//!
//! Accepts what upstream's parser accepts: five fields with names, ranges, lists and steps, `@daily` and its
//! kin, `@every 90m`. A minute that a zone's clock leaves out is taken by the next one that exists.

use std::str::FromStr;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

#[derive(Debug, Clone)]
pub(crate) enum Schedule {
    Every(SignedDuration),
    Cron(Box<Cron>),
}

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    #[error("expected exactly 5 fields, found {found}: {text:?}")]
    Fields { found: usize, text: String },
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("failed to parse duration {0}")]
    Duration(String),
    #[error("failed to parse {field:?}: {why}")]
    Field { field: String, why: String },
}

impl FromStr for Schedule {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        if let Some(period) = text.strip_prefix("@every ") {
            let parsed = period.trim().parse::<SignedDuration>().ok();
            let period = parsed.filter(|period| period.as_secs() > 0);
            return period.map(Self::Every).ok_or_else(|| ParseError::Duration(text.into()));
        }
        if text.starts_with('@') {
            let known = NICKNAMES.iter().find(|(name, _)| *name == text);
            let (_, meaning) = known.ok_or_else(|| ParseError::Descriptor(text.into()))?;
            return fields(meaning);
        }
        fields(text)
    }
}

fn fields(text: &str) -> Result<Schedule, ParseError> {
    let fields: Vec<String> = text.split_whitespace().map(|f| f.replace('?', "*")).collect();
    if fields.len() != 5 {
        return Err(ParseError::Fields { found: fields.len(), text: text.into() });
    }
    for (index, field) in fields.iter().enumerate() {
        words(index, field)?;
    }
    let open = |(index, field): (usize, &String)| -> String {
        field.split(',').map(|item| to_the_end(index, item)).collect::<Vec<_>>().join(",")
    };
    let fields: Vec<String> = fields.iter().enumerate().map(open).collect();
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let refuse = |error: croner::errors::CronError| ParseError::Field {
        field: text.into(),
        why: error.to_string(),
    };
    parser.parse(&fields.join(" ")).map(|cron| Schedule::Cron(Box::new(cron))).map_err(refuse)
}

/// `5/20` is from five to the end.
fn to_the_end(index: usize, item: &str) -> String {
    const LAST: [&str; 5] = ["59", "23", "31", "12", "6"];
    match item.split_once('/') {
        Some((start, step)) if start != "*" && !start.contains('-') => {
            format!("{start}-{}/{step}", LAST[index])
        }
        _ => item.to_owned(),
    }
}

/// Only numbers and, where they mean something, names: the library knows more than upstream does.
fn words(index: usize, field: &str) -> Result<(), ParseError> {
    let refuse = |why: String| Err(ParseError::Field { field: field.into(), why });
    let names: &[&str] = match index {
        3 => &MONTHS,
        4 => &DAYS,
        _ => &[],
    };
    for item in field.split(',') {
        let (range, step) = item.split_once('/').unwrap_or((item, "1"));
        if !step.parse::<u32>().is_ok_and(|step| step > 0) {
            return refuse(format!("step of range should be a positive number: {item}"));
        }
        for word in range.split('-').filter(|word| *word != "*") {
            let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
            if !is_number && !names.contains(&word.to_ascii_lowercase().as_str()) {
                return refuse(format!("failed to parse int from {word}"));
            }
            if index == 4 && word.parse::<u32>().is_ok_and(|day| day > 6) {
                return refuse(format!("end of range ({word}) above maximum (6): {item}"));
            }
        }
    }
    Ok(())
}

impl Schedule {
    /// The first time after `from`; None when there is none in this age of the world.
    pub(crate) fn after(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(period) => {
                let next = from.checked_add(*period).ok()?;
                Timestamp::from_second(next.as_second()).ok()
            }
            Self::Cron(cron) => {
                let from = from.to_zoned(zone.clone());
                cron.find_next_occurrence(&from, false).ok().map(|next| next.timestamp())
            }
        }
    }

    /// The latest time after `from` and up to `now`, without looking at all in between.
    pub(crate) fn last(
        &self,
        from: Timestamp,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Option<Timestamp> {
        if let Self::Every(period) = self {
            let passed = now.duration_since(from).as_secs().max(0) / period.as_secs();
            let whole = period.checked_mul(i32::try_from(passed).ok()?)?;
            return from.checked_add(whole).ok().filter(|last| *last > from);
        }
        let mut reach = SignedDuration::from_mins(1);
        while now.checked_sub(reach).is_ok_and(|since| since > from) {
            let (mut since, mut found) = (now.checked_sub(reach).ok()?, None);
            while let Some(next) = self.after(since, zone).filter(|next| *next <= now) {
                (found, since) = (Some(next), next);
            }
            if found.is_some() {
                return found;
            }
            reach = reach.checked_mul(2)?;
        }
        None
    }
}

/// The zone that a CronJob names; without one it is the control plane's, which is UTC.
pub(crate) fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    let Some(name) = name else { return Ok(TimeZone::UTC) };
    TimeZone::get(name).map_err(|_| format!("unknown time zone {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, from: &str, zone_name: &str) -> String {
        let schedule: Schedule = schedule.parse().unwrap_or_else(|e| panic!("{schedule}: {e}"));
        let zone = zone(Some(zone_name)).expect(zone_name);
        let next = schedule.after(from.parse().expect("a time"), &zone);
        next.map_or_else(|| "never".into(), |next| next.to_string())
    }

    #[test]
    fn the_next_time_is_the_first_that_matches() {
        for (schedule, from, zone, expected) in [
            ("* * * * *", "2024-01-01T00:00:00Z", "UTC", "2024-01-01T00:01:00Z"),
            ("* * * * *", "2024-01-01T00:00:30.5Z", "UTC", "2024-01-01T00:01:00Z"),
            ("*/15 * * * ?", "2024-01-01T00:16:00Z", "UTC", "2024-01-01T00:30:00Z"),
            ("5/20 * * * *", "2024-01-01T00:06:00Z", "UTC", "2024-01-01T00:25:00Z"),
            ("0 9-17/4 * * MON-FRI", "2024-01-05T17:30:00Z", "UTC", "2024-01-08T09:00:00Z"),
            ("0 0 29 feb *", "2024-03-01T00:00:00Z", "UTC", "2028-02-29T00:00:00Z"),
            // Either day: the thirteenth, or a Friday.
            ("0 0 13 * 5", "2024-01-01T00:00:00Z", "UTC", "2024-01-05T00:00:00Z"),
            ("0 0 13 * 5", "2024-01-12T00:00:00Z", "UTC", "2024-01-13T00:00:00Z"),
            ("@hourly", "2024-01-01T00:10:00Z", "UTC", "2024-01-01T01:00:00Z"),
            ("@every 1h30m", "2024-01-01T00:10:00Z", "UTC", "2024-01-01T01:40:00Z"),
            ("30 8 * * *", "2024-07-01T00:00:00Z", "Europe/Berlin", "2024-07-01T06:30:00Z"),
            ("30 8 * * *", "2024-01-01T00:00:00Z", "Europe/Berlin", "2024-01-01T07:30:00Z"),
            ("0 0 30 2 *", "2024-01-01T00:00:00Z", "UTC", "never"),
        ] {
            assert_eq!(next(schedule, from, zone), expected, "{schedule} after {from} in {zone}");
        }
    }

    #[test]
    fn the_last_of_many_is_found_from_behind() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let (from, now) = (at("2023-01-01T00:00:00Z"), at("2024-01-01T00:07:30Z"));
        for (schedule, expected) in [
            ("* * * * *", "2024-01-01T00:07:00Z"),
            ("0 3 * * *", "2023-12-31T03:00:00Z"),
            ("@every 1h", "2024-01-01T00:00:00Z"),
        ] {
            let last = schedule.parse::<Schedule>().expect("good").last(from, now, &TimeZone::UTC);
            assert_eq!(last, Some(at(expected)), "{schedule}");
        }
    }

    /// Clocks that jump: no run is lost or doubled beyond what the hour of change asks for.
    #[test]
    fn a_daily_job_runs_once_on_the_days_of_change() {
        for day in ["2024-03-31", "2024-10-27"] {
            let zone = zone(Some("Europe/Berlin")).expect("known");
            let schedule: Schedule = "30 2 * * *".parse().expect("good");
            let midnight =
                format!("{day}T00:00:00[Europe/Berlin]").parse::<jiff::Zoned>().expect("a time");
            let (mut at, end) =
                (midnight.timestamp(), midnight.tomorrow().expect("a day").timestamp());
            let mut runs = 0;
            while let Some(next) = schedule.after(at, &zone).filter(|next| *next < end) {
                (at, runs) = (next, runs + 1);
            }
            assert_eq!(runs, 1, "{day}");
        }
    }

    #[test]
    fn what_upstream_refuses_is_refused() {
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 7",
            "* * L * *",
            "* * * * 5#2",
            "* * 15W * *",
            "*/0 * * * *",
            "5-1 * * * *",
            "@never",
            "@every x",
            "@every -5m",
            "MON * * * *",
            "+5 * * * *",
            "TZ=UTC * * * * *",
        ] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad}");
        }
        assert!(zone(Some("Mars/Olympus")).is_err());
    }
}
