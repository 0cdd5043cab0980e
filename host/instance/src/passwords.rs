//! Follows the password: whoever exchanges it in its Secret need not restart anything. The kubelets bring it to the pods at times
//! of their own, so each instance takes the new one at once, and the former one too until every other has the new one. Pure, but for the
//! file.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use redkeep_core::secret::{PASSWORD_KEYS, Secret};

use crate::clock::Moment;
use crate::error::InstanceError;

/// A replica that does not reach its primary tries the other password so long after the one.
const OTHER_AFTER: Moment = Moment::from_secs(5);
/// What cannot be read, or was refused, is tried again after so long.
const AGAIN_AFTER: Moment = Moment::from_secs(10);

/// What Redis takes and shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    /// What clients and replicas are let in with.
    pub(crate) password: Secret,
    /// That too.
    pub(crate) former: Option<Secret>,
    /// What a primary is shown.
    pub(crate) shown: Secret,
}

impl Login {
    /// Words in which none of the passwords stands.
    pub(crate) fn redacted(&self, words: String) -> String {
        let all = [Some(&self.password), self.former.as_ref(), Some(&self.shown)];
        all.into_iter().flatten().fold(words, |words, password| words.replace(password.expose(), "***"))
    }
}

/// The passwords of this Redis. Without a mounted Secret there are none, and never others.
#[derive(Debug)]
pub(crate) struct Passwords {
    folder: PathBuf,
    /// How long the former one is taken.
    grace: Moment,
    written: Option<SystemTime>,
    password: Option<Secret>,
    /// And when the exchange was noticed.
    former: Option<(Secret, Moment)>,
    /// What Redis was told.
    told: Option<Login>,
    /// Why the Secret holds no password, and when it was looked at.
    unread: Option<(String, Moment)>,
    /// Redis' words, and when it said them.
    refused: Option<(String, Moment)>,
}

impl Passwords {
    /// Nothing is read yet.
    pub(crate) fn of(folder: &Path, grace: Moment) -> Self {
        let (written, password, former, told, unread, refused) = (None, None, None, None, None, None);
        Self { folder: folder.to_path_buf(), grace, written, password, former, told, unread, refused }
    }

    /// Redis is about to be started with the password that this answers: the one before, where the Secret holds none any more.
    ///
    /// # Errors
    /// When the Secret is mounted and holds none, and none was known before: without one, Redis would be open to everybody.
    pub(crate) fn start(&mut self, now: Moment) -> Result<Option<Secret>, InstanceError> {
        if self.password.is_some() {
            self.look(now);
        } else {
            self.written = written(&self.folder);
            self.password = read(&self.folder)?;
        }
        self.refused = None;
        self.told = self.password.clone().map(|password| Login { shown: password.clone(), password, former: None });
        Ok(self.password.clone())
    }

    /// What Redis is to be told now, if it was not. `is_cut_off`: it follows a primary that it does not reach.
    pub(crate) fn due(&mut self, now: Moment, is_cut_off: bool) -> Option<Login> {
        self.look(now);
        let login = self.login(now, is_cut_off)?;
        let may_be_told = self.refused.as_ref().is_none_or(|(_, at)| now >= *at + AGAIN_AFTER);
        (may_be_told && self.told.as_ref() != Some(&login)).then_some(login)
    }

    /// Takes up what the Secret holds now. What is no password changes nothing.
    fn look(&mut self, now: Moment) {
        let written = written(&self.folder);
        let is_due = match &self.unread {
            Some((_, at)) => now >= *at + AGAIN_AFTER,
            None => written != self.written,
        };
        if self.password.is_none() || !is_due {
            return;
        }
        self.written = written;
        let why = match read(&self.folder) {
            Ok(Some(password)) => {
                if self.password.as_ref() != Some(&password) {
                    self.former = self.password.replace(password).map(|former| (former, now));
                }
                None
            }
            Ok(None) => Some(format!("{} is gone", self.folder.display())),
            Err(error) => Some(error.to_string()),
        };
        self.unread = why.map(|why| (why, now));
    }

