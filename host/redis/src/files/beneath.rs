//! Opening files beneath a directory and nowhere else: no symbolic links, no `..`, no absolute paths.
//!
//! The kernel decides where it can (`openat2`, Linux 5.6); elsewhere every component is opened without following links.

use std::io;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};

/// A relative path of plain components.
pub(crate) fn components(path: &str) -> io::Result<Vec<&str>> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if path.starts_with('/') {
        return refused("the path is absolute");
    }
    if path.contains('\0') || path.len() > 4096 {
        return refused("the path is not well-formed");
    }
    let components: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if components.contains(&"..") { refused("the path leaves its directory") } else { Ok(components) }
}

/// Opens `path` beneath `directory`; `""` is the directory itself.
pub(crate) fn open(directory: impl AsFd, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let components = components(path)?;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let plain = if components.is_empty() { ".".to_owned() } else { components.join("/") };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(&directory, plain.as_str(), flags, mode, resolve) {
        // Old kernels do not know the call, and some sandboxes forbid it.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => by_component(directory, &components, flags, mode),
        opened => Ok(opened?),
    }
}

fn by_component(directory: impl AsFd, components: &[&str], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let walk = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let mut present = openat(&directory, ".", walk, Mode::empty())?;
    let Some((last, parents)) = components.split_last() else { return Ok(present) };
    for parent in parents {
        present = openat(&present, *parent, walk, Mode::empty())?;
    }
    Ok(openat(&present, *last, flags, mode)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_stay_inside_and_follow_no_links() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("sub")).unwrap();
        std::fs::write(root.path().join("sub/file"), "f").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), root.path().join("leaf")).unwrap();
        std::os::unix::fs::symlink(root.path().join("sub"), root.path().join("inner")).unwrap();
        let directory = open(rustix::fs::CWD, ".", OFlags::DIRECTORY, Mode::empty());
        assert!(directory.is_ok());
        let directory = std::fs::File::open(root.path()).unwrap();
        let read = OFlags::RDONLY;
        let both = |path: &str| {
            let first = open(&directory, path, read, Mode::empty()).is_ok();
            let second = components(path)
                .and_then(|parts| by_component(&directory, &parts, read | OFlags::NOFOLLOW, Mode::empty()))
                .is_ok();
            assert_eq!(first, second, "{path}");
            first
        };
        assert!(both("sub/file") && both("./sub//file") && both("sub") && both(""));
        for bad in ["link/secret", "leaf", "inner/file", "../x", "sub/../../x", "/etc/passwd", "a\0b", "none"] {
            assert!(!both(bad), "{bad:?}");
        }
    }
}
