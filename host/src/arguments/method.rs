//! Which plugin, and what it may do.

use std::path::PathBuf;

use clap::Args;
use redkeep_core::task::{MethodSpec, OciSpec};

use super::limits::LimitArgs;
use super::registry::RegistryArgs;

/// A plugin from a file instead of a bundled one.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Plugin")]
pub(crate) struct PluginArgs {
    /// Use the plugin in this file, or oci://registry/name@sha256:… (a WebAssembly component)
    #[arg(long, value_name = "FILE|OCI")]
    pub(crate) plugin: Option<PathBuf>,
    /// Grant a plugin that does not come with redkeep (from --plugin, or kept beside the backup) one thing it asks for, e.g.
    /// `redis:replicate`; may be given several times
    #[arg(long, value_name = "GRANT")]
    grant: Vec<String>,
    /// Demand that the plugin has exactly this SHA-256
    #[arg(long, value_name = "SHA256", value_parser = digest)]
    plugin_digest: Option<String>,
    /// Demand that the plugin of a registry is signed with this public key (PEM, ECDSA P-256, as cosign has it)
    #[arg(long, value_name = "FILE", requires = "plugin")]
    plugin_key: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl PluginArgs {
    /// As the engine takes it; `name` is `rdb`, `aof`, a method's name, or empty for whichever reads the artifacts.
    pub(crate) fn spec(&self, name: &str) -> MethodSpec {
        let named = self.plugin.as_ref().map(|plugin| plugin.display().to_string());
        let reference = match (named, &self.plugin_key) {
            (Some(text), _) if is_reference(&text) => Some(text),
            // A signature that is demanded is never left out: this is refused as no reference.
            (Some(text), Some(_)) => Some(format!("file://{text}")),
            _ => None,
        };
        let oci = reference
            .map(|reference| OciSpec { public_key_file: self.plugin_key.clone(), ..self.registry.spec(&reference) });
        MethodSpec {
            name: method_name(name).to_owned(),
            file: self.plugin.clone().filter(|_| oci.is_none()),
            oci,
            digest: self.plugin_digest.clone(),
            grants: self.grant.clone(),
            limits: self.limits.limits(),
        }
    }
}

/// Whether a plugin is named by its place in a registry.
pub(crate) fn is_reference(text: &str) -> bool {
    text.starts_with("oci://")
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
    fn a_plugin_is_a_file_or_a_reference() {
        let file = PluginArgs { plugin: Some("/p.wasm".into()), ..PluginArgs::default() }.spec("mine");
        assert_eq!((file.file.as_deref(), file.oci), (Some(std::path::Path::new("/p.wasm")), None));
        let reference = "oci://r.io/mine:1";
        let args =
            PluginArgs { plugin: Some(reference.into()), plugin_key: Some("/k.pub".into()), ..PluginArgs::default() };
        let spec = args.spec("mine");
        let oci = spec.oci.unwrap();
        assert_eq!((spec.file, oci.reference.as_str(), oci.plain_http), (None, reference, false));
        assert_eq!(oci.public_key_file, Some("/k.pub".into()));
        // A file has no signature: the demand must not be lost.
        let file =
            PluginArgs { plugin: Some("/p.wasm".into()), plugin_key: Some("/k.pub".into()), ..PluginArgs::default() };
        let spec = file.spec("mine");
        assert!(spec.file.is_none());
        assert!(redkeep_plugin::oci::OciReference::parse(&spec.oci.unwrap().reference).is_err());
    }

    #[test]
    fn short_names_stand_for_the_bundled_methods() {
        assert_eq!(method_name("rdb"), "redis-rdb");
        assert_eq!(method_name("aof"), "redis-aof");
        assert_eq!(method_name("my-method"), "my-method");
    }
}
