//! The rows of the table: what is set up, what is waited for, what is read.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use redkeep_core::schedule::jitter;
use serde_json::{Value, json};

use crate::Options;
use crate::process::{Operator, Said};
use crate::world::{World, backup_spec};

const HOUR: i64 = 3600;
/// Schedules of the burst.
const BURST: usize = 200;

#[derive(Default)]
struct Row {
    what: String,
    wanted: String,
    got: String,
    /// What one scheduled backup asks of the API server, where that was counted.
    requests: Vec<(String, f64)>,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let client = Client::try_default().await.context("no API server: set KUBECONFIG")?;
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    let mut rows = Vec::new();
    if wanted("rest") || wanted("start") {
        rows.extend(standing(options, &client).await?);
    }
    if wanted("burst") {
        rows.push(burst(options, &client).await?);
    }
    if wanted("spread") {
        rows.push(hour(options, &client, "spread", "1 s").await?);
    }
    if wanted("minutes") {
        rows.push(hour(options, &client, "minutes", "10 s").await?);
    }
    let table = table(options, &rows);
    println!("\n{table}");
    std::fs::write(&options.results, table).with_context(|| format!("{}", options.results.display()))
}

fn with_schedule(number: usize, schedule: Value) -> Value {
    let mut spec = backup_spec(number);
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), schedule) {
        spec.extend(more);
    }
    spec
}

/// All schedules due over one hour of the operator's clock: spread by jitter, or each in one of sixty minutes.
async fn hour(options: &Options, client: &Client, name: &'static str, limit: &str) -> Result<Row> {
    let world = World::new(client.clone(), &format!("scale-{name}")).await?;
    let schedule = |number: usize| match name {
        "spread" => json!({"schedule": "0 * * * *", "jitter": "59m59s"}),
        _ => json!({"schedule": format!("{} * * * *", number % 60)}),
    };
    world.make_schedules(options.schedules, |number| with_schedule(number, schedule(number))).await?;
    // The first operator writes every status for the first time; how long that takes is told where operators start.
    let mut operator = Operator::start(options, &world.namespace, None, 1)?;
    operator.until("readiness", Duration::from_mins(2), |said| said.ready).await?;
    settle(&mut operator).await?;
    operator.stop().await?;
    // With jitter the hour is a full one, that nothing is due before. Else it begins right after the schedules' creation: slots
    // between that and the start of the operator's clock would be made good first, thousands at once.
    let now = Timestamp::now().as_second();
    let lead = i64::from(options.speed) * 20;
    let first = if name == "spread" { (now / HOUR + 1) * HOUR } else { (now + lead) / 60 * 60 + 60 };
    let begins = first - lead;
    let mut operator = Operator::start(options, &world.namespace, Some(begins), options.speed)?;
    operator.until("readiness", Duration::from_mins(2), |said| said.ready).await?;
    let before = operator.said();
    let span = Duration::from_secs(u64::try_from(lead + HOUR)?) / options.speed;
    tokio::time::sleep_until(operator.started + span).await;
    let all = options.schedules;
    // What the hour left to do; the next hour's slots begin meanwhile and are not counted.
    let (begin, end) = (Timestamp::from_second(first)?, Timestamp::from_second(first + HOUR - 1)?);
    let in_hour = |slot: Timestamp| begin <= slot && slot <= end;
    let due = |run: &str| -> Option<Timestamp> {
        let (schedule, stamp) = run.rsplit_once('-')?;
        let part = |range: std::ops::Range<usize>| stamp.get(range)?.parse::<i8>().ok();
        let year: i16 = stamp.get(..4)?.parse().ok()?;
        let slot =
            jiff::civil::DateTime::new(year, part(4..6)?, part(6..8)?, part(8..10)?, part(10..12)?, 0, 0).ok()?;
        let slot = slot.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        let delay = match name {
            "spread" => jitter(&format!("scale-{name}"), schedule, Duration::from_secs(3599)),
            _ => Duration::ZERO,
        };
        in_hour(slot).then(|| slot.checked_add(SignedDuration::try_from(delay).ok()?).ok()).flatten()
    };
    let waited = operator
        .until("the last start", Duration::from_mins(3), |said| {
            said.starts.keys().filter(|run| due(run).is_some()).count() >= all
        })
        .await;
    let said = operator.said();
    let requests = requests_for_each(&before, &said)?;
    let mut late: Vec<f64> = said
        .starts
        .iter()
        .filter_map(|(run, at)| Some(at.duration_since(due(run)?).as_secs_f64() / f64::from(options.speed)))
        .collect();
    late.sort_by(f64::total_cmp);
    let memory = operator.peak_memory()?;
    let cpu = operator.cpu()? / operator.started.elapsed().as_secs_f64() * 100.0;
    // The next hour has begun meanwhile: its work would be in the way of the list.
    operator.stop().await?;
    let runs = world.runs(|slot| slot.parse().is_ok_and(in_hour)).await?;
    let (lost, twice) = (all - runs.len().min(all), runs.values().filter(|count| **count > 1).count());
    let count: f64 = requests.iter().map(|(_, count)| count).sum();
    let percentile = |part: usize| late.get(late.len().saturating_sub(1) * part / 100).copied().unwrap_or(f64::NAN);
    let mut got = format!(
        "p50 {:.2} s, p99 {:.2} s, most {:.2} s; {} begun, {lost} lost, {} twice; memory {memory:.0} MiB; CPU {cpu:.0} %; {count:.1} requests for each",
        percentile(50),
        percentile(99),
        percentile(100),
        late.len(),
        twice + said.doubled,
    );
    if let Err(error) = waited {
        write!(got, "; FELL SHORT: {error}")?;
    }
    println!("{name}: {got}");
    world.clear().await;
    let how = if name == "spread" { "spread by jitter" } else { "in 60 minutes, no jitter" };
    Ok(Row {
        what: format!("{all} schedules due over one hour, {how}, clock x{}", options.speed),
        wanted: format!("p99 of start after slot at most {limit}, 150 MiB, none lost, none twice"),
        got,
        requests,
    })
}