    /// What it was told last.
    pub(crate) fn told(&self) -> Option<&Login> {
        self.told.as_ref()
    }

    /// Redis was told this, or refused.
    pub(crate) fn tell(&mut self, login: Login, refused: Option<String>, now: Moment) {
        if refused.is_none() {
            self.told = Some(login);
        }
        self.refused = refused.map(|words| (words, now));
    }

    /// Why the password in the Secret is not the one that Redis takes.
    pub(crate) fn failed(&self) -> Option<&String> {
        self.unread.as_ref().or(self.refused.as_ref()).map(|(words, _)| words)
    }

    fn login(&mut self, now: Moment, is_cut_off: bool) -> Option<Login> {
        self.former.take_if(|(_, since)| now >= *since + self.grace);
        let password = self.password.clone()?;
        let Some((former, since)) = self.former.clone() else {
            return Some(Login { shown: password.clone(), password, former: None });
        };
        let passed = now.saturating_sub(since);
        // By half of the time every primary has the new one, and it still takes the former one for the other half.
        let is_late = passed >= self.grace / 2;
        let is_odd = (passed.as_secs() / OTHER_AFTER.as_secs()) % 2 == 1;
        let shown = if is_late ^ (is_cut_off && is_odd) { password.clone() } else { former.clone() };
        Some(Login { password, former: Some(former), shown })
    }
}

fn written(folder: &Path) -> Option<SystemTime> {
    let files = PASSWORD_KEYS.iter().filter_map(|key| folder.join(key).metadata().ok());
    files.filter_map(|file| file.modified().ok()).max()
}

