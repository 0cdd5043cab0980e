//! Every command of `docs/plugin-guide.md`, run as written on a machine that has never seen the plugin.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::Command;

use redkeep_testing::server::{RedisServer, Version};
use redkeep_tests::program;

/// The address that the guide uses; the test's server listens elsewhere.
const ADDRESS: &str = "redis://127.0.0.1:6379";

/// The blocks marked `sh`, in their order.
fn commands(text: &str) -> String {
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.collect()
}

#[tokio::test]
async fn the_guide_works_as_it_is_written() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/plugin-guide.md");
    let commands = commands(&std::fs::read_to_string(guide).unwrap());
    for step in ["plugin new", "plugin build", "plugin inspect", "plugin test", "backup", "verify", "restore", ADDRESS]
    {
        assert!(commands.contains(step), "the guide has no {step}");
    }
    let server = RedisServer::start(Version::Redis70).unwrap();
    server.command(&["SET", "key", "value"]).await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let program = program().unwrap();
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-euxc", &commands.replace(ADDRESS, &server.url())]).current_dir(folder.path()).env("PATH", path);
    for name in
        ["CARGO_TARGET_DIR", "CARGO_UNSTABLE_FEATURE_UNIFICATION", "CARGO_RESOLVER_FEATURE_UNIFICATION", "RUSTFLAGS"]
    {
        bash.env_remove(name);
    }
    let output = bash.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");

    let restored = RedisServer::start_in(Version::Redis70, &folder.path().join("restored"), &["--appendonly", "no"]);
    let value = restored.unwrap().command(&["GET", "key"]).await.unwrap();
    assert_eq!(value, redis::Value::BulkString(b"value".to_vec()));
}