/// From what was said before to what was said after, for each backup that was begun.
fn requests_for_each(before: &Said, after: &Said) -> Result<Vec<(String, f64)>> {
    let backups = f64::from(u32::try_from(after.starts.len().max(1))?);
    let each = |(what, count): (&String, &u64)| {
        let count = count.saturating_sub(before.requests.get(what).copied().unwrap_or(0));
        anyhow::Ok((what.clone(), f64::from(u32::try_from(count)?) / backups))
    };
    let all: Result<Vec<(String, f64)>> = after.requests.iter().map(each).collect();
    // Looking, leading and listing are not for each.
    Ok(all?.into_iter().filter(|(_, count)| *count >= 0.05).collect())
}

/// Two hundred in the same second, on an ordinary clock.
async fn burst(options: &Options, client: &Client) -> Result<Row> {
    let world = World::new(client.clone(), "scale-burst").await?;
    world.make_schedules(BURST, |number| with_schedule(number, json!({"schedule": "* * * * *"}))).await?;
    let now = Timestamp::now().as_second();
    let slot = (now / 60 + 1) * 60;
    let mut operator = Operator::start(options, &world.namespace, Some(slot - 10), 1)?;
    operator.until("readiness", Duration::from_mins(1), |said| said.ready).await?;
    let stamp = jiff::tz::TimeZone::UTC.to_datetime(Timestamp::from_second(slot)?).strftime("%Y%m%d%H%M").to_string();
    let of_slot = |run: &str| run.ends_with(&stamp);
    let waited = operator
        .until("the last start", Duration::from_mins(1), |said| {
            said.starts.keys().filter(|run| of_slot(run)).count() >= BURST
        })
        .await;
    let said = operator.said();
    let slot = Timestamp::from_second(slot)?;
    let starts = said.starts.iter().filter(|(run, _)| of_slot(run));
    let late: Vec<f64> = starts.map(|(_, at)| at.duration_since(slot).as_secs_f64()).collect();
    operator.stop().await?;
    world.clear().await;
    let last = late.iter().copied().fold(0.0, f64::max);
    let mut got = format!("{} begun, the last after {last:.2} s", late.len());
    if let Err(error) = waited {
        write!(got, "; FELL SHORT: {error}")?;
    }
    Ok(Row {
        what: format!("{BURST} due in the same second"),
        wanted: "all begun within 10 s".into(),
        got,
        ..Row::default()
    })
}

