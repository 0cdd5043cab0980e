//! Takes the dataset: by replication, or from the data directory.

mod link;

use redkeep_sdk::rdb::{DatasetFacts, Parser};
use redkeep_sdk::resp::Reply;
use redkeep_sdk::{Attribute, CHUNK, Context, Error, Facts, Host, Progress, Source, attribute, code, time};

use crate::parameters::{Parameters, SourceRoute};
use crate::save::{self, Saved};
use crate::{DUMP, USERS};

/// What a snapshot that the server wrote to its disk first leaves behind.
const DISK_BASED_SYNC: &str = "the server wrote its own dump.rdb for this backup (disk-based sync): with appendonly no it \
                               loads that at its next start; set repl-diskless-sync yes";

/// A dump of a data directory may be older than this, in milliseconds, before it is told: `save` settings write one much more often.
const OLD_MS: u64 = 24 * 3_600_000;

/// The way that was chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    Replication,
    /// With a server that can be asked to save.
    Save,
    /// The file as it lies there.
    File,
}

impl Route {
    fn choose(context: &Context, parameters: &Parameters) -> Result<Self, Error> {
        let (server, files) = (context.has_capability("redis"), context.has_capability("files"));
        let route = match (parameters.source, server, files) {
            (SourceRoute::Auto | SourceRoute::Replication, true, _) => Self::Replication,
            (SourceRoute::Auto | SourceRoute::Files, false, true) => Self::File,
            (SourceRoute::Files, true, true) => Self::Save,
            (SourceRoute::Replication, false, _) => {
                return Err(Error::refused(
                    "there is no server to replicate from",
                    "name a server as the source, or choose --param source=files",
                ));
            }
            (SourceRoute::Files, _, false) => {
                return Err(Error::refused(
                    "the server's data directory is not at hand",
                    "name the data directory too, or choose --param source=replication",
                ));
            }
            (SourceRoute::Auto, false, false) => {
                return Err(Error::refused(
                    "neither a server nor a data directory is at hand",
                    "grant redis:replicate, or files:list and files:read:*",
                ));
            }
        };
        if parameters.acl && !server {
            return Err(Error::refused(
                "the ACL users can only be had from a server",
                "name a server as the source, or leave out --param acl",
            ));
        }
        Ok(route)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Replication => "replication",
            Self::Save | Self::File => "files",
        }
    }
}

/// The way chosen and what the server says of its size.
pub(crate) fn plan(host: &dyn Host) -> Result<Facts, Error> {
    let context = Context::of(host);
    let parameters = Parameters::parse(&host.parameters())?;
    let route = Route::choose(&context, &parameters)?;
    let mut facts = Facts::new();
    facts.set("source-route", route.name());
    if parameters.acl {
        // The host refuses it before anything is captured, where nothing would encrypt it.
        facts.set("secret-artifact", USERS);
    }
    if route == Route::File {
        let (path, size) = find_dump(host, &context)?;
        facts.set("path", path).set("expected-bytes", size);
        return Ok(facts);
    }
    match host.redis().info(None) {
        Ok(info) => {
            let value = |key: &str| attribute::find(&info, key);
            if value("loading") == Some("1") {
                return Err(
                    Error::refused("the server is still loading its data", "try again when it has loaded").retryable()
                );
            }
            // Memory is the only figure there is before the file: the file is most often smaller.
            facts.set_some("expected-bytes-at-most", value("used_memory"));
            let keyspace = info.iter().filter(|line| line.key.starts_with("db"));
            let keys =
                keyspace.filter_map(|line| line.value.split(',').next()?.strip_prefix("keys=")?.parse::<u64>().ok());
            facts.set("expected-keys", keys.sum::<u64>());
        }
        Err(error) if error.is(code::DENIED) || error.is(code::SERVER_REPLY) => {}
        Err(error) => return Err(error),
    }
    Ok(facts)
}

