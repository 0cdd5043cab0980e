//! Notices that the certificates of Redis were renewed: the kubelet exchanges the files while Redis runs, which reads them at
//! its start and when it is told to.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::clock::Moment;
use crate::settings::TLS_FILES;

/// Redis is asked again so long after it refused: it may have been for something that passes, such as too many clients.
const ASK_AGAIN: Moment = Moment::from_secs(60);

/// When each file was written; `None` where there is none.
type Written = [Option<SystemTime>; TLS_FILES.len()];

/// What Redis has read. Without TLS there are no files, and never others.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    folder: PathBuf,
    read: Written,
    /// Redis' words, and when it said them.
    refused: Option<(String, Moment)>,
}

impl Certificates {
    /// Redis is about to read what is there.
    pub(crate) fn of(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), read: written(folder), refused: None }
    }

    /// The files that are there, if Redis was not told yet to read them, or refused a while ago.
    pub(crate) fn renewed(&self, now: Moment) -> Option<Written> {
        let files = written(&self.folder);
        let again = self.refused.as_ref().is_some_and(|(_, at)| now >= *at + ASK_AGAIN);
        (again || files != self.read).then_some(files)
    }

    /// Redis was told, after `files` had been looked at: what is exchanged in between is noticed by the next look.
    pub(crate) fn told(&mut self, files: Written, refused: Option<String>, now: Moment) {
        self.read = files;
        self.refused = refused.map(|words| (words, now));
    }

    /// Redis' words about those it did not take; it goes on with those before.
    pub(crate) fn refused(&self) -> Option<&String> {
        self.refused.as_ref().map(|(words, _)| words)
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
        let at = Moment::from_secs(100);
        assert_eq!(certificates.renewed(at), None, "without TLS there is nothing to read");
        // As the kubelet does it: a link leads to the newest of all folders.
        for generation in ["1", "2"] {
            let data = folder.path().join(generation);
            std::fs::create_dir(&data).unwrap();
            for name in TLS_FILES {
                std::fs::write(data.join(name), generation).unwrap();
            }
            let _ = std::fs::remove_file(&tls);
            std::os::unix::fs::symlink(&data, &tls).unwrap();
            let renewed = certificates.renewed(at).unwrap_or_else(|| panic!("{generation} was not noticed"));
            certificates.told(renewed, Some("no".to_owned()), at);
            assert_eq!((certificates.renewed(at), certificates.refused().unwrap().as_str()), (None, "no"));
            let later = at + ASK_AGAIN;
            certificates.told(certificates.renewed(later).expect("asked again"), None, later);
            assert_eq!((certificates.renewed(later + ASK_AGAIN), certificates.refused()), (None, None));
            // The clock of files is coarse.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        std::fs::remove_file(tls.join("ca.crt")).unwrap();
        assert!(certificates.renewed(at).is_some());
        assert_eq!(Certificates::of(&tls).renewed(at), None, "a new start reads what is there");
    }
}
