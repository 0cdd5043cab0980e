//! Method zookeeper: the tree of znodes of a ZooKeeper ensemble as one file.
//!
//! Speaks the client protocol over the host's `socket`: the host knows the address, the TLS and the login, the plugin
//! none of them. `jute` and `protocol` are pure, `client` pipelines, `artifact` is the format, and `capture` and
//! `restore` are walks over both.

mod artifact;
mod capture;
mod client;
mod jute;
mod parameters;
mod protocol;
mod restore;
mod stored;
mod znode;

use redkeep_sdk::{Attribute, Context, Error, Facts, Host, Info, Method, code};

use crate::parameters::Parameters;

/// The method.
pub struct Zookeeper;

impl Method for Zookeeper {
    fn describe() -> Info {
        Info {
            name: "zookeeper".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "The tree of znodes of a ZooKeeper ensemble, with data, state and access control lists".to_owned(),
            parameters_schema: parameters::SCHEMA.to_owned(),
            // `verify` and `inspect` need no server.
            requests: vec!["?socket:connect".to_owned()],
            attributes: vec![Attribute::new("targets", "server"), Attribute::new("reads", artifact::TYPE)],
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

redkeep_sdk::export!(Zookeeper);

#[cfg(test)]
mod tests;
