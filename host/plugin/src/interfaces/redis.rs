//! `redis`: one server through the host's connection. Every command is held against the grants before it is sent.

use std::sync::Arc;

use bytes::Bytes;
use redkeep_core::method::{MethodError, code};
use redkeep_core::redis::{Command, RedisServer};
use wasmtime::component::Resource;

use crate::bindings::redkeep::plugin::{redis, types};
use crate::failure::HostError;
use crate::grants::Grant;
use crate::handles::{ReplicationHandle, SinkHandle, SourceHandle};
use crate::state::{State, unique};
use crate::text::printable;

/// The longest reply of one command, in bytes.
const MAX_REPLY: usize = 1 << 20;

/// A setting with one of these in its name holds a credential: `requirepass`, `tls-key-file-pass`, `primaryauth` of Valkey,
/// `ldap.search_bind_passwd` of a module.
const CREDENTIALS: [&str; 3] = ["pass", "masterauth", "primaryauth"];

impl State {
    fn server(&self) -> Result<Arc<dyn RedisServer>, HostError> {
        let server = self.run()?.redis.clone();
        server.ok_or_else(|| MethodError::new(code::NOT_SUPPORTED, "this run has no server").into())
    }

    fn check_redis(&self, grant: &Grant) -> Result<Arc<dyn RedisServer>, HostError> {
        self.run()?;
        self.check_grant(&grant.to_string(), |grants| grants.has(grant))?;
        self.server()
    }

    fn check_command(&self, arguments: &[Vec<u8>]) -> Result<(), HostError> {
        let Some(name) = arguments.first() else {
            return Err(MethodError::new(code::DENIED, "a command without a name was asked for").into());
        };
        let name = printable(&String::from_utf8_lossy(name), 100);
        self.check_grant(&format!("redis:command:{name}"), |grants| grants.command(arguments))?;
        Ok(check_settings(arguments)?)
    }
}

/// Refuses `CONFIG GET` of credentials, and of patterns, which could be theirs. Replies are not masked instead: a transaction
/// gives them with `EXEC`, and a pipeline's are streamed as they are.
fn check_settings(arguments: &[Vec<u8>]) -> Result<(), MethodError> {
    let [name, subcommand, settings @ ..] = arguments else { return Ok(()) };
    // Old servers end a word at a NUL byte, so only how it begins counts.
    let gets = subcommand.get(..3).is_some_and(|word| word.eq_ignore_ascii_case(b"GET"));
    if !(gets && name.eq_ignore_ascii_case(b"CONFIG")) {
        return Ok(());
    }
    for setting in settings {
        let setting = String::from_utf8_lossy(setting).to_ascii_lowercase();
        let what = if CREDENTIALS.iter().any(|credential| setting.contains(credential)) {
            "a password, which no plugin sees"
        } else if setting.contains(['*', '?', '[', '\\']) {
            "a pattern, which could tell passwords"
        } else {
            continue;
        };
        let message = format!("CONFIG GET {} asks for {what}", printable(&setting, 100));
        let help = "settings are asked for one by one, by their whole names: tell the plugin's author this message";
        return Err(MethodError::new(code::DENIED, message).with_help(help));
    }
    Ok(())
}

fn command(arguments: Vec<Vec<u8>>) -> Command {
    arguments.into_iter().map(Bytes::from).collect()
}

impl redis::Host for State {
    async fn info(&mut self, section: Option<String>) -> Result<Vec<types::Attribute>, HostError> {
        let _host = self.enter();
        let server = self.check_redis(&Grant::Info)?;
        Ok(server.info(section.as_deref()).await?.into_iter().map(Into::into).collect())
    }

    async fn command(&mut self, arguments: Vec<Vec<u8>>) -> Result<Vec<u8>, HostError> {
        let _host = self.enter();
        self.run()?;
        self.check_command(&arguments)?;
        let reply = self.server()?.command(command(arguments)).await?;
        if reply.len() > MAX_REPLY {
            let message = format!("the reply has {} bytes, and command takes at most {MAX_REPLY}", reply.len());
            return Err(MethodError::new(code::SERVER_REPLY, message).into());
        }
        Ok(reply.into())
    }

    async fn pipeline(&mut self, commands: Vec<Vec<Vec<u8>>>) -> Result<Resource<SourceHandle>, HostError> {
        let _host = self.enter();
        self.run()?;
        for arguments in &commands {
            self.check_command(arguments)?;
        }
        let replies = self.server()?.pipeline(commands.into_iter().map(command).collect()).await?;
        self.push_source(replies)
    }

    async fn replicate(&mut self, snapshot_only: bool) -> Result<Resource<ReplicationHandle>, HostError> {
        let _host = self.enter();
        let server = self.check_redis(&Grant::Replicate)?;
        self.may_change("a full resynchronisation")?;
        let link = server.replicate(snapshot_only).await?;
        self.push(ReplicationHandle(link))
    }

    async fn resume(&mut self, id: String, offset: u64) -> Result<Resource<ReplicationHandle>, HostError> {
        let _host = self.enter();
        let server = self.check_redis(&Grant::Resume)?;
        let link = server.resume(&id, offset).await?;
        self.push(ReplicationHandle(link))
    }

    async fn load(&mut self, options: Vec<types::Attribute>) -> Result<Resource<SinkHandle>, HostError> {
        let _host = self.enter();
        let server = self.check_redis(&Grant::Load)?;
        self.may_change("loading commands")?;
        let options = unique(options.into_iter().map(Into::into).collect(), "the options of load")?;
        let sink = server.load(options).await?;
        self.push_sink(sink)
    }
}

impl redis::HostReplication for State {
    async fn id(&mut self, handle: Resource<ReplicationHandle>) -> wasmtime::Result<String> {
        let _host = self.enter();
        Ok(self.table.get(&handle)?.0.id())
    }

    async fn start_offset(&mut self, handle: Resource<ReplicationHandle>) -> wasmtime::Result<u64> {
        let _host = self.enter();
        Ok(self.table.get(&handle)?.0.start_offset())
    }

    async fn snapshot(&mut self, handle: Resource<ReplicationHandle>) -> Result<Resource<SourceHandle>, HostError> {
        let _host = self.enter();
        let snapshot = self.table.get_mut(&handle)?.0.snapshot().await?;
        self.push_source(snapshot)
    }

    async fn commands(
        &mut self,
        handle: Resource<ReplicationHandle>,
        until: Option<u64>,
        within_ms: Option<u32>,
    ) -> Result<Resource<SourceHandle>, HostError> {
        let _host = self.enter();
        let commands = self.table.get_mut(&handle)?.0.commands(until, within_ms).await?;
        self.push_source(commands)
    }

    async fn offset(&mut self, handle: Resource<ReplicationHandle>) -> wasmtime::Result<u64> {
        let _host = self.enter();
        Ok(self.table.get(&handle)?.0.offset())
    }

    async fn drop(&mut self, handle: Resource<ReplicationHandle>) -> wasmtime::Result<()> {
        let _host = self.enter();
        self.table.delete(handle)?;
        Ok(())
    }
}
