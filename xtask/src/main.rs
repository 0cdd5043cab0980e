//! `cargo xtask`: everything that a fresh machine needs, by name.

mod bench;
mod check;
mod cluster;
mod demo;
mod fuzz;
mod generate;
mod go;
mod image;
mod packaging;
mod plugins;
mod reasons;
mod reference;
mod servers;
mod test;
mod workspace;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the redkeep workspace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fill a real Redis, back it up, lose it, restore it, and prove it equal
    Demo(demo::Options),
    /// Install what is missing, then run every check and test
    Test(test::Options),
    /// Compare side by side with what a user would run instead
    Bench(bench::Options),
    /// Run every fuzz target for a while
    Fuzz(fuzz::Options),
    /// Make the files that come from the code: custom resource definitions, their reference
    Generate(generate::Options),
    /// Check chart, manifests and alerts with the tools that read them
    Packaging,
    /// Build the plugins into plugins/dist
    Plugins,
    /// Hold the workspace against its rules: dependency table, file sizes, crate READMEs
    Check,
    /// Put real servers of every version on this machine and print NAME=PATH lines
    Servers,
    /// Run a real one-node Kubernetes on this machine, from package registries alone
    Cluster(cluster::Options),
    /// Pack the program as a container image, without a registry
    Image(image::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Demo(options) => demo::start(&options),
        Task::Test(options) => test::start(&options),
        Task::Bench(options) => bench::start(&options),
        Task::Fuzz(options) => fuzz::start(&options),
        Task::Generate(options) => generate::start(&options),
        Task::Packaging => packaging::check(),
        Task::Plugins => plugins::build().map(drop),
        Task::Check => check::start(),
        Task::Servers => servers::print(),
        Task::Cluster(options) => cluster::start(&options),
        Task::Image(options) => image::start(&options),
    }
}
