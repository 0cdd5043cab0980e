//! The five fields: what may be written (checked here), and which local times match (found by `croner`).

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;

use super::InvalidSchedule;

/// Longer than any sensible list of minutes.
pub(super) const MAX_LENGTH: usize = 256;

pub(super) const NICKNAMES_TEXT: &str = "@hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually";

const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

struct Field {
    name: &'static str,
    first: u8,
    last: u8,
    /// The names of `first`, `first + 1` and so on.
    words: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", first: 0, last: 59, words: &[] },
    Field { name: "hour", first: 0, last: 23, words: &[] },
    Field { name: "day-of-month", first: 1, last: 31, words: &[] },
    Field {
        name: "month",
        first: 1,
        last: 12,
        words: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    Field {
        name: "day-of-week",
        first: 0,
        last: 7,
        // Sunday is 0 and 7, so that it can end a range, too.
        words: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    },
];

/// Days of the longest year's months.
const MONTH_LENGTHS: [u16; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

#[derive(Clone, Debug)]
pub(super) struct Pattern {
    cron: Cron,
    hourly: bool,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidSchedule> {
        if text.len() > MAX_LENGTH {
            return Err(InvalidSchedule::TooLong);
        }
        let written = text.trim();
        let line = if written.starts_with('@') {
            let known = NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(written));
            known.ok_or_else(|| InvalidSchedule::Nickname { given: written.to_owned() })?.1
        } else {
            written
        };
        let found = line.split_whitespace().count();
        if found != FIELDS.len() {
            return Err(InvalidSchedule::FieldCount { found });
        }
        // Checked and spelt out in numbers here: croner takes more than is published (`L`, `#`, `W`, seconds, years, empty
        // items), and names of months among weekdays.
        let mut fields: Vec<String> = FIELDS
            .iter()
            .zip(line.split_whitespace())
            .map(|(field, text)| field.normalize(text))
            .collect::<Result<_, _>>()?;
        // Vixie: days and weekdays are joined by OR only when both are restricted, and what begins with a star is not.
        // croner takes only a lone star for one; a plus makes it say AND.
        let stars = [fields.get(2), fields.get(4)].map(|field| field.is_some_and(|field| field.starts_with('*')));
        if stars.contains(&true)
            && let Some(weekdays) = fields.get_mut(4)
        {
            weekdays.insert(0, '+');
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(&fields.join(" ")).map_err(|error| InvalidSchedule::Field {
            field: "whole",
            item: written.to_owned(),
            rule: error.to_string(),
        })?;
        if !has_a_day(&cron, stars.contains(&true)) {
            return Err(InvalidSchedule::NeverRuns { schedule: written.to_owned() });
        }
        let hourly = cron.pattern.hours.values().len() == 24;
        Ok(Self { cron, hourly })
    }

    /// Whether every hour matches.
    pub(super) fn is_hourly(&self) -> bool {
        self.hourly
    }

    pub(super) fn next_after(&self, time: DateTime) -> Option<DateTime> {
        self.next_from(time, false)
    }

    pub(super) fn next_from(&self, time: DateTime, inclusive: bool) -> Option<DateTime> {
        // croner works in whole seconds: a time with a fraction is not the second it lies in.
        let inclusive = inclusive && time.subsec_nanosecond() == 0;
        self.cron.find_next_occurrence(&whole_second(time)?, inclusive).ok()
    }

    pub(super) fn last_before(&self, time: DateTime, inclusive: bool) -> Option<DateTime> {
        let inclusive = inclusive || time.subsec_nanosecond() != 0;
        self.cron.find_previous_occurrence(&whole_second(time)?, inclusive).ok()
    }
}

fn whole_second(time: DateTime) -> Option<DateTime> {
    time.with().subsec_nanosecond(0).build().ok()
}

/// Whether some year has a day that matches. With weekdays by OR there always is one.
fn has_a_day(cron: &Cron, days_and_weekdays: bool) -> bool {
    let days = cron.pattern.days.values();
    let possible = cron.pattern.months.values().into_iter().any(|month| {
        let length = MONTH_LENGTHS.get(usize::from(month).wrapping_sub(1)).copied().unwrap_or(0);
        days.iter().any(|day| *day <= length)
    });
    // Over the years every date falls on every weekday, the 29th of February, too.
    possible || !days_and_weekdays
}

impl Field {
    /// The field in numbers, checked.
    fn normalize(&self, text: &str) -> Result<String, InvalidSchedule> {
        // `?` is how other schedulers write a star that stands for "whatever the other day field says".
        let is_day = matches!(self.name, "day-of-month" | "day-of-week");
        if text == "?" && is_day {
            return Ok("*".to_owned());
        }
        let items: Vec<String> = text.split(',').map(|item| self.normalize_item(item)).collect::<Result<_, _>>()?;
        // A star anywhere but at the beginning would be lost on the rule of the two day fields.
        if items.len() > 1 && items.iter().any(|item| item == "*") {
            return Ok("*".to_owned());
        }
        Ok(items.join(","))
    }

    fn normalize_item(&self, item: &str) -> Result<String, InvalidSchedule> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let range = match range.split_once('-') {
            _ if range == "*" => range.to_owned(),
            Some((first, last)) => {
                let (first, last) = (self.number(item, first, false)?, self.number(item, last, true)?);
                if first > last {
                    return Err(self.invalid(item, "a range begins with the smaller one".to_owned()));
                }
                format!("{first}-{last}")
            }
            None if step.is_some() => {
                return Err(self.invalid(item, "a step follows a star or a range, as in */5 or 10-50/5".to_owned()));
            }
            None => self.number(item, range, false)?.to_string(),
        };
        let Some(step) = step else { return Ok(range) };
        let most = self.last - self.first;
        match digits(step).filter(|step| (1..=most).contains(step)) {
            Some(step) => Ok(format!("{range}/{step}")),
            None => Err(self.invalid(item, format!("a step is a number from 1 to {most}"))),
        }
    }

    fn number(&self, item: &str, text: &str, ends_range: bool) -> Result<u8, InvalidSchedule> {
        let word = self.words.iter().zip(self.first..).find(|(word, _)| word.eq_ignore_ascii_case(text));
        if let Some((word, number)) = word {
            return Ok(if ends_range && *word == "SUN" { 7 } else { number });
        }
        digits(text).filter(|number| (self.first..=self.last).contains(number)).ok_or_else(|| {
            let names = match (self.words.first(), self.words.last()) {
                (Some(first), Some(last)) => format!(", or {first} to {last}"),
                _ => String::new(),
            };
            self.invalid(item, format!("a number from {} to {} is needed{names}", self.first, self.last))
        })
    }

    fn invalid(&self, item: &str, rule: String) -> InvalidSchedule {
        InvalidSchedule::Field { field: self.name, item: item.to_owned(), rule }
    }
}

/// One or two digits; `parse` alone would take a plus sign.
fn digits(text: &str) -> Option<u8> {
    let plain = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}
