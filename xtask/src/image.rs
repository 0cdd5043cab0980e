//! `cargo xtask image`: packs the program as a container image, without a registry, a daemon or a Dockerfile; and the
//! servers that tests run in a cluster.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use crate::workspace::{cargo, find_program, install_packages, need_programs, root, run, say, target_dir};
use crate::{plugins, servers};

/// What the program's image is called, unless told.
const REFERENCE: &str = "localhost/redkeep:dev";
/// Certificates of the authorities that Debian trusts, where the program looks for them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const ZONES: &str = "/usr/share/zoneinfo";
/// Where the operator and its tasks look for plugins that are files.
const PLUGIN_FOLDER: &str = "/usr/local/share/redkeep/plugins";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The optimised build, for use; without it the development build, for tests
    #[arg(long)]
    release: bool,
    /// A plugin to pack as well, for `spec.source.file` of a BackupMethod; may be given more than once
    #[arg(long)]
    plugin: Vec<PathBuf>,
    /// The image's name and tag
    #[arg(long, default_value = REFERENCE)]
    reference: String,
    /// Pack the servers too that tests run in a cluster: Redis, Valkey and an S3 server
    #[arg(long)]
    servers: bool,
}

pub(crate) fn start(options: &Options) -> Result<()> {
    need_programs(&[("python3", "python3"), ("strip", "binutils")])?;
    plugins::build()?;
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "redkeep", "--bin", "redkeep"]);
    run(build.args(options.release.then_some("--release")))?;
    build_instance(options.release)?;
    let tests = options.servers.then(example);
    let plugins: Vec<PathBuf> = options.plugin.iter().cloned().chain(tests).collect();
    let profile = if options.release { "release" } else { "debug" };
    let mut archives = vec![pack_program(profile, &options.reference, &plugins)?];
    if options.servers {
        archives.extend(pack_servers()?);
    }
    for archive in archives {
        println!("{}", archive.display());
    }
    Ok(())
}

/// Everything that the cluster's tests need, from the development build that is there.
pub(crate) fn pack_all() -> Result<Vec<PathBuf>> {
    need_programs(&[("python3", "python3"), ("strip", "binutils")])?;
    build_instance(false)?;
    let mut archives = vec![pack_program("debug", REFERENCE, &[example()])?];
    archives.extend(pack_servers()?);
    Ok(archives)
}

/// The plugin that a cluster's tests register as a file of the image.
fn example() -> PathBuf {
    root().join("plugins/dist/example-raw.wasm")
}

/// The target that `redkeep-instance` is built for. Named even where it is the machine's own: only then do flags of the
/// linker stay away from build scripts and procedural macros.
fn instance_target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn instance_program(profile: &str) -> PathBuf {
    target_dir().join(instance_target()).join(profile).join("redkeep-instance")
}

/// Builds `redkeep-instance` without shared libraries, for it runs in images of others.
fn build_instance(release: bool) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "redkeep-instance", "--target", &instance_target()]);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    run(build.args(release.then_some("--release")))?;
    let program = instance_program(if release { "release" } else { "debug" });
    // `ldd` fails on what is not dynamic, so its words count.
    let listing = Command::new("ldd").arg(&program).output().context("failed to start ldd")?;
    let said = String::from_utf8_lossy(&listing.stdout).into_owned() + &String::from_utf8_lossy(&listing.stderr);
    if !said.contains("statically linked") && !said.contains("not a dynamic executable") {
        bail!("{} is not static: {}", program.display(), said.trim());
    }
    Ok(())
}

