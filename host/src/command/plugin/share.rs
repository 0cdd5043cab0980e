//! `redkeep plugin push` and `redkeep plugin pull`: components in OCI registries.

use std::path::PathBuf;

use clap::Args;
use redkeep_core::classify::Class;
use redkeep_core::task::OciSpec;

use crate::arguments::method::is_reference;
use crate::arguments::registry::RegistryArgs;
use crate::output::failure::Failure;
use crate::session::Session;

/// Bring a plugin to a registry
#[derive(Args, Debug)]
pub(super) struct PushCommand {
    /// The component's file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to
    #[arg(value_name = "oci://REGISTRY/NAME:TAG", value_parser = reference)]
    reference: String,
    /// Sign it with this private key (PEM, PKCS 8, ECDSA P-256), as cosign keeps signatures
    #[arg(long, value_name = "KEYFILE")]
    sign: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Fetch a plugin from a registry into a file
#[derive(Args, Debug)]
pub(super) struct PullCommand {
    /// Where from
    #[arg(value_name = "oci://REGISTRY/NAME@sha256:…", value_parser = reference)]
    reference: String,
    /// The file; never one that is there already
    #[arg(long, value_name = "FILE", default_value = "plugin.wasm")]
    out: PathBuf,
    /// Demand that it is signed with this public key (PEM)
    #[arg(long, value_name = "FILE")]
    plugin_key: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

fn reference(text: &str) -> Result<String, String> {
    if is_reference(text) { Ok(text.to_owned()) } else { Err("a reference begins with oci://".to_owned()) }
}

impl PushCommand {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let spec = self.registry.spec(&self.reference);
        let work = session.wiring.push_plugin(&spec, &self.file, self.sign.as_deref());
        let pinned = session.until_cancelled(work).await?;
        let value = serde_json::json!({ "reference": pinned, "signed": self.sign.is_some() });
        session.format.print(&value, || format!("{pinned}\n"))
    }
}

impl PullCommand {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let spec = OciSpec { public_key_file: self.plugin_key.clone(), ..self.registry.spec(&self.reference) };
        let (bytes, pinned) = session.until_cancelled(session.wiring.fetch_plugin(&spec)).await?;
        write_new(&self.out, &bytes)?;
        let value = serde_json::json!({ "reference": pinned, "file": self.out, "size": bytes.len() });
        session.format.print(&value, || format!("{pinned}\n{}\n", self.out.display()))
    }
}

fn write_new(path: &std::path::Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    let written = opened.and_then(|mut file| file.write_all(bytes));
    written.map_err(|error| {
        let message = format!("failed to write {}", path.display());
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => Failure::new(Class::Refused, "FileExists", message)
                .caused_by(&error)
                .with_help("choose another file with --out"),
            _ => Failure::failed("WriteFailed", message).caused_by(&error),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.wasm");
        write_new(&path, b"one").unwrap();
        assert_eq!(write_new(&path, b"two").unwrap_err().exit_code(), 5);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert!(reference("registry/name:1").is_err() && reference("oci://registry/name:1").is_ok());
    }
}