/// Takes it.
pub(crate) fn capture(host: &dyn Host) -> Result<Facts, Error> {
    let context = Context::of(host);
    let parameters = Parameters::parse(&host.parameters())?;
    let route = Route::choose(&context, &parameters)?;
    // The users first: a refusal (not encrypted, not permitted) then comes before the long part.
    let users = if parameters.acl { Some(capture_users(host)?) } else { None };
    let mut facts = match route {
        Route::Replication => {
            host.info("waiting for the server to start the transfer");
            let mut link = link::open(host, &context)?;
            let mut snapshot = link.snapshot()?;
            // A length ahead is known only of a file (`$<len>`).
            if snapshot.size().is_some() {
                host.warn(DISK_BASED_SYNC);
            }
            let mut facts = copy(host, snapshot.as_mut(), None)?.facts();
            facts.set("replication-id", link.id()).set("replication-offset", link.start_offset());
            facts
        }
        Route::Save | Route::File => {
            let saved = if route == Route::Save { Some(save::save(host)?) } else { None };
            let path = match &saved {
                Some(saved) => saved.path.clone(),
                None => find_dump(host, &context)?.0,
            };
            let mut source =
                host.files().open(&path).map_err(|error| error.during(&format!("failed to open {path}")))?;
            let dataset = copy(host, source.as_mut(), saved.as_ref())?;
            if let Some(warning) = old_dump(&path, dataset.created_ms(), host.now_ms()).filter(|_| saved.is_none()) {
                host.warn(&warning);
            }
            let mut facts = dataset.facts();
            if let (Some(id), Some(offset)) = (dataset.aux("repl-id"), dataset.aux("repl-offset")) {
                facts.set("replication-id", id).set("replication-offset", offset);
            }
            facts
        }
    };
    facts.set("source-route", route.name());
    facts.set_some("acl-users", users);
    Ok(facts)
}

/// From the source into the artifact, through the parser: what is committed was read whole and understood, and is of the
/// save that was asked for.
fn copy(host: &dyn Host, source: &mut dyn Source, saved: Option<&Saved>) -> Result<DatasetFacts, Error> {
    let mut sink = host.artifacts().create(DUMP, &[Attribute::new("type", "rdb")])?;
    let mut parser = Parser::new();
    let mut facts = DatasetFacts::new();
    let mut progress = Progress::new(host, "capture", source.size());
    loop {
        let chunk = source.read(CHUNK)?;
        if chunk.is_empty() {
            break;
        }
        parser.push_all(&chunk, &mut facts)?;
        sink.write(&chunk)?;
        progress.advance(chunk.len(), facts.keys())?;
    }
    parser.finish()?;
    if let Some(saved) = saved {
        saved.check(host, facts.created_ms())?;
    }
    progress.tell(facts.keys())?;
    sink.finish(&[])?;
    Ok(facts)
}

/// What is told of a dump that was taken as it lay there: how old its data is, where that is [old](OLD_MS).
fn old_dump(path: &str, created_ms: Option<u64>, now_ms: u64) -> Option<String> {
    let created = created_ms?;
    let age = now_ms.checked_sub(created).filter(|age| *age > OLD_MS)?;
    Some(format!(
        "{path} was made at {}, {} hours ago, and this backup holds nothing newer: name the server as the source too, which is \
         then asked for its data of now",
        time::rfc3339(created),
        age / 3_600_000
    ))
}

/// The dump of a directory without a server, and its size.
fn find_dump(host: &dyn Host, context: &Context) -> Result<(String, u64), Error> {
    let name = context.get_or("dbfilename", "dump.rdb");
    let entries = host.files().list_directory("")?;
    let append_only = context.get_or("appenddirname", "appendonlydir");
    let old_style = context.get_or("appendfilename", "appendonly.aof");
    if entries.iter().any(|entry| entry.path == append_only || entry.path == old_style) {
        host.warn(&format!(
            "the directory also holds an append-only file: where the server runs with appendonly yes, {name} is older \
             than its data; method aof takes that"
        ));
    }
    let entry = entries.iter().find(|entry| entry.path == name && !entry.directory);
    let entry = entry.ok_or_else(|| {
        Error::new(code::NOT_FOUND, format!("the data directory holds no {name}"))
            .with_help("name another directory, or back up the append-only file by --method aof")
    })?;
    Ok((entry.path.clone(), entry.size))
}

/// `ACL LIST` as the lines of an ACL file; how many users there are.
fn capture_users(host: &dyn Host) -> Result<usize, Error> {
    let reply =
        host.redis().command(&[b"ACL", b"LIST"]).map_err(|error| error.during("failed to list the ACL users"))?;
    let reply = Reply::parse(&reply)?;
    let lines: Option<Vec<&str>> = reply.elements().iter().map(Reply::text).collect();
    let lines = lines.filter(|lines| lines.iter().all(|line| !line.contains('\n')));
    let lines = lines.ok_or_else(|| Error::new(code::SERVER_REPLY, "failed to read the reply of ACL LIST"))?;
    let attributes = [Attribute::new("type", "acl"), Attribute::new("secret", "yes")];
    let mut sink = host.artifacts().create(USERS, &attributes)?;
    for line in &lines {
        sink.write(format!("{line}\n").as_bytes())?;
    }
    sink.finish(&[])?;
    Ok(lines.len())
}
