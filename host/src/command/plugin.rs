//! `redkeep plugin inspect`.

use clap::{Args, Subcommand};

use crate::output::failure::Failure;
use crate::output::{table, text};
use crate::session::Session;
use crate::wiring::PluginDescription;

/// Look at plugins
#[derive(Args, Debug)]
pub(crate) struct PluginCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show what a plugin says of itself and asks for
    Inspect {
        /// A component's file, or a method's name
        #[arg(value_name = "PLUGIN")]
        plugin: String,
    },
}

impl PluginCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let What::Inspect { plugin } = &self.what;
        let description = session.until_cancelled(session.wiring.describe_plugin(plugin)).await?;
        session.format.print(&description, || render(&description))
    }
}

fn render(plugin: &PluginDescription) -> String {
    let mut lines = vec![
        ("method".to_owned(), format!("{} {}", plugin.method.name, plugin.method.version)),
        ("summary".to_owned(), plugin.method.summary.clone()),
        ("from".to_owned(), plugin.origin.clone()),
        ("sha256".to_owned(), plugin.digest.clone()),
        ("size".to_owned(), text::size(plugin.size)),
        ("contract".to_owned(), plugin.api_version.clone()),
        ("imports".to_owned(), plugin.imports.join(" ")),
    ];
    lines.extend(plugin.method.attributes.iter().map(|attribute| (attribute.key.clone(), attribute.value.clone())));
    let mut shown = table::pairs(&lines);
    shown.push_str("\nasks for\n");
    for request in &plugin.method.requests {
        let line = match request.strip_prefix('?') {
            Some(optional) => format!("  {optional} (can do without)"),
            None => format!("  {request}"),
        };
        shown.push_str(&crate::output::failure::one_line(&line));
        shown.push('\n');
    }
    shown.push_str("\nparameters\n");
    let schema: serde_json::Value = serde_json::from_str(&plugin.method.parameters_schema).unwrap_or_default();
    shown.push_str(&serde_json::to_string_pretty(&schema).unwrap_or_default());
    shown.push('\n');
    shown
}
