//! A manifest for people.

use redkeep_core::manifest::Manifest;

use super::table::{Side, Table, pairs};
use super::text;

/// What a finished backup says of itself: id, sizes, facts, artifacts.
pub(crate) fn render(manifest: &Manifest) -> String {
    let (size, stored) = manifest.sizes();
    let mut lines: Vec<(&str, String)> = vec![
        ("backup", manifest.backup_id.to_string()),
        ("cluster", format!("{}/{}", manifest.namespace, manifest.cluster)),
        ("source", format!("{} ({})", manifest.source.address, manifest.source.mode)),
        ("method", format!("{} {}", manifest.method.name, manifest.method.version)),
        ("size", text::size(size)),
        ("stored", text::size(stored)),
    ];
    lines.extend(text::keys(&manifest.facts).map(|keys| ("keys", keys)));
    for (fact, name) in [("server-version", "server version"), ("checksum", "checksum")] {
        if let Some(value) = manifest.facts.get(fact) {
            lines.push((name, text::count_of(value)));
        }
    }
    if let Some(encryption) = &manifest.encryption {
        let to = if encryption.passphrase {
            "a passphrase".to_owned()
        } else {
            format!("{} recipient(s)", encryption.recipients.len())
        };
        lines.push(("encrypted", format!("{}, to {to}", encryption.format)));
    }
    let taken = manifest.completed_at.as_millisecond().saturating_sub(manifest.started_at.as_millisecond());
    let taken = std::time::Duration::from_millis(u64::try_from(taken).unwrap_or_default());
    lines.push((
        "taken",
        format!("{} in {}", manifest.started_at.strftime("%Y-%m-%dT%H:%M:%SZ"), text::duration(taken)),
    ));
    let mut table = Table::new(&[
        ("SHARD", Side::Left),
        ("ARTIFACT", Side::Left),
        ("TYPE", Side::Left),
        ("SIZE", Side::Right),
        ("STORED", Side::Right),
        ("SHA256", Side::Left),
    ]);
    for artifact in &manifest.artifacts {
        table.row([
            artifact.shard.to_string(),
            artifact.name.to_string(),
            artifact.artifact_type.clone(),
            text::size(artifact.size),
            text::size(artifact.stored_size),
            artifact.sha256.chars().take(16).collect::<String>() + "…",
        ]);
    }
    format!("{}\n{}", pairs(&lines), table.render())
}
