//! Listing a folder as a bucket would: by key, at any depth, without what is not finished.

use std::ffi::OsString;
use std::fs::{self, FileType};
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use redkeep_core::storage::{Listing, ObjectMeta, StorageError, StorageErrorKind};
use tokio::sync::mpsc;

use super::{io_error, read, require_root, resolve};
use crate::key::TEMPORARY_FOLDER;

/// Objects read ahead of the caller.
const AHEAD: usize = 256;

enum Message {
    Item(Result<ObjectMeta, StorageError>),
    /// Told apart from a walker that vanished.
    End,
}

/// The caller went away.
struct Stopped;

pub(super) fn stream(
    root: Arc<Path>,
    prefix: String,
    after: String,
) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
    let address = root.display().to_string();
    // Begun at the first poll, so that a stream which nobody reads costs nothing.
    let start = move || {
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            let sent = match walk(&root, &prefix, &after, &sender) {
                Ok(result) => match result {
                    Ok(()) => Ok(()),
                    Err(error) => sender.blocking_send(Message::Item(Err(error))).map_err(|_| Stopped),
                },
                Err(stopped) => Err(stopped),
            };
            if sent.is_ok() {
                let _ = sender.blocking_send(Message::End);
            }
        });
        receiver
    };
    stream::once(async move { start() })
        .flat_map(move |receiver| {
            let address = address.clone();
            stream::unfold((receiver, false, address), |(mut receiver, ended, address)| async move {
                if ended {
                    return None;
                }
                match receiver.recv().await {
                    Some(Message::Item(item)) => Some((item, (receiver, false, address))),
                    Some(Message::End) => None,
                    None => {
                        let act = format!("failed to list {address}: the listing broke off");
                        Some((Err(StorageError::new(StorageErrorKind::Other, act)), (receiver, true, address)))
                    }
                }
            })
        })
        .boxed()
}

type Walked = Result<Result<(), StorageError>, Stopped>;

fn walk(root: &Path, prefix: &str, after: &str, sender: &mpsc::Sender<Message>) -> Walked {
    if let Err(error) = require_root(root) {
        return Ok(Err(error));
    }
    let (folder, name) = prefix.rsplit_once('/').map_or(("", prefix), |(folder, name)| (folder, name));
    walk_folder(root, folder, name, after, sender)
}

/// Whether every key in the folder `key` is at or before `after`.
fn passed(key: &str, after: &str) -> bool {
    let inside = format!("{key}/");
    inside.as_str() < after && !after.starts_with(&inside)
}

fn walk_folder(root: &Path, folder: &str, name_prefix: &str, after: &str, sender: &mpsc::Sender<Message>) -> Walked {
    let entries = match entries(root, folder, name_prefix) {
        Ok(entries) => entries,
        Err(error) => return Ok(Err(error)),
    };
    for entry in entries {
        let key = join(folder, &entry.name);
        if entry.is_folder {
            if passed(&key, after) {
                continue;
            }
            if let Err(error) = walk_folder(root, &key, "", after, sender)? {
                return Ok(Err(error));
            }
            continue;
        }
        if key.as_str() <= after {
            continue;
        }
        match stat(root, key) {
            Ok(Some(meta)) => sender.blocking_send(Message::Item(Ok(meta))).map_err(|_| Stopped)?,
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// `None` when the object was deleted since its name was read.
fn stat(root: &Path, key: String) -> Result<Option<ObjectMeta>, StorageError> {
    let path = root.join(&key);
    match fs::symlink_metadata(&path) {
        Ok(metadata) => Ok(Some(read::meta(key, &metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(&format!("failed to look up {}", path.display()), error)),
    }
}

struct Entry {
    name: String,
    is_folder: bool,
}

/// Names in a folder in the order of keys: a folder sorts as its name with `/`. A missing folder is empty.
fn entries(root: &Path, folder: &str, name_prefix: &str) -> Result<Vec<Entry>, StorageError> {
    let path = if folder.is_empty() { root.to_path_buf() } else { resolve(root, folder)? };
    let act = format!("failed to list {}", path.display());
    let read = match fs::read_dir(&path) {
        Ok(read) => read,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(io_error(&act, error)),
    };
    let mut found = Vec::new();
    for entry in read {
        let entry = entry.map_err(|error| io_error(&act, error))?;
        let file_type = match entry.file_type() {
            Ok(file_type) => file_type,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error(&act, error)),
        };
        if let Some(entry) = accept(folder, name_prefix, entry.file_name(), file_type) {
            found.push(entry);
        }
    }
    let sort_key = |entry: &Entry| if entry.is_folder { format!("{}/", entry.name) } else { entry.name.clone() };
    found.sort_by_cached_key(sort_key);
    Ok(found)
}

fn accept(folder: &str, name_prefix: &str, name: OsString, file_type: FileType) -> Option<Entry> {
    // A name that is not UTF-8 cannot be one of our keys.
    let name = name.into_string().ok()?;
    if !name.starts_with(name_prefix) || (folder.is_empty() && name == TEMPORARY_FOLDER) {
        return None;
    }
    if !file_type.is_file() && !file_type.is_dir() {
        tracing::warn!(storage.key = %join(folder, &name), "left out of a listing: not a regular file or folder");
        return None;
    }
    Some(Entry { name, is_folder: file_type.is_dir() })
}

pub(super) fn folder(root: &Path, prefix: &str) -> Result<Listing, StorageError> {
    require_root(root)?;
    let folder = prefix.strip_suffix('/').unwrap_or(prefix);
    let mut listing = Listing::default();
    for entry in entries(root, folder, "")? {
        let key = join(folder, &entry.name);
        if entry.is_folder {
            listing.folders.push(format!("{key}/"));
        } else if let Some(meta) = stat(root, key)? {
            listing.objects.push(meta);
        }
    }
    listing.objects.sort_by(|one, other| one.key.cmp(&other.key));
    listing.folders.sort();
    Ok(listing)
}
