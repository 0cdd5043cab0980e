//! `redkeep plugin new`: a plugin that works, to be changed.

use std::path::{Path, PathBuf};

use clap::Args;
use redkeep_core::classify::Class;

use super::kit::{KitFile, Language, files};
use crate::output::failure::Failure;
use crate::session::Session;

/// The longest name of a method, in bytes.
const MAX_NAME: usize = 52;

/// Begin a plugin: a folder with a method that works, its tests and a scenario
#[derive(Args, Debug)]
pub(super) struct NewCommand {
    /// The method's name: lower-case letters, digits and hyphens
    #[arg(value_name = "NAME", value_parser = method_name)]
    name: String,
    /// The language
    #[arg(long, value_enum)]
    lang: Language,
    /// The folder [default: NAME]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Use the Rust kit in this folder (a checkout's plugins/sdk) instead of a copy
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

impl NewCommand {
    pub(super) fn run(&self, session: &Session) -> Result<(), Failure> {
        if self.sdk.is_some() && self.lang != Language::Rust {
            return Err(Failure::usage("--sdk is the Rust kit, and the plugin is in another language")
                .with_help("leave --sdk out"));
        }
        let sdk = self.sdk.as_deref().map(whole_kit).transpose()?;
        let folder = self.dir.clone().unwrap_or_else(|| PathBuf::from(&self.name));
        let files = files(self.lang, &self.name, sdk.as_deref());
        write(&folder, &files)?;
        let value = serde_json::json!({
            "folder": folder,
            "files": files.iter().map(|file| file.path.display().to_string()).collect::<Vec<_>>(),
        });
        let shown = || {
            format!(
                "{} holds the method {}, which works as it is.\nRead its README.md, change it, then: redkeep plugin build {}\n",
                folder.display(),
                self.name,
                folder.display()
            )
        };
        session.format.print(&value, shown)
    }
}

fn method_name(text: &str) -> Result<String, String> {
    let fits = (1..=MAX_NAME).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !fits {
        return Err(format!(
            "a method's name is lower-case letters, digits and hyphens, begins with a letter and has at most {MAX_NAME}"
        ));
    }
    if matches!(text, "rdb" | "aof" | "redis-rdb" | "redis-aof") {
        return Err("that name is a bundled method's".to_owned());
    }
    Ok(text.to_owned())
}

/// The kit's folder as a whole path: the new plugin lies elsewhere.
fn whole_kit(path: &Path) -> Result<PathBuf, Failure> {
    let wrong = || {
        Failure::new(Class::NotFound, "KitNotFound", format!("there is no Rust kit in {}", path.display()))
            .with_help("name the folder plugins/sdk of a redkeep checkout, or leave --sdk out")
    };
    if !path.join("src/lib.rs").is_file() {
        return Err(wrong());
    }
    path.canonicalize().map_err(|error| wrong().caused_by(&error))
}

fn write(folder: &Path, files: &[KitFile]) -> Result<(), Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        Failure::failed("WriteFailed", format!("failed to write {}", path.display())).caused_by(&error)
    };
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
    }
    // Never into a folder that holds something: nothing is overwritten.
    std::fs::create_dir(folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(Class::Refused, "FolderExists", format!("{} is there already", folder.display()))
                .with_help("choose another folder with --dir")
        }
        _ => failed(folder, error),
    })?;
    for file in files {
        let path = folder.join(&file.path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        }
        std::fs::write(&path, &file.text).map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_every_place_takes() {
        assert_eq!(method_name("my-method2").as_deref(), Ok("my-method2"));
        for bad in ["", "My", "2x", "-x", "x-", "a_b", "a/b", "rdb", "redis-aof", &"x".repeat(53)] {
            assert!(method_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a/mine");
        let files = files(Language::Python, "mine", None);
        write(&target, &files).unwrap();
        assert!(target.join("plugin.py").is_file() && target.join("wit/plugin.wit").is_file());
        let failure = write(&target, &files).unwrap_err();
        assert_eq!((failure.exit_code(), failure.reason.as_str()), (5, "FolderExists"));
    }
}
