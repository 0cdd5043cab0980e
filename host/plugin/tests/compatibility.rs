//! A plugin that was compiled once against the contract 0.1.0 and is never built again runs on this host, whatever has changed since.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::path::Path;

use redkeep_core::Attribute;
use redkeep_core::method::Run;
use redkeep_plugin::{Grants, HostConfig, LoadOptions, PluginHost};
use support::world::World;

#[tokio::test]
async fn the_plugin_of_the_contract_0_1_0_runs_for_ever() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/plugin-v0.1.wasm");
    let bytes = std::fs::read(path).unwrap();
    let host = PluginHost::new(HostConfig::default()).unwrap();
    let options = LoadOptions { grants: Grants::everything_requested(), ..LoadOptions::default() };
    let method = host.load(bytes, options).await.unwrap();
    assert_eq!((method.info().name.as_str(), method.info().version.as_str()), ("plugin-v0-1", "0.1.0"));

    method.validate("{}").await.unwrap();
    let refused = method.validate(r#"{"word": "refuse"}"#).await.unwrap_err();
    assert_eq!(
        (refused.code.as_str(), refused.details),
        ("invalid-parameters", vec![Attribute::new("/word", "must not be refuse")])
    );

    let world = World::new();
    world.files.lock().unwrap().insert("f".into(), "0123456789".into());
    assert_eq!(method.plan(world.run("capture")).await.unwrap(), [Attribute::new("run", "capture")]);
    let run = Run { parameters: r#"{"word": "x"}"#.to_owned(), ..world.run("capture") };
    let facts = method.capture(run).await.unwrap();
    let expected = [
        ("parameters", r#"{"word": "x"}"#),
        ("clock", "ok"),
        ("source-size", "10"),
        ("position", "4"),
        ("spliced", "6"),
        ("artifact-size", "10"),
        ("list-directory", "ok"),
        ("create-file", "ok"),
        ("remove", "ok"),
        ("info", "ok"),
        ("command", "ok"),
        // What the world of these tests does not have.
        ("pipeline", "not-supported"),
        ("replicate", "not-supported"),
        ("resume", "not-found"),
        ("load", "ok"),
        ("connect", "ok"),
        ("list", "ok"),
        ("facts", "ok"),
    ];
    let facts: Vec<(&str, &str)> = facts.iter().map(|fact| (fact.key.as_str(), fact.value.as_str())).collect();
    assert_eq!(facts, expected);
    assert_eq!(world.artifacts.lock().unwrap()["a"], b"0123456789");
    assert_eq!(world.thrown_away.lock().unwrap().len(), 1);
    assert!(world.logged("a line of the fixture"));

    assert_eq!(method.restore(world.run("restore")).await.unwrap(), [Attribute::new("open", "not-found")]);
    let damaged = method.verify(world.run("verify")).await.unwrap_err();
    assert_eq!((damaged.code.as_str(), damaged.message.as_str(), damaged.retryable), ("damaged", "as asked", true));
    assert_eq!(method.inspect(world.run("inspect"), r#"{"largest": 1}"#).await.unwrap(), r#"{"largest": 1}"#);
}
