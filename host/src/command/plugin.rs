//! `redkeep plugin …`: what an author needs, from an empty folder to a registry.

mod build;
mod inspect;
mod kit;
mod new;
mod share;
mod test;
mod toolchain;
mod tools;

use clap::{Args, Subcommand};

use crate::output::failure::Failure;
use crate::session::Session;

/// Make, look at, try and share plugins
#[derive(Args, Debug)]
pub(crate) struct PluginCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    New(new::NewCommand),
    Build(build::BuildCommand),
    Inspect(inspect::InspectPluginCommand),
    Test(test::TestCommand),
    Push(share::PushCommand),
    Pull(share::PullCommand),
}

impl PluginCommand {
    pub(crate) async fn run(&self, session: &Session) -> Result<(), Failure> {
        match &self.what {
            What::New(command) => command.run(session),
            What::Build(command) => command.run(session).await,
            What::Inspect(command) => command.run(session).await,
            What::Test(command) => command.run(session).await,
            What::Push(command) => command.run(session).await,
            What::Pull(command) => command.run(session).await,
        }
    }
}
