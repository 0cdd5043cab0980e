//! Peak memory: a stream larger than the machine's memory with one 600 MB value in it.

use anyhow::Result;

use super::Bench;
use crate::measure::{Run, run};
use crate::stream;
use crate::table::Row;

const LIMIT_MIB: f64 = 96.0;

pub(super) async fn peaks(bench: &mut Bench) -> Result<Vec<Row>> {
    let gigabytes = bench.options.stream_gb;
    let address = stream::serve(gigabytes << 30).await?;
    let storage = bench.gateway.storage("memory");
    let source = format!("redis://{address}");
    let identity = bench.identity.display().to_string();
    let target = bench.place.path().join("memory").display().to_string();
    let recipient = bench.recipient.clone();
    let mut rows = Vec::new();

    let stream_text = format!("{gigabytes} GiB synthetic stream with a 600 MB value");
    let mut backup = bench.redkeep(&[
        "backup",
        "--source",
        &source,
        "--method",
        "rdb",
        "--cluster",
        "bench",
        "--recipient",
        &recipient,
    ]);
    backup.args(&storage);
    rows.push(row(&format!("backup of a {stream_text}"), blocking(backup).await?));
    for level in ["checksum", "parse"] {
        let mut verify = bench.redkeep(&["verify", "latest", "--level", level, "--identity", &identity]);
        verify.args(&storage);
        rows.push(row(&format!("verify --level {level} of it"), blocking(verify).await?));
    }
    let mut inspect = bench.redkeep(&["inspect", "latest", "--largest", "10", "--identity", &identity]);
    inspect.args(&storage);
    rows.push(row("inspect of it", blocking(inspect).await?));
    let mut restore =
        bench.redkeep(&["restore", "latest", "--identity", &identity, "--appendonly", "no", "--target-dir", &target]);
    restore.args(&storage);
    rows.push(row("restore of it to a directory", blocking(restore).await?));
    let _ = std::fs::remove_dir_all(&target);
    Ok(rows)
}

/// The synthetic primary runs on this runtime, so waiting must not block it.
async fn blocking(mut command: std::process::Command) -> Result<Run> {
    tokio::task::spawn_blocking(move || run(&mut command)).await?
}

fn row(what: &str, taken: Run) -> Row {
    Row {
        what: format!("peak memory: {what}"),
        against: String::new(),
        target: format!("at most {LIMIT_MIB:.0} MiB"),
        ours: format!("{:.1} s", taken.seconds),
        theirs: String::new(),
        figure: format!("{:.0} MiB", taken.peak_mib),
        reached: taken.peak_mib <= LIMIT_MIB,
    }
}
