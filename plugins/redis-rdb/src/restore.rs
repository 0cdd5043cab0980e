//! Puts the dataset back: into a data directory, or into a live server or cluster.

mod layout;

use redkeep_sdk::rdb::DatasetFacts;
use redkeep_sdk::rdb::restore::{
    RestoreParameters, Restorer, check_modules, check_target, reads, target_rdb_version, tell_modules, version_refusal,
};
use redkeep_sdk::{CHUNK, Context, Error, Facts, Host, Sink, code};

use self::layout::Layout;
use crate::parameters::Parameters;
use crate::{USERS, stored};

/// Refuses, or says what would be done.
pub(crate) fn plan(host: &dyn Host) -> Result<Facts, Error> {
    let context = Context::of(host);
    let parameters = Parameters::parse(&host.parameters())?.restore;
    let artifact = stored::find_dump(host)?;
    let captured = host.artifacts().facts()?;
    let mut facts = Facts::new();
    facts.set("expected-bytes", artifact.size);
    facts.set_some("expected-keys", redkeep_sdk::attribute::find(&captured, "keys"));
    match context.target() {
        "directory" => {
            refuse_choices(&parameters)?;
            check_target(&context, &captured, &RestoreParameters::default())?;
            tell_modules(host, &captured, None);
            let layout = Layout::of(&context);
            let copies = layout.paths().len() as u64;
            facts.set("layout", layout.name()).set("target-bytes", artifact.size.saturating_mul(copies));
        }
        "server" | "cluster" => {
            check_target(&context, &captured, &parameters)?;
            check_modules(host, &captured);
            facts.set("layout", "commands");
        }
        other => {
            return Err(Error::new(code::NOT_SUPPORTED, format!("no way to restore into a target of kind `{other}`")));
        }
    }
    Ok(facts)
}

/// Puts it back.
pub(crate) fn restore(host: &dyn Host) -> Result<Facts, Error> {
    let mut facts = plan(host)?;
    let context = Context::of(host);
    if context.target() == "directory" {
        facts.extend(into_directory(host, &context)?);
    } else {
        let parameters = Parameters::parse(&host.parameters())?.restore;
        facts.extend(into_server(host, &parameters)?);
    }
    Ok(facts)
}

/// A file is placed whole or not at all.
fn refuse_choices(parameters: &RestoreParameters) -> Result<(), Error> {
    if parameters.is_plain() {
        return Ok(());
    }
    Err(Error::refused(
        "match, db, on-conflict and ttl work only on live targets: a data directory takes the file whole",
        "restore into a server by --target, or leave them out",
    ))
}

fn into_directory(host: &dyn Host, context: &Context) -> Result<Facts, Error> {
    let layout = Layout::of(context);
    let paths = layout.paths();
    if layout.is_guess() {
        host.warn(&format!(
            "whether the server will run with appendonly is not known: {} serve both; delete the one that it does not use",
            paths.join(" and ")
        ));
    }
    let mut sinks = Vec::new();
    for path in &paths {
        sinks.push(host.files().create(path)?);
    }
    let offered = target_rdb_version(context)?;
    let mut dataset = DatasetFacts::new();
    stored::read(host, "restore", &mut dataset, DatasetFacts::keys, |dataset, chunk| {
        // Again from the file itself: a backup's facts may be from elsewhere.
        if let (Some(header), Some(offered)) = (dataset.header(), offered)
            && !reads(offered, u64::from(header.version))
        {
            return Err(version_refusal(context, u64::from(header.version), offered));
        }
        sinks.iter_mut().try_for_each(|sink| sink.write(chunk))
    })?;
    for sink in sinks {
        sink.finish(&[])?;
    }
    if let Some((path, text)) = layout.manifest() {
        write_whole(host.files().create(&path)?, text.as_bytes())?;
    }
    if let Some(users) = stored::find(host, "acl")? {
        let mut source = host.artifacts().open(&users.name)?;
        let mut sink = host.files().create(USERS)?;
        loop {
            let chunk = source.read(CHUNK)?;
            if chunk.is_empty() {
                break;
            }
            sink.write(&chunk)?;
        }
        sink.finish(&[])?;
        host.warn(
            "the ACL users lie in users.acl: the server loads them where its configuration says `aclfile users.acl`",
        );
    }
    tell_modules(host, &host.artifacts().facts()?, Some(&dataset));
    let mut facts = Facts::new();
    facts.set("keys-restored", dataset.keys()).set("layout", layout.name());
    facts.set("paths", paths.join(","));
    Ok(facts)
}

fn write_whole(mut sink: Box<dyn Sink>, bytes: &[u8]) -> Result<(), Error> {
    sink.write(bytes)?;
    sink.finish(&[]).map(drop)
}

fn into_server(host: &dyn Host, parameters: &RestoreParameters) -> Result<Facts, Error> {
    if stored::find(host, "acl")?.is_some() {
        host.warn("the backup's ACL users are not put into a live server: `redkeep cat` shows them");
    }
    let mut restorer = Restorer::new(host, parameters)?.with_second_pass();
    let read = |restorer: &mut Restorer<'_>| {
        stored::read(host, "restore", restorer, |restorer| restorer.counts().sent, |_, _| Ok(()))
    };
    let mut result = read(&mut restorer);
    if result.is_ok() && restorer.begin_second_pass() {
        host.info("values that can be neither held nor rebuilt go whole, in a second pass");
        result = read(&mut restorer);
    }
    let sent = restorer.counts().sent;
    // What was written until then stays written: the user must know how much that can be.
    let told = |error: Error| error.with_detail("keys-sent", sent);
    result.map_err(told)?;
    let (_, facts) = restorer.finish().map_err(told)?;
    Ok(facts)
}