fn read(folder: &Path) -> Result<Option<Secret>, InstanceError> {
    match std::fs::metadata(folder) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(InstanceError::Read { path: folder.to_path_buf(), source }),
    }
    for key in PASSWORD_KEYS {
        let path = folder.join(key);
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| InstanceError::Password {
                folder: folder.to_path_buf(),
                why: format!("its key {key} is not UTF-8"),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(InstanceError::Read { path, source }),
        };
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if !text.is_empty() {
            return Ok(Some(Secret::new(text)));
        }
    }
    let keys = PASSWORD_KEYS.join(", ");
    Err(InstanceError::Password {
        folder: folder.to_path_buf(),
        why: format!("none of its keys holds a password ({keys}), or it is empty"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Moment = Moment::from_secs(300);

    fn at(second: u64) -> Moment {
        Moment::from_secs(1000 + second)
    }

    fn write(folder: &Path, password: &str) {
        // The clock of files is coarse.
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(folder.join("password"), password).unwrap();
    }

    fn login(password: &str, former: Option<&str>, shown: &str) -> Login {
        Login { password: Secret::new(password), former: former.map(Secret::new), shown: Secret::new(shown) }
    }

    fn started(folder: &Path) -> Passwords {
        write(folder, "one\r\n");
        let mut passwords = Passwords::of(folder, GRACE);
        assert_eq!(passwords.start(at(0)).unwrap(), Some(Secret::new("one")));
        assert_eq!(passwords.due(at(1), true), None);
        passwords
    }

    fn told(passwords: &mut Passwords, second: u64, is_cut_off: bool) -> Option<Login> {
        let login = passwords.due(at(second), is_cut_off)?;
        passwords.tell(login.clone(), None, at(second));
        assert_eq!(passwords.due(at(second), is_cut_off), None, "it was told");
        Some(login)
    }

    #[test]
    fn both_are_taken_until_everybody_has_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut passwords = started(folder.path());
        write(folder.path(), "two");
        assert_eq!(told(&mut passwords, 10, false), Some(login("two", Some("one"), "one")));
        assert_eq!(told(&mut passwords, 159, false), None);
        assert_eq!(told(&mut passwords, 160, false), Some(login("two", Some("one"), "two")));
        assert_eq!(told(&mut passwords, 309, false), None);
        assert_eq!(told(&mut passwords, 310, false), Some(login("two", None, "two")));
        assert_eq!(told(&mut passwords, 10_000, true), None);
    }

    #[test]
    fn who_does_not_reach_its_primary_shows_the_one_and_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut passwords = started(folder.path());
        write(folder.path(), "two");
        let shown = |passwords: &mut Passwords, second| told(passwords, second, true).map(|it| it.shown);
        assert_eq!(shown(&mut passwords, 10), Some(Secret::new("one")));
        assert_eq!(shown(&mut passwords, 15), Some(Secret::new("two")));
        assert_eq!(told(&mut passwords, 16, false).map(|it| it.shown), Some(Secret::new("one")));
        assert_eq!(shown(&mut passwords, 27), Some(Secret::new("two")));
        assert_eq!(shown(&mut passwords, 165), Some(Secret::new("one")), "in the second half too");
    }

    #[test]
    fn a_redis_that_restarts_is_told_again_what_it_still_takes() {
        let folder = tempfile::tempdir().unwrap();
        let mut passwords = started(folder.path());
        write(folder.path(), "two");
        assert_eq!(passwords.start(at(10)).unwrap(), Some(Secret::new("two")), "noticed at its start");
        assert_eq!(told(&mut passwords, 11, false), Some(login("two", Some("one"), "one")));
        assert_eq!(passwords.start(at(20)).unwrap(), Some(Secret::new("two")));
        assert_eq!(told(&mut passwords, 21, false), Some(login("two", Some("one"), "one")));
        assert_eq!(passwords.start(at(400)).unwrap(), Some(Secret::new("two")));
        assert_eq!(told(&mut passwords, 401, false), None);
    }

    #[test]
    fn what_is_no_password_changes_nothing_and_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut passwords = started(folder.path());
        write(folder.path(), "\n");
        assert_eq!(passwords.due(at(10), false), None);
        assert!(passwords.failed().unwrap().contains("holds a password"), "{:?}", passwords.failed());
        std::fs::remove_file(folder.path().join("password")).unwrap();
        assert_eq!(passwords.due(at(30), false), None);
        assert!(passwords.failed().is_some());
        assert_eq!(passwords.start(at(31)).unwrap(), Some(Secret::new("one")), "Redis may start again");
        assert!(passwords.failed().is_some());
        write(folder.path(), "two");
        assert_eq!(told(&mut passwords, 50, false), Some(login("two", Some("one"), "one")));
        assert_eq!(passwords.failed(), None);
        let refused = login("two", None, "two");
        passwords.tell(refused, Some("ERR no".to_owned()), at(60));
        assert_eq!((passwords.due(at(61), false), passwords.failed().unwrap().as_str()), (None, "ERR no"));
        assert_eq!(told(&mut passwords, 360, false), Some(login("two", None, "two")), "tried again");
        assert_eq!(passwords.failed(), None);
    }

    #[test]
    fn a_secret_that_is_gone_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mounted = folder.path().join("mounted");
        std::fs::create_dir(&mounted).unwrap();
        let mut passwords = started(&mounted);
        std::fs::remove_dir_all(&mounted).unwrap();
        assert_eq!(passwords.start(at(10)).unwrap(), Some(Secret::new("one")));
        assert!(passwords.failed().unwrap().contains("is gone"), "{:?}", passwords.failed());
    }

    #[test]
    fn a_password_that_is_exchanged_again_is_taken_beside_the_last_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut passwords = started(folder.path());
        for (second, password, former) in [(10, "two", "one"), (20, "one", "two"), (30, "three", "one")] {
            write(folder.path(), password);
            assert_eq!(told(&mut passwords, second, false), Some(login(password, Some(former), former)));
        }
        assert_eq!(told(&mut passwords, 330, false), Some(login("three", None, "three")));
    }

    #[test]
    fn without_a_secret_there_is_no_password() {
        let folder = tempfile::tempdir().unwrap();
        let mut passwords = Passwords::of(&folder.path().join("none"), GRACE);
        assert_eq!(passwords.start(at(0)).unwrap(), None);
        assert_eq!((passwords.due(at(1), true), passwords.told()), (None, None));
        let empty = Passwords::of(folder.path(), GRACE).start(at(0)).unwrap_err();
        assert!(empty.to_string().contains("password"), "{empty}");
    }
}
