//! What is loaded and what is refused, with the reason and the way out named.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use redkeep_core::{Class, Classify};
use redkeep_plugin::{Grants, HostConfig, Limits, LoadOptions, NotComponent, PluginError, PluginHost};
use rstest::rstest;
use support::guest::Guest;
use support::world::World;

fn host() -> PluginHost {
    PluginHost::new(HostConfig::default()).unwrap()
}

async fn refusal(bytes: Vec<u8>) -> PluginError {
    let options = LoadOptions { origin: "x.wasm".into(), ..LoadOptions::default() };
    match host().load(bytes, options).await {
        Ok(_) => panic!("it was loaded"),
        Err(error) => error,
    }
}

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn a_component_without_our_interface_is_no_method() {
    let error = refusal(component("(component)")).await;
    assert!(matches!(error, PluginError::NotAMethod { .. }), "{error}");
}

#[rstest]
#[case(r#"(component (import "wasi:cli/stdout@0.2.0" (instance)))"#, "wasi:cli/stdout@0.2.0", "stub")]
#[case(r#"(component (import "wasi:random/random@0.3.0" (instance)))"#, "wasi:random/random@0.3.0", "stub")]
#[case(r#"(component (import "evil:host/shell@0.1.0" (instance)))"#, "evil:host/shell@0.1.0", "redkeep:plugin@0.1")]
#[case(
    r#"(component (import "redkeep:plugin/shell@0.1.0" (instance)))"#,
    "redkeep:plugin/shell@0.1.0",
    "redkeep:plugin@0.1"
)]
#[case(r#"(component (import "run" (func)))"#, "run", "redkeep:plugin@0.1")]
#[tokio::test]
async fn an_import_that_is_not_ours_is_named(#[case] text: &str, #[case] import: &str, #[case] help: &str) {
    let error = refusal(component(text)).await;
    assert!(matches!(&error, PluginError::Import { import: named, .. } if named == import), "{error}");
    assert!(error.help().unwrap().contains(help), "{:?}", error.help());
}

