//! `redkeep plugin inspect`.

use std::path::PathBuf;

use clap::Args;
use redkeep_core::task::OciSpec;

use crate::arguments::limits::LimitArgs;
use crate::arguments::method::is_reference;
use crate::arguments::registry::RegistryArgs;
use crate::output::failure::{Failure, one_line};
use crate::output::{table, text};
use crate::session::Session;
use crate::wiring::PluginDescription;

/// Show what a plugin is, says of itself and asks for
#[derive(Args, Debug)]
pub(super) struct InspectPluginCommand {
    /// A component's file, oci://registry/name:tag, or a method's name
    #[arg(value_name = "PLUGIN")]
    plugin: String,
    /// Show what would still be missing if this were granted; may be given several times
    #[arg(long, value_name = "GRANT")]
    grant: Vec<String>,
    /// Demand that the plugin of a registry is signed with this public key (PEM)
    #[arg(long, value_name = "FILE")]
    plugin_key: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl InspectPluginCommand {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let oci = is_reference(&self.plugin)
            .then(|| OciSpec { public_key_file: self.plugin_key.clone(), ..self.registry.spec(&self.plugin) });
        let work = session.wiring.describe_plugin(&self.plugin, &self.grant, self.limits.limits(), oci.as_ref());
        let description = session.until_cancelled(work).await?;
        session.format.print(&description, || render(&description))
    }
}

/// For people.
pub(super) fn render(plugin: &PluginDescription) -> String {
    let mut lines = vec![
        ("method".to_owned(), format!("{} {}", plugin.method.name, plugin.method.version)),
        ("summary".to_owned(), plugin.method.summary.clone()),
        ("from".to_owned(), plugin.origin.clone()),
        ("sha256".to_owned(), plugin.digest.clone()),
        ("size".to_owned(), text::size(plugin.size)),
        ("contract".to_owned(), plugin.api_version.clone()),
        ("imports".to_owned(), plugin.imports.join(" ")),
        ("exports".to_owned(), plugin.exports.join(" ")),
    ];
    lines.extend(plugin.method.attributes.iter().map(|attribute| (attribute.key.clone(), attribute.value.clone())));
    let mut shown = table::pairs(&lines);
    shown.push_str("\nasks for\n");
    for request in &plugin.requests {
        let without = if request.optional { " (can do without)" } else { "" };
        let standing = if request.granted { "granted" } else { "missing" };
        shown.push_str(&one_line(&format!("  {standing}  {}{without}", request.name)));
        shown.push('\n');
    }
    if plugin.requests.is_empty() {
        shown.push_str("  nothing\n");
    }
    shown.push_str("\nparameters\n");
    let schema: serde_json::Value = serde_json::from_str(&plugin.method.parameters_schema).unwrap_or_default();
    shown.push_str(&serde_json::to_string_pretty(&schema).unwrap_or_default());
    shown.push('\n');
    shown
}
