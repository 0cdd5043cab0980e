//! Who owns restored files: `user:group`, as names or numbers, or whoever owns the directory.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use redkeep_core::Class;
use redkeep_core::provider::ProviderError;

/// Numbers of a user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

impl Owner {
    /// The owner of a directory.
    pub(crate) fn of(directory: &File) -> io::Result<Self> {
        let metadata = directory.metadata()?;
        Ok(Self { user: metadata.uid(), group: metadata.gid() })
    }

    /// Reads `user`, `user:group` or `user:`; without a group, the user's own.
    pub(crate) fn parse(text: &str, passwd: &Path, groups: &Path) -> Result<Self, ProviderError> {
        let invalid = |what: &str, name: &str| {
            ProviderError::new(Class::Usage, "UnknownOwner", format!("failed to find the {what} `{name}` of --owner"))
                .with_help("write user:group as names known on this machine, or as numbers such as 999:1000")
        };
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let entry = entry_of(passwd, user);
        let number = user.parse().ok().or_else(|| entry.as_ref()?.get(2)?.parse().ok());
        let user_number = number.ok_or_else(|| invalid("user", user))?;
        let group_number = if group.is_empty() {
            let own = entry.as_ref().and_then(|fields| fields.get(3)?.parse().ok());
            own.or_else(|| user.parse().ok()).ok_or_else(|| invalid("group", user))?
        } else {
            let known = || entry_of(groups, group)?.get(2)?.parse().ok();
            group.parse().ok().or_else(known).ok_or_else(|| invalid("group", group))?
        };
        Ok(Self { user: user_number, group: group_number })
    }

    /// Gives a file or directory to this owner, unless it is theirs already.
    pub(crate) fn take(self, file: &File) -> io::Result<()> {
        if Self::of(file)? == self {
            return Ok(());
        }
        let (user, group) = (rustix::fs::Uid::from_raw(self.user), rustix::fs::Gid::from_raw(self.group));
        Ok(rustix::fs::fchown(file, Some(user), Some(group))?)
    }
}

/// The colon-separated fields of a name's line.
fn entry_of(database: &Path, name: &str) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(database).ok()?;
    text.lines()
        .map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>())
        .find(|fields| fields.first().is_some_and(|first| first == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        let root = tempfile::tempdir().unwrap();
        let (passwd, groups) = (root.path().join("passwd"), root.path().join("group"));
        std::fs::write(&passwd, "root:x:0:0:r:/root:/bin/sh\nredis:x:101:102::/:/bin/false\n").unwrap();
        std::fs::write(&groups, "root:x:0:\ndata:x:500:redis\n").unwrap();
        let parse = |text: &str| Owner::parse(text, &passwd, &groups).map(|owner| (owner.user, owner.group)).ok();
        assert_eq!(parse("redis"), Some((101, 102)));
        assert_eq!(parse("redis:"), Some((101, 102)));
        assert_eq!(parse("redis:data"), Some((101, 500)));
        assert_eq!(parse("999:1000"), Some((999, 1000)));
        assert_eq!(parse("999"), Some((999, 999)));
        assert_eq!(parse("nobody-here"), None);
        assert_eq!(parse("redis:none"), None);
        assert_eq!(parse(""), None);
    }
}
