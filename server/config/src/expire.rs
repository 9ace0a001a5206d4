//! When leases end, and what stops too many of them from ending at once.

use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// When leases end. Nothing ends unless it is switched on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expire {
    /// Whether leases are ever removed. The first run of each policy only shows what would go.
    pub enabled: bool,
    /// What makes a lease end.
    pub mode: Mode,
    /// With `age`: days after the last renewal, in place of what was granted. Two weeks come on top, within which a renewal
    /// may have stood for later ones.
    pub override_lease_days: Option<u32>,
    /// With `cutoff-date`: leases end that were not renewed since the beginning of this day, UTC, as `YYYY-MM-DD`.
    pub cutoff_date: Option<String>,
    /// Whether leases on immutable shares end.
    pub immutable: bool,
    /// Whether leases on mutable shares end.
    pub mutable: bool,
    /// The most leases that may end in one run, in per cent of an account's or of all, before a person must look.
    pub brake_percent: u8,
}

/// What makes a lease end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Its age.
    #[default]
    Age,
    /// Not having been renewed since a day.
    CutoffDate,
}

impl Default for Expire {
    fn default() -> Self {
        Self {
            enabled: false,
            mode: Mode::Age,
            override_lease_days: None,
            cutoff_date: None,
            immutable: true,
            mutable: true,
            brake_percent: 25,
        }
    }
}

impl Expire {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |key, problem: &str| Err(ConfigError::Invalid { key, problem: problem.to_owned() });
        if self.override_lease_days.is_some_and(|days| !(1..=3650).contains(&days)) {
            return invalid("expire.override_lease_days", "must be 1 to 3650");
        }
        if self.cutoff_date.is_some() && self.cutoff_seconds().is_none() {
            return invalid("expire.cutoff_date", "must be a day since 1970, as in 2026-11-20");
        }
        match (self.mode, &self.override_lease_days, &self.cutoff_date) {
            (Mode::CutoffDate, _, None) => invalid("expire.cutoff_date", "must be set with mode = \"cutoff-date\""),
            (Mode::Age, _, Some(_)) => invalid("expire.cutoff_date", "needs mode = \"cutoff-date\""),
            (Mode::CutoffDate, Some(_), _) => invalid("expire.override_lease_days", "needs mode = \"age\""),
            _ if self.enabled && !self.immutable && !self.mutable => {
                invalid("expire.enabled", "is on, but expire.immutable and expire.mutable are both off")
            }
            _ if self.brake_percent > 100 => invalid("expire.brake_percent", "must be at most 100"),
            _ => Ok(()),
        }
    }

    /// The beginning of the cutoff date, in seconds since 1970.
    pub fn cutoff_seconds(&self) -> Option<i64> {
        day(self.cutoff_date.as_deref()?).map(|day| day * 86_400)
    }
}

/// The days since 1970 of a date `YYYY-MM-DD`.
fn day(text: &str) -> Option<i64> {
    let digits = |range: std::ops::Range<usize>| {
        let part = text.get(range)?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<i64>().ok()).flatten()
    };
    let is_dashed = text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of = |month| match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !is_dashed || year < 1970 || !(1..=12).contains(&month) || !(1..=days_of(month)).contains(&day) {
        return None;
    }
    let leap_days = |year: i64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let before = (year - 1970) * 365 + leap_days(year) - leap_days(1970);
    Some(before + (1..month).map(days_of).sum::<i64>() + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_days_since_1970() {
        for (text, expected) in [
            ("1970-01-01", Some(0)),
            ("2000-02-29", Some(11_016)),
            ("2026-11-25", Some(20_782)),
            ("2100-02-29", None),
            ("2026-13-01", None),
            ("2026-04-31", None),
            ("1969-12-31", None),
            ("2026-1-1", None),
            ("2026/01/01", None),
            ("+026-01-01", None),
            ("", None),
            ("2026-01-0é", None),
        ] {
            assert_eq!(day(text), expected, "{text}");
        }
    }

    #[test]
    fn policies_that_contradict_themselves_are_refused() {
        let on = Expire { enabled: true, ..Expire::default() };
        on.validate().expect("age, as granted");
        let cutoff = Expire { mode: Mode::CutoffDate, cutoff_date: Some("2026-11-20".to_owned()), ..on.clone() };
        cutoff.validate().expect("a cutoff date");
        for (bad, key) in [
            (Expire { mode: Mode::CutoffDate, ..on.clone() }, "expire.cutoff_date"),
            (Expire { cutoff_date: Some("2026-11-20".to_owned()), ..on.clone() }, "expire.cutoff_date"),
            (Expire { cutoff_date: Some("tomorrow".to_owned()), ..cutoff.clone() }, "expire.cutoff_date"),
            (Expire { override_lease_days: Some(30), ..cutoff }, "expire.override_lease_days"),
            (Expire { override_lease_days: Some(0), ..on.clone() }, "expire.override_lease_days"),
            (Expire { immutable: false, mutable: false, ..on.clone() }, "expire.enabled"),
            (Expire { brake_percent: 101, ..on }, "expire.brake_percent"),
        ] {
            let error = bad.validate().expect_err(key).to_string();
            assert!(error.contains(key) && !error.contains('\n'), "{error}");
        }
    }
}