/// Nothing due: how long a start takes, and what standing there costs.
async fn standing(options: &Options, client: &Client) -> Result<Vec<Row>> {
    let world = World::new(client.clone(), "scale-rest").await?;
    world.make_schedules(options.schedules, |number| with_schedule(number, json!({"schedule": "0 0 1 1 *"}))).await?;
    world.make_finished(options.finished).await?;
    // The first operator writes every status for the first time.
    let mut operator = Operator::start(options, &world.namespace, None, 1)?;
    operator.until("readiness", Duration::from_mins(2), |said| said.ready).await?;
    let settled = settle(&mut operator).await?;
    operator.stop().await?;
    let mut operator = Operator::start(options, &world.namespace, None, 1)?;
    operator.until("readiness", Duration::from_mins(2), |said| said.ready).await?;
    let ready = operator.started.elapsed().as_secs_f64();
    settle(&mut operator).await?;
    let (cpu, requests) = (operator.cpu()?, operator.said().all_requests());
    tokio::time::sleep(Duration::from_secs(options.rest)).await;
    let seconds = Duration::from_secs(options.rest).as_secs_f64();
    let cpu = (operator.cpu()? - cpu) / seconds * 100.0;
    let requests = f64::from(u32::try_from(operator.said().all_requests() - requests)?) / seconds;
    let memory = operator.peak_memory()?;
    operator.stop().await?;
    world.clear().await;
    let (schedules, finished) = (options.schedules, options.finished);
    Ok(vec![
        Row {
            what: format!("start with {schedules} schedules and {finished} finished backups"),
            wanted: "ready within 15 s".into(),
            got: format!(
                "ready after {ready:.1} s; memory {memory:.0} MiB; the very first start writes {schedules} statuses in {settled:.0} s more"
            ),
            ..Row::default()
        },
        Row {
            what: format!("the same at rest, {} s", options.rest),
            wanted: "at most 2 % of one core and 1 request/s beside watches".into(),
            got: format!("{cpu:.2} % of one core, {requests:.2} requests/s"),
            ..Row::default()
        },
    ])
}

/// Until it has nothing to do for three seconds; how long that took.
async fn settle(operator: &mut Operator) -> Result<f64> {
    let begin = tokio::time::Instant::now();
    let mut last = (operator.said().all_requests(), operator.cpu()?);
    loop {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = (operator.said().all_requests(), operator.cpu()?);
        if now.0 - last.0 <= 3 && now.1 - last.1 < 0.3 {
            return Ok((begin.elapsed().as_secs_f64() - 3.0).max(0.0));
        }
        last = now;
    }
}

fn table(options: &Options, rows: &[Row]) -> String {
    let mut text = format!(
        "# The operator at scale\n\nBy `cargo xtask bench --only operator` on {} cores shared with etcd, API server and controller manager;\n\
         tasks pretend to work for two seconds. Lateness is in seconds of the world: with a clock x{} an hour's load comes in {} minutes.\n\n\
         | what | reach | measured |\n| --- | --- | --- |\n",
        std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        options.speed,
        60 / options.speed.max(1),
    );
    for row in rows {
        let _ = writeln!(text, "| {} | {} | {} |", row.what, row.wanted, row.got);
    }
    for row in rows.iter().filter(|row| !row.requests.is_empty()) {
        let _ = writeln!(text, "\nRequests for each backup, {}:\n\n| request | each |\n| --- | --- |", row.what);
        for (what, count) in &row.requests {
            let _ = writeln!(text, "| {what} | {count:.2} |");
        }
    }
    text
}
