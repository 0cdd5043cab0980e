//! Method redis-rdb: a server's dataset as one RDB file.
//!
//! Captured by replication (default) or from the data directory, read whole on its way; restored into a data directory,
//! laid out so that the server loads it, or into a live server or cluster by `RESTORE`. The parser and the commands are
//! `redkeep_sdk::rdb`'s.

mod capture;
mod parameters;
mod restore;
mod save;
mod stored;

use redkeep_sdk::{Attribute, Context, Error, Facts, Host, Info, Method, code};

use crate::parameters::Parameters;

/// Name of the artifact that holds the dataset.
const DUMP: &str = "dump.rdb";
/// Name of the artifact that holds the ACL users, and of the file that they are restored to.
const USERS: &str = "users.acl";

/// The method.
pub struct RedisRdb;

impl Method for RedisRdb {
    fn describe() -> Info {
        let requests = [
            "?redis:info",
            "?redis:replicate",
            "?redis:load",
            "?redis:command:BGSAVE",
            "?redis:command:LASTSAVE",
            "?redis:command:CONFIG|GET",
            "?redis:command:ACL|LIST",
            "?redis:command:SELECT",
            "?redis:command:EXISTS",
            "?redis:command:FUNCTION|LIST",
            "?files:list",
            "?files:read:**",
            "?files:write:**",
        ];
        Info {
            name: "redis-rdb".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "A server's dataset at one moment, as an RDB file".to_owned(),
            parameters_schema: parameters::schema(),
            requests: requests.map(str::to_owned).to_vec(),
            attributes: vec![Attribute::new("targets", "directory server cluster"), Attribute::new("reads", "rdb acl")],
        }
    }

    fn validate(parameters: &str) -> Result<(), Error> {
        Parameters::parse(parameters).map(drop)
    }

    fn plan(host: &dyn Host) -> Result<Facts, Error> {
        match Context::of(host).run() {
            "capture" => capture::plan(host),
            "restore" => restore::plan(host),
            other => Err(Error::new(code::NOT_SUPPORTED, format!("nothing to plan for a run of kind `{other}`"))),
        }
    }

    fn capture(host: &dyn Host) -> Result<Facts, Error> {
        capture::capture(host)
    }

    fn restore(host: &dyn Host) -> Result<Facts, Error> {
        restore::restore(host)
    }

    fn verify(host: &dyn Host) -> Result<Facts, Error> {
        stored::verify(host)
    }

    fn inspect(host: &dyn Host, query: &str) -> Result<String, Error> {
        stored::inspect(host, query)
    }
}

redkeep_sdk::export!(RedisRdb);

#[cfg(test)]
mod tests;
