//! Method redis-aof: a dataset and the commands that follow, as an append-only file.
//!
//! Captured by replication as one stream (snapshot, `SELECT`, commands) with marks of time and offset, or from files as an archive.
//! Restored into a data directory or an empty live target, whole or up to a point. Facts behind every rule: REDIS.md.

mod archive;
mod capture;
mod clock;
mod content;
mod inspect;
mod manifest;
mod marks;
mod parameters;
mod reader;
mod restore;
mod scanner;
mod snapshot;
mod stored;
mod target;
#[cfg(test)]
mod tests;
mod verify;
mod words;

use redkeep_sdk::{Attribute, Context, Error, Facts, Host, Info, Method, code};

use crate::parameters::Parameters;

/// The method.
pub struct RedisAof;

impl Method for RedisAof {
    fn describe() -> Info {
        let requests = [
            "?redis:replicate",
            "?redis:info",
            "?redis:load",
            "?redis:command:CONFIG|GET",
            "?files:list",
            "?files:read:**",
            "?files:write:**",
        ];
        Info {
            name: "redis-aof".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary:
                "A dataset and the commands that follow it, as an append-only file that can be restored to a point"
                    .to_owned(),
            parameters_schema: parameters::SCHEMA.to_owned(),
            requests: requests.map(str::to_owned).to_vec(),
            attributes: vec![
                Attribute::new("targets", "directory server cluster"),
                Attribute::new("reads", "aof aof-marks aof-archive"),
            ],
        }
    }

    fn validate(parameters: &str) -> Result<(), Error> {
        Parameters::parse(parameters).map(|_| ())
    }

    fn plan(host: &dyn Host) -> Result<Facts, Error> {
        match Context::of(host).run() {
            "capture" => capture::plan(host),
            "restore" => restore::plan(host),
            other => Err(Error::new(code::NOT_SUPPORTED, format!("a run \"{other}\" has no plan"))),
        }
    }

    fn capture(host: &dyn Host) -> Result<Facts, Error> {
        capture::capture(host)
    }

    fn restore(host: &dyn Host) -> Result<Facts, Error> {
        restore::restore(host)
    }

    fn verify(host: &dyn Host) -> Result<Facts, Error> {
        verify::verify(host)
    }

    fn inspect(host: &dyn Host, query: &str) -> Result<String, Error> {
        inspect::inspect(host, query)
    }
}

redkeep_sdk::export!(RedisAof);