#[tokio::test]
async fn a_plugin_of_another_version_is_refused_with_both_versions() {
    let by_import = refusal(component(r#"(component (import "redkeep:plugin/log@0.2.0" (instance)))"#)).await;
    let by_export = refusal(Guest::new().contract("0.2.0", |wit| wit).build()).await;
    for error in [by_import, by_export] {
        assert!(matches!(error, PluginError::ApiVersion { .. }), "{error}");
        assert!(error.to_string().contains("@0.2.0") && error.to_string().contains("0.1"), "{error}");
        assert_eq!(error.class(), Class::Refused);
    }
}

#[tokio::test]
async fn a_plugin_of_a_later_patch_is_loaded_unless_it_uses_what_is_new() {
    let later =
        |wit: String| wit.replace("  now-ms: func() -> u64;", "  now-ms: func() -> u64;\n  new-ms: func() -> u64;");
    let body = "(drop (call $now)) (global.get $ok)";
    let bytes = Guest::new().contract("0.1.1", later).export("capture", body).build();
    let method = host().load(bytes, LoadOptions::default()).await.unwrap();
    assert!(method.capture(World::new().run("capture")).await.unwrap().is_empty());

    let body = "(drop (call $new)) (global.get $ok)";
    let error = refusal(Guest::new().contract("0.1.1", later).export("capture", body).build()).await;
    assert!(matches!(error, PluginError::Link { .. }), "{error}");
    assert!(error.help().unwrap().contains("newer redkeep"));
}

#[tokio::test]
async fn a_plugin_whose_types_differ_does_not_fit() {
    let other = |wit: String| wit.replace("retryable: bool,", "retryable: u32,");
    let error = refusal(Guest::new().contract("0.1.0", other).build()).await;
    assert!(matches!(error, PluginError::Link { .. }), "{error}");
}

#[tokio::test]
async fn a_component_cut_short_anywhere_is_refused() {
    let good = Guest::new().build();
    let step = (good.len() / 40).max(1);
    for length in (1..good.len()).step_by(step) {
        let error = refusal(good[..length].to_vec()).await;
        let known = matches!(
            error,
            PluginError::Damaged { .. } | PluginError::NotAComponent { .. } | PluginError::NotAMethod { .. }
        );
        assert!(known, "{length} of {}: {error}", good.len());
    }
}

#[tokio::test]
async fn a_flipped_byte_never_brings_the_host_down() {
    let good = Guest::new().build();
    let host = host();
    let step = (good.len() / 120).max(1);
    for offset in (8..good.len()).step_by(step) {
        let mut bad = good.clone();
        bad[offset] ^= 0x15;
        // Many flips are harmless (a name, a text); what matters is that there is an answer.
        let _ = host.load(bad, LoadOptions { origin: "x".into(), ..LoadOptions::default() }).await;
    }
}

#[tokio::test]
async fn what_is_no_component_is_named() {
    let module = component("(module)");
    assert!(matches!(refusal(module).await, PluginError::NotAComponent { kind: NotComponent::CoreModule, .. }));
    let compiled = wasmtime::Engine::default().precompile_component(&component("(component)")).unwrap();
    let error = refusal(compiled).await;
    assert!(matches!(error, PluginError::NotAComponent { kind: NotComponent::Precompiled, .. }), "{error}");
    assert!(error.help().unwrap().contains(".wasm"));
}

#[tokio::test]
async fn only_the_demanded_digest_is_loaded() {
    let bytes = Guest::new().build();
    let load = |digest: String| {
        let options = LoadOptions { demanded_digest: Some(digest), ..LoadOptions::default() };
        let (host, bytes) = (host(), bytes.clone());
        async move { host.load(bytes, options).await.map(|method| method.digest().to_owned()) }
    };
    let Err(error) = load("00".repeat(32)).await else { panic!("it was loaded") };
    assert!(matches!(error, PluginError::Digest { .. }), "{error}");
    assert_eq!(error.class(), Class::Refused);
    let digest = host().describe(bytes.clone(), "x", Limits::default()).await.unwrap().outline.digest;
    assert_eq!(load(digest.clone()).await.unwrap(), digest);
    assert_eq!(load(format!("sha256:{}", digest.to_uppercase())).await.unwrap(), digest);
}

#[tokio::test]
async fn missing_grants_are_refused_with_the_flags_that_would_do() {
    let guest = Guest::new().requests(&["redis:replicate", "redis:command:CONFIG|GET", "?redis:load"]);
    let error = refusal(guest.build()).await;
    assert_eq!(
        error.to_string(),
        "plugin test needs what it is not granted: redis:replicate, redis:command:CONFIG|GET"
    );
    assert_eq!(
        error.help().unwrap(),
        "if the plugin may do this, add --grant redis:replicate --grant 'redis:command:CONFIG|GET'"
    );
    assert_eq!(error.class(), Class::Refused);
}

#[tokio::test]
async fn a_request_that_this_host_does_not_know_is_refused_and_an_optional_one_is_not() {
    let granted = LoadOptions { grants: Grants::everything_requested(), ..LoadOptions::default() };
    host().load(Guest::new().requests(&["?clock:set"]).build(), granted.clone()).await.unwrap();
    let Err(error) = host().load(Guest::new().requests(&["clock:set"]).build(), granted).await else {
        panic!("it was loaded")
    };
    assert!(matches!(error, PluginError::Request { .. }), "{error}");
}

#[rstest]
#[case(Guest::new().name("Bad Name"), "is not a method's name")]
#[case(Guest::new().name(""), "is not a method's name")]
#[case(Guest::new().schema("{"), "parameters-schema is not JSON")]
#[case(Guest::new().schema("[]"), "parameters-schema is not a JSON object")]
#[tokio::test]
async fn a_wrong_description_is_refused(#[case] guest: Guest, #[case] message: &str) {
    let error = refusal(guest.build()).await;
    assert!(error.to_string().contains(message), "{error}");
}

#[rstest]
#[case("(loop $again (br $again))", "computed for 100 ms")]
#[case("(loop $again (drop (memory.grow (i32.const 16))) (br $again))", "used more memory")]
#[case("(call $sleep (i32.const 3600000) (global.get $ret))", "limit of the wall clock")]
#[case("unreachable", "trapped in describe")]
#[tokio::test]
async fn a_describe_that_misbehaves_is_stopped(#[case] body: &str, #[case] message: &str) {
    let limits = Limits {
        describe_cpu_slice: Duration::from_millis(100),
        describe_wall_clock: Duration::from_millis(800),
        ..Limits::default()
    };
    let error = host().describe(Guest::new().export("describe", body).build(), "x.wasm", limits).await.unwrap_err();
    let PluginError::Describe { source, .. } = &error else { panic!("{error}") };
    assert!(source.message.contains(message), "{source}");
}

#[tokio::test]
async fn a_plugin_in_python_describes_itself_and_more_memory_is_a_setting() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist/example-python.wasm");
    let Ok(bytes) = std::fs::read(file) else {
        assert!(std::env::var_os("CI").is_none(), "run `cargo xtask plugins` first");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let host = PluginHost::new(HostConfig { cache_dir: Some(folder.path().join("cache")) }).unwrap();
    assert!(bytes.len() > 16 << 20);
    let description = host.describe(bytes.clone(), "x.wasm", Limits::default()).await.unwrap();
    assert_eq!(description.info.name, "example-python");
    let within = |memory: u64| {
        let given = redkeep_core::task::MethodLimits { memory_bytes: Some(memory), ..Default::default() };
        host.describe(bytes.clone(), "x.wasm", Limits::of(&given))
    };
    let error = within(8 << 20).await.unwrap_err();
    assert!(
        matches!(&error, PluginError::Describe { source, .. } if source.message.contains("used more memory")),
        "{error}"
    );
    within(14 << 20).await.unwrap();

    // 48 MiB from its first instruction on: too much, unless it is given.
    let large = Guest::new().pages(768).build();
    let error = host.describe(large.clone(), "x.wasm", Limits::default()).await.unwrap_err();
    assert!(matches!(&error, PluginError::Describe { source, .. } if source.message.contains("32.0 MiB")), "{error}");
    let given = redkeep_core::task::MethodLimits { memory_bytes: Some(64 << 20), ..Default::default() };
    host.describe(large, "x.wasm", Limits::of(&given)).await.unwrap();
}

#[tokio::test]
async fn describe_and_validate_reach_nothing_but_log_and_control() {
    let mut guest = Guest::new();
    let file = guest.text("f");
    let body = format!("(call $open {file} (global.get $ret)) (global.get $ret)");
    let guest = guest.requests(&["files:read:f"]).export("validate", body);
    let options = LoadOptions { grants: Grants::everything_requested(), ..LoadOptions::default() };
    let method = host().load(guest.build(), options).await.unwrap();
    let error = method.validate("{}").await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("not-supported", "validate can use only log and control")
    );
}

#[tokio::test]
async fn a_description_tells_what_the_component_is() {
    let body = "(drop (call $now)) (global.get $ok)";
    let bytes = Guest::new().requests(&["?redis:info"]).export("capture", body).build();
    let description = host().describe(bytes.clone(), "x.wasm", Limits::default()).await.unwrap();
    assert_eq!(description.info.name, "test");
    assert_eq!(description.info.requests, ["?redis:info"]);
    assert_eq!(description.outline.size, bytes.len() as u64);
    assert_eq!(description.outline.api_version, "0.1.0");
    assert!(description.outline.imports.contains(&"redkeep:plugin/control@0.1.0".to_owned()));
    assert_eq!(description.outline.exports, ["redkeep:plugin/method@0.1.0"]);
}

#[tokio::test]
async fn the_second_start_compiles_nothing_and_a_damaged_cache_compiles_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache_dir = folder.path().join("cache");
    let describe = || async {
        let host = PluginHost::new(HostConfig { cache_dir: Some(cache_dir.clone()) }).unwrap();
        assert_eq!(host.cache_refusal(), None);
        host.describe(Guest::new().build(), "x", Limits::default()).await.unwrap().from_cache
    };
    assert!(!describe().await);
    assert!(describe().await);
    for entry in std::fs::read_dir(&cache_dir).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(!describe().await);
    assert!(describe().await);
}

#[tokio::test]
async fn a_cache_that_others_can_write_is_not_used_and_the_host_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let host = PluginHost::new(HostConfig { cache_dir: Some(folder.path().to_owned()) }).unwrap();
    assert!(host.cache_refusal().unwrap().contains("others may write to it"));
    host.describe(Guest::new().build(), "x", Limits::default()).await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
