//! Which plugin, and what it may do.

use std::path::PathBuf;

use clap::Args;
use redkeep_core::task::MethodSpec;

/// A plugin from a file instead of a bundled one.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Plugin")]
pub(crate) struct PluginArgs {
    /// Use the plugin in this file (a WebAssembly component)
    #[arg(long, value_name = "FILE")]
    pub(crate) plugin: Option<PathBuf>,
    /// Grant a plugin that does not come with redkeep (from --plugin, or kept beside the backup) one thing it asks for, e.g.
    /// `redis:replicate`; may be given several times
    #[arg(long, value_name = "GRANT")]
    grant: Vec<String>,
    /// Demand that the plugin has exactly this SHA-256
    #[arg(long, value_name = "SHA256", value_parser = digest)]
    plugin_digest: Option<String>,
}

impl PluginArgs {
    /// As the engine takes it; `name` is `rdb`, `aof`, a method's name, or empty for whichever reads the artifacts.
    pub(crate) fn spec(&self, name: &str) -> MethodSpec {
        MethodSpec {
            name: method_name(name).to_owned(),
            file: self.plugin.clone(),
            digest: self.plugin_digest.clone(),
            grants: self.grant.clone(),
        }
    }
}

/// The plugin's name behind the short one.
pub(crate) fn method_name(name: &str) -> &str {
    match name {
        "rdb" => "redis-rdb",
        "aof" => "redis-aof",
        other => other,
    }
}

fn digest(text: &str) -> Result<String, String> {
    let hexadecimal = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    if hexadecimal.len() == 64 && hexadecimal.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(hexadecimal)
    } else {
        Err("a digest is 64 hexadecimal digits; `redkeep plugin inspect` shows it".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hexadecimal_digits_in_either_spelling() {
        let plain = "a".repeat(64);
        assert_eq!(digest(&plain).as_deref(), Ok(plain.as_str()));
        assert_eq!(digest(&format!("sha256:{}", plain.to_uppercase())).as_deref(), Ok(plain.as_str()));
        for bad in ["", "abc", &"g".repeat(64), &"a".repeat(65)] {
            assert!(digest(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn short_names_stand_for_the_bundled_methods() {
        assert_eq!(method_name("rdb"), "redis-rdb");
        assert_eq!(method_name("aof"), "redis-aof");
        assert_eq!(method_name("my-method"), "my-method");
    }
}