fn pack_program(profile: &str, reference: &str, plugins: &[PathBuf]) -> Result<PathBuf> {
    let program = target_dir().join(profile).join("redkeep");
    if !program.is_file() {
        bail!("{} is missing: build it first (`cargo build -p redkeep`)", program.display());
    }
    let mut missing = Vec::new();
    if !Path::new(AUTHORITIES).is_file() {
        missing.push("ca-certificates");
    }
    if !Path::new(ZONES).join("UTC").is_file() {
        missing.push("tzdata");
    }
    if !missing.is_empty() {
        install_packages(&missing)?;
    }
    let archive = folder()?.join("redkeep.tar");
    let instance = instance_program(profile);
    // Other plugins make another image, and nothing in the archive says which it has.
    let contents = stage_list(reference, plugins);
    let list = folder()?.join("redkeep.list");
    let same = std::fs::read_to_string(&list).is_ok_and(|made| made == contents);
    let sources: Vec<&Path> =
        [program.as_path(), instance.as_path()].into_iter().chain(plugins.iter().map(PathBuf::as_path)).collect();
    if same && newer(&archive, &sources) {
        return Ok(archive);
    }
    let stage = folder()?.join("stage");
    run(Command::new("rm").arg("-rf").arg(&stage))?;
    std::fs::create_dir_all(stage.join("etc"))?;
    for (name, text) in [
        (
            "passwd",
            "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/var/lib/redkeep:/sbin/nologin\n",
        ),
        ("group", "root:x:0:\nnonroot:x:65532:\n"),
        ("nsswitch.conf", "hosts: files dns\n"),
    ] {
        std::fs::write(stage.join("etc").join(name), text)?;
    }
    let strip = |program: &Path, to: &str| -> Result<PathBuf> {
        let stripped = stage.join(to);
        run(Command::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(program))?;
        Ok(stripped)
    };
    let (stripped, instance) = (strip(&program, "redkeep")?, strip(&instance, "redkeep-instance")?);
    let mut command = mkimage(reference, &archive);
    command.args(["--entrypoint", "/usr/bin/redkeep", "--folder", "/var/lib/redkeep:1777"]);
    command.args(["--env", "XDG_CACHE_HOME=/var/lib/redkeep/cache"]);
    command.arg(format!("{}:/etc", stage.join("etc").display()));
    command.arg(format!("{}:/usr/bin/redkeep", stripped.display()));
    // Its init container copies it from here into the pods of Redis.
    command.arg(format!("{}:/usr/bin/redkeep-instance", instance.display()));
    for plugin in plugins {
        let name = plugin.file_name().with_context(|| format!("{} is no file", plugin.display()))?;
        command.arg(format!("{}:{PLUGIN_FOLDER}/{}", plugin.display(), name.to_string_lossy()));
    }
    run(command.args([AUTHORITIES, ZONES]))?;
    std::fs::write(&list, contents).with_context(|| format!("failed to write {}", list.display()))?;
    say(&format!("image {reference}: {}", archive.display()));
    Ok(archive)
}

/// What an archive was made of.
fn stage_list(reference: &str, plugins: &[PathBuf]) -> String {
    plugins.iter().fold(format!("{reference}\n"), |list, plugin| list + &plugin.display().to_string() + "\n")
}

/// Redis, Valkey and the S3 server, with the libraries that they load; each runs as any user.
pub(crate) fn pack_servers() -> Result<Vec<PathBuf>> {
    let client = find_program("redis-cli").context("redis-cli is missing: run `cargo xtask servers`")?;
    let shell = Path::new("/bin/dash");
    let mut archives = Vec::new();
    for (name, reference) in [
        ("redis-6.2", "localhost/redis:6.2"),
        ("redis-7.0", "localhost/redis:7.0"),
        ("redis-8.2", "localhost/redis:8.2"),
        ("valkey-8.1", "localhost/valkey:8.1"),
    ] {
        let installed = servers::folder().join(name);
        let program = if installed.is_file() {
            installed
        } else if name == "redis-7.0" {
            find_program("redis-server").context("redis-server is missing: run `cargo xtask servers`")?
        } else {
            bail!("{name} is missing: run `cargo xtask servers`");
        };
        let archive = folder()?.join(format!("{name}.tar"));
        if !newer(&archive, &[&program]) {
            let mut command = mkimage(reference, &archive);
            command.arg(format!("{}:/usr/bin/redis-server", program.display()));
            command.arg(format!("{}:/usr/bin/redis-cli", client.display()));
            run(command.arg(format!("{}:/bin/sh", shell.display())))?;
        }
        archives.push(archive);
        if name == "redis-7.0" {
            // The image that `config/samples` names; no other version that this machine can have is nearer to it.
            let archive = folder()?.join("samples.tar");
            if !newer(&archive, &[&program]) {
                let mut command = mkimage("docker.io/library/redis:7.2", &archive);
                run(command.arg(format!("{}:/usr/bin/redis-server", program.display())))?;
            }
            archives.push(archive);
        }
    }
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let gateway = home.join("go/bin/versitygw");
    if !gateway.is_file() {
        bail!("{} is missing: run tests/services/install-storage-servers", gateway.display());
    }
    let archive = folder()?.join("s3.tar");
    if !newer(&archive, &[&gateway]) {
        let mut command = mkimage("localhost/s3:1", &archive);
        command.args(["--entrypoint", "/usr/bin/versitygw"]);
        run(command.arg(format!("{}:/usr/bin/versitygw", gateway.display())))?;
    }
    archives.push(archive);
    Ok(archives)
}

fn mkimage(reference: &str, archive: &Path) -> Command {
    let mut command = Command::new(script());
    command.arg(reference).arg(archive);
    command
}

fn script() -> PathBuf {
    root().join("tests/cluster/mkimage")
}

/// Where the archives go.
fn folder() -> Result<PathBuf> {
    let folder = target_dir().join("images");
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    Ok(folder)
}

/// Whether an archive is younger than all that it is made of.
fn newer(archive: &Path, sources: &[&Path]) -> bool {
    let changed = |path: &Path| -> Option<SystemTime> { std::fs::metadata(path).ok()?.modified().ok() };
    let Some(made) = changed(archive) else { return false };
    let script = script();
    let own = Path::new(file!());
    let recipe = root().join(own);
    sources
        .iter()
        .copied()
        .chain([script.as_path(), recipe.as_path()])
        .all(|source| changed(source).is_some_and(|at| at < made))
}
