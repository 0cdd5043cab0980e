//! Trying what a storage can do, with objects that go again.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use redkeep_core::storage::{
    ProbeCheck, ProbeReport, PutOutcome, ReadStorage, StorageError, StorageErrorKind, WriteStorage,
};

/// Where the objects of a probe lie; removed afterwards. One that was killed leaves at most these.
pub const PROBE_FOLDER: &str = "redkeep-probe";
/// One byte more than a part, so that two parts are needed.
const TWO_PARTS: usize = 8 * 1024 * 1024 + 1;
/// Writers that race for an object, and how often.
const WRITERS: u8 = 8;
const ROUNDS: u32 = 3;
/// The small object.
const SMALL: &[u8] = b"redkeep probes this storage; delete me";

struct Probe<'a> {
    storage: &'a dyn WriteStorage,
    folder: String,
    checks: Vec<ProbeCheck>,
}

/// Really tries to write, read back, list, put on condition, upload in parts and delete.
///
/// # Errors
/// The failure of the first write: then nothing else can be tried, and its `help` says what to do. What fails later is in
/// the report.
pub async fn probe(storage: &dyn WriteStorage) -> Result<ProbeReport, StorageError> {
    let folder = format!("{PROBE_FOLDER}/{:016x}/", rand::random::<u64>());
    let mut probe = Probe { storage, folder, checks: Vec::new() };
    let tried = probe.run().await;
    probe.clean_up().await;
    tried?;
    Ok(ProbeReport { address: storage.address(), checks: probe.checks })
}

