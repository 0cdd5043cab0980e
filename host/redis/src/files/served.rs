//! Whether a server of this machine runs in a directory: it would write its own dataset over what is restored there.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use redkeep_core::Class;
use redkeep_core::provider::ProviderError;

/// What the kernel calls the programs, whatever they name themselves; it keeps 15 bytes of a name.
const SERVERS: [&str; 3] = ["redis-server", "valkey-server", "keydb-server"];

/// Refuses a directory that a server works in: Redis and Valkey go into theirs (`dir`) at their start. Processes that may not be
/// looked at, and those of other machines and containers, are not found.
pub(super) fn refuse_served(target: &Path, metadata: &Metadata) -> Result<(), ProviderError> {
    let Some((name, process)) = server_in(Path::new("/proc"), metadata) else { return Ok(()) };
    let why = format!("failed to restore into {}: {name} runs in it as process {process}", target.display());
    Err(ProviderError::new(Class::Refused, "TargetBusy", why).with_help(
        "stop that server first: it would save its own data over what is restored, and loads it only when it starts",
    ))
}

fn server_in(processes: &Path, metadata: &Metadata) -> Option<(String, u32)> {
    let place = (metadata.dev(), metadata.ino());
    std::fs::read_dir(processes).ok()?.flatten().find_map(|entry| {
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        let name = name.trim_end();
        if !SERVERS.contains(&name) {
            return None;
        }
        let works_in = std::fs::metadata(entry.path().join("cwd")).ok()?;
        ((works_in.dev(), works_in.ino()) == place).then(|| (name.to_owned(), process))
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    struct Stopped(Child);

    impl Drop for Stopped {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A program of that name which does nothing, in a directory.
    fn runs(name: &str, beside: &Path, place: &Path) -> Stopped {
        let program = beside.join(name);
        std::fs::copy("/bin/sleep", &program).unwrap();
        let running = Stopped(Command::new(program).arg("60").current_dir(place).spawn().unwrap());
        // The kernel lets whoever spawned it go on a moment before it names the process.
        let comm = format!("/proc/{}/comm", running.0.id());
        while std::fs::read_to_string(&comm).unwrap().trim_end() != name {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        running
    }

    #[test]
    fn a_directory_that_a_server_works_in_is_refused_and_another_is_not() {
        let (programs, place, other) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let refused = |path: &Path| refuse_served(path, &std::fs::metadata(path).unwrap());
        let _shell = runs("not-a-server", programs.path(), place.path());
        refused(place.path()).unwrap();
        let server = runs("redis-server", programs.path(), place.path());
        let error = refused(place.path()).unwrap_err();
        assert_eq!((error.class, error.reason), (Class::Refused, "TargetBusy"));
        assert!(error.message.contains(&format!("redis-server runs in it as process {}", server.0.id())), "{error:?}");
        refused(other.path()).unwrap();
        drop(server);
        refused(place.path()).unwrap();
    }
}
