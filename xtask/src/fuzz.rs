//! `cargo xtask fuzz`: every fuzz target for a while, from its corpus.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{cargo, find_program, root, run, say, target_dir};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u32,
}

/// The targets of `tests/fuzz/Cargo.toml`.
const TARGETS: [&str; 7] = ["manifest", "task_spec", "stored", "rdb", "aof", "rdb_live", "aof_live"];

pub(crate) fn start(options: &Options) -> Result<()> {
    if find_program("cargo-fuzz").is_none() {
        say("installing cargo-fuzz");
        run(cargo().args(["install", "--quiet", "--locked", "cargo-fuzz"]))?;
    }
    let build = target_dir().join("fuzz");
    run(fuzz(&build, "build").arg("--release"))?;
    // Two at a time: as many as the smallest machine that runs this has cores.
    for pair in TARGETS.chunks(2) {
        let mut running = Vec::new();
        for target in pair {
            say(&format!("fuzzing {target} for {} s", options.seconds));
            let mut command = fuzz(&build, "run");
            // New inputs go to a folder of the build; the corpus in the repository only gains what someone adds.
            let found = build.join("corpus").join(target);
            // From the same start each time: a run of CI that fails can be repeated.
            let _ = std::fs::remove_dir_all(&found);
            std::fs::create_dir_all(&found)?;
            command.args(["--release", target]).arg(found).arg(format!("tests/fuzz/corpus/{target}"));
            command.arg("--").arg(format!("-max_total_time={}", options.seconds));
            command.args(["-rss_limit_mb=1024", "-timeout=20", "-print_final_stats=1", "-seed=1"]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
            running.push((target, command.spawn().context("failed to start cargo fuzz")?));
        }
        for (target, child) in running {
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            if !output.status.success() {
                let tail: Vec<&str> = said.lines().rev().take(40).collect();
                bail!("fuzz target {target} failed:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            let runs =
                said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")).unwrap_or("?");
            say(&format!("fuzz {target}: {} runs, no crash", runs.trim()));
        }
    }
    Ok(())
}

fn fuzz(build: &std::path::Path, verb: &str) -> Command {
    let mut command = cargo();
    command.arg("fuzz").arg(verb).args(["--fuzz-dir", "tests/fuzz", "--sanitizer", "none", "--target-dir"]).arg(build);
    // libFuzzer's coverage needs no nightly, but cargo-fuzz asks for flags that stable only takes with this.
    command.env("RUSTC_BOOTSTRAP", "1").current_dir(root());
    for name in ["CARGO_UNSTABLE_FEATURE_UNIFICATION", "CARGO_RESOLVER_FEATURE_UNIFICATION", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    command
}