fn told(error: &StorageError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Probe<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    fn note(&mut self, name: &str, required: bool, result: Result<String, String>) {
        let supported = result.is_ok();
        let detail = result.unwrap_or_else(|why| why);
        self.checks.push(ProbeCheck { name: name.to_owned(), required, supported, detail });
    }

    async fn read(&self, name: &str, range: Option<std::ops::Range<u64>>) -> Result<Vec<u8>, StorageError> {
        let parts: Vec<Bytes> = self.storage.get(&self.key(name), range).await?.try_collect().await?;
        Ok(parts.concat())
    }

    async fn run(&mut self) -> Result<(), StorageError> {
        self.storage.put(&self.key("small"), Bytes::from_static(SMALL)).await?;
        self.note("write", true, Ok(format!("{} bytes", SMALL.len())));
        let read = self.read("small", None).await;
        self.note("read", true, same(read, SMALL));
        let read = self.read("small", Some(8..14)).await;
        self.note("range-read", true, same(read, SMALL.get(8..14).unwrap_or_default()));
        let listed = self.list().await;
        self.note("list", true, listed);
        let conditional = self.conditional().await;
        self.note("conditional-put", false, conditional);
        let multipart = self.multipart().await;
        self.note("multipart", true, multipart);
        let (unfinished, aborted) = self.unfinished().await;
        self.note("unfinished-uploads", false, unfinished);
        self.note("abort", true, aborted);
        let deleted = self.delete("delete", 1).await;
        self.note("delete", true, deleted);
        let deleted = self.delete("multi-delete", 5).await;
        self.note("multi-delete", true, deleted);
        Ok(())
    }

    async fn list(&self) -> Result<String, String> {
        let listed: Result<Vec<_>, _> = self.storage.list(&self.folder).try_collect().await;
        let listed = listed.map_err(|error| told(&error))?;
        let listing = self.storage.list_folder(&format!("{PROBE_FOLDER}/")).await.map_err(|error| told(&error))?;
        match listed.as_slice() {
            [one]
                if one.key == self.key("small")
                    && one.size == SMALL.len() as u64
                    && listing.folders.contains(&self.folder) =>
            {
                Ok("shows a new object at once".to_owned())
            }
            other => Err(format!("does not show what was just written, but {} objects", other.len())),
        }
    }

    /// Writers that race tell more than two puts in a row: those pass by looking first, too.
    async fn conditional(&self) -> Result<String, String> {
        let mut worst = 1;
        for round in 0..ROUNDS {
            let key = self.key(&format!("once-{round}"));
            let puts = (0..WRITERS).map(|writer| self.storage.put_if_absent(&key, Bytes::from(vec![writer; 16])));
            let mut created = 0;
            for outcome in futures::future::join_all(puts).await {
                created += u32::from(outcome.map_err(|error| told(&error))? == PutOutcome::Created);
            }
            if created == 0 {
                return Err(format!("none of {WRITERS} writers at once could create an object"));
            }
            worst = worst.max(created);
        }
        if worst == 1 {
            return Ok(format!("of {WRITERS} writers at once exactly one won, {ROUNDS} times"));
        }
        Err(format!(
            "{worst} of {WRITERS} writers at once believe that they created the object: `If-None-Match` is ignored or \
             refused. redkeep looks before it commits; let no two writers use the same backup id"
        ))
    }

    async fn multipart(&self) -> Result<String, String> {
        let data: Vec<u8> = (0..=250_u8).cycle().take(TWO_PARTS).collect();
        let uploaded = async {
            let mut upload = self.storage.create(&self.key("parts")).await?;
            upload.write(Bytes::from(data.clone())).await?;
            upload.finish().await
        };
        let meta = uploaded.await.map_err(|error| told(&error))?;
        if meta.size != TWO_PARTS as u64 {
            return Err(format!("{TWO_PARTS} bytes became {}", meta.size));
        }
        same(self.read("parts", None).await, &data).map(|_| "two parts, read back".to_owned())
    }

    /// Whether an upload that nobody finished is listed, and whether it goes when it is aborted.
    async fn unfinished(&self) -> (Result<String, String>, Result<String, String>) {
        let key = self.key("unfinished");
        let begun = async {
            let mut upload = self.storage.create(&key).await?;
            upload.write(Bytes::from(vec![0; TWO_PARTS])).await?;
            Ok::<_, StorageError>(upload)
        };
        let upload = match begun.await {
            Ok(upload) => upload,
            Err(error) => return (Err(told(&error)), Err(told(&error))),
        };
        let listed = match self.storage.unfinished_uploads(&self.folder).await {
            Ok(uploads) if uploads.iter().any(|upload| upload.key == key) => Ok("listed".to_owned()),
            Ok(_) => Err("not listed: set a rule of the bucket that drops uploads nobody finished".to_owned()),
            Err(error) => Err(told(&error)),
        };
        let aborted = match upload.abort().await {
            Err(error) => Err(told(&error)),
            Ok(()) => match self.storage.head(&key).await {
                Err(error) if error.kind == StorageErrorKind::NotFound => Ok("left nothing".to_owned()),
                Err(error) => Err(told(&error)),
                Ok(_) => Err("an aborted upload became an object".to_owned()),
            },
        };
        (listed, aborted)
    }

    async fn delete(&self, name: &str, count: usize) -> Result<String, String> {
        let keys: Vec<String> = (0..count).map(|number| self.key(&format!("{name}-{number}"))).collect();
        let tried = async {
            for key in &keys {
                self.storage.put(key, Bytes::from_static(SMALL)).await?;
            }
            self.storage.delete(&keys).await?;
            // What is gone may be deleted again.
            self.storage.delete(&keys).await
        };
        tried.await.map_err(|error| told(&error))?;
        for key in &keys {
            if self.storage.head(key).await.is_ok() {
                return Err("an object is still there after it was deleted".to_owned());
            }
        }
        Ok(format!("{count} at once"))
    }

    async fn clean_up(&self) {
        let storage: &dyn ReadStorage = self.storage;
        let left: Vec<String> = storage
            .list(&self.folder)
            .filter_map(|item| std::future::ready(item.ok().map(|meta| meta.key)))
            .collect()
            .await;
        if let Err(error) = self.storage.delete(&left).await {
            tracing::warn!(storage = %storage.address(), error = %error, "the objects of the probe could not be deleted");
        }
        for upload in self.storage.unfinished_uploads(&self.folder).await.unwrap_or_default() {
            let _ = self.storage.abort_unfinished(&upload).await;
        }
    }
}

fn same(read: Result<Vec<u8>, StorageError>, expected: &[u8]) -> Result<String, String> {
    match read {
        Ok(read) if read == expected => Ok(format!("{} bytes as written", read.len())),
        Ok(read) => Err(format!("{} bytes were written, others came back ({})", expected.len(), read.len())),
        Err(error) => Err(told(&error)),
    }
}
