//! Notices that the certificates of Redis were renewed: the kubelet exchanges the files while Redis runs, which reads them at
//! its start and when it is told to.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::settings::TLS_FILES;

/// When each file was written; `None` where there is none.
type Written = [Option<SystemTime>; TLS_FILES.len()];

/// What Redis has read. Without TLS there are no files, and never others.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    folder: PathBuf,
    read: Written,
    refused: Option<String>,
}

impl Certificates {
    /// Redis is about to read what is there.
    pub(crate) fn of(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), read: written(folder), refused: None }
    }

    /// The files that are there, if Redis was not told yet to read them.
    pub(crate) fn renewed(&self) -> Option<Written> {
        let now = written(&self.folder);
        (now != self.read).then_some(now)
    }

    /// Redis was told, after `files` had been looked at: what is exchanged in between is noticed by the next look.
    pub(crate) fn told(&mut self, files: Written, refused: Option<String>) {
        self.read = files;
        self.refused = refused;
    }

    /// Redis' words about those it did not take; it goes on with those before.
    pub(crate) fn refused(&self) -> Option<&String> {
        self.refused.as_ref()
    }
}

fn written(folder: &Path) -> Written {
    TLS_FILES.map(|name| folder.join(name).metadata().and_then(|file| file.modified()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_noticed_once_also_when_one_goes_or_is_exchanged_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let tls = folder.path().join("tls");
        let mut certificates = Certificates::of(&tls);
        assert_eq!(certificates.renewed(), None, "without TLS there is nothing to read");
        // As the kubelet does it: a link leads to the newest of all folders.
        for generation in ["1", "2"] {
            let data = folder.path().join(generation);
            std::fs::create_dir(&data).unwrap();
            for name in TLS_FILES {
                std::fs::write(data.join(name), generation).unwrap();
            }
            let _ = std::fs::remove_file(&tls);
            std::os::unix::fs::symlink(&data, &tls).unwrap();
            let renewed = certificates.renewed().unwrap_or_else(|| panic!("{generation} was not noticed"));
            certificates.told(renewed, Some("no".to_owned()));
            assert_eq!((certificates.renewed(), certificates.refused().unwrap().as_str()), (None, "no"));
            // The clock of files is coarse.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        std::fs::remove_file(tls.join("ca.crt")).unwrap();
        assert!(certificates.renewed().is_some());
        assert_eq!(Certificates::of(&tls).renewed(), None, "a new start reads what is there");
    }
}
