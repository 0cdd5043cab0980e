//! Copies the program itself into a volume, where the container of Redis finds it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::error::InstanceError;

/// Appears whole or not at all; replaces what an earlier start of the pod left.
pub(crate) fn install(path: &Path) -> Result<(), InstanceError> {
    let own = std::env::current_exe()
        .map_err(|source| InstanceError::System { act: "find the program's own file", source })?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let staged = path.with_file_name(name);
    let failed = |source| InstanceError::Write { path: path.to_path_buf(), source };
    std::fs::copy(&own, &staged).map_err(failed)?;
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o555)).map_err(failed)?;
    std::fs::rename(&staged, path).map_err(failed)
}
