//! Which server reads which snapshot.

use redkeep_sdk::rdb::restore::reads;
use redkeep_sdk::{Error, rdb};

/// `8` of `8.2.3`.
pub(crate) fn major_version(version: Option<&str>) -> Option<u32> {
    version?.trim().split('.').next()?.parse().ok()
}

/// Refuses a server that does not read the snapshot; what is unknown passes.
pub(crate) fn check_snapshot(
    server_name: Option<&str>,
    version: Option<&str>,
    rdb_version: Option<&str>,
) -> Result<(), Error> {
    let Some((version, rdb_version)) = version.zip(rdb_version.and_then(|text| text.parse::<u16>().ok())) else {
        return Ok(());
    };
    let name = server_name.unwrap_or("redis");
    let Some(newest) =
        rdb::rdb_version_of_server(name, version).filter(|newest| !reads((*newest).into(), rdb_version.into()))
    else {
        return Ok(());
    };
    Err(Error::refused(
        format!("this backup has RDB version {rdb_version}, the target ({name} {version}) reads up to {newest}"),
        "restore into a server at least as new as the source",
    ))
}
