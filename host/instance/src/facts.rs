//! What Redis says of itself in `INFO`. Pure.

use std::collections::HashMap;

use crate::clock::Moment;

/// One reading of `INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// When it was asked for.
    pub(crate) at: Moment,
    /// It reads its files, or what a primary sent.
    pub(crate) loading: bool,
    /// It takes writes.
    pub(crate) is_primary: bool,
    /// Whom it follows: address and port.
    pub(crate) follows: Option<(String, u16)>,
    /// The link to whom it follows is up.
    pub(crate) link_up: bool,
    /// It is receiving a whole copy.
    pub(crate) syncing: bool,
    /// `master_replid`.
    pub(crate) replication_id: String,
    /// `master_replid2`.
    pub(crate) previous_replication_id: Option<String>,
    /// How far its data goes.
    pub(crate) offset: u64,
    /// Seconds since the primary was heard.
    pub(crate) lag_seconds: Option<u64>,
    /// It writes an RDB file.
    pub(crate) saving: bool,
    /// Its append-only file is whole, and it goes on appending.
    pub(crate) appends: bool,
    /// Keys over all databases.
    pub(crate) keys: u64,
    /// Keys loaded and expired ones left out, by the last load.
    pub(crate) loaded: Option<(u64, u64)>,
    /// The server's own version.
    pub(crate) version: String,
    /// `redis` or `valkey`.
    pub(crate) server: String,
    /// Who follows it.
    pub(crate) replicas: Vec<Follower>,
}

/// A replica as its primary sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Follower {
    pub(crate) ip: String,
    pub(crate) port: u16,
    pub(crate) online: bool,
    /// What it has acknowledged.
    pub(crate) offset: u64,
}

impl Facts {
    /// Reads `INFO`, asked for at `at`.
    pub(crate) fn parse(text: &str, at: Moment) -> Self {
        let fields: HashMap<&str, &str> = text.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let field = |name: &str| fields.get(name).copied();
        let number = |name: &str| field(name).and_then(|value| value.parse::<u64>().ok());
        let is = |name: &str, wanted: &str| field(name) == Some(wanted);
        let is_primary = is("role", "master");
        let valkey = is("server_name", "valkey");
        let version = if valkey { field("valkey_version") } else { None }.or_else(|| field("redis_version"));
        let own_offset = number("master_repl_offset").unwrap_or(0);
        // A replica that has no history says 1.
        let followed_offset = number("slave_repl_offset").filter(|_| !is_primary);
        let link_up = is("master_link_status", "up");
        Self {
            at,
            loading: is("loading", "1") || is("async_loading", "1"),
            is_primary,
            follows: field("master_host")
                .zip(number("master_port"))
                .map(|(host, port)| (host.to_owned(), u16::try_from(port).unwrap_or(0))),
            link_up,
            syncing: is("master_sync_in_progress", "1"),
            replication_id: field("master_replid").unwrap_or_default().to_owned(),
            previous_replication_id: field("master_replid2")
                .filter(|id| id.bytes().any(|byte| byte != b'0'))
                .map(str::to_owned),
            offset: followed_offset.unwrap_or(own_offset),
            lag_seconds: number(if link_up { "master_last_io_seconds_ago" } else { "master_link_down_since_seconds" }),
            saving: is("rdb_bgsave_in_progress", "1"),
            appends: is("aof_enabled", "1")
                && is("aof_rewrite_in_progress", "0")
                && is("aof_rewrite_scheduled", "0")
                && is("aof_last_bgrewrite_status", "ok"),
            keys: databases(text).sum(),
            loaded: number("rdb_last_load_keys_loaded").zip(number("rdb_last_load_keys_expired")),
            version: version.unwrap_or_default().to_owned(),
            server: if valkey { "valkey" } else { "redis" }.to_owned(),
            replicas: if is_primary { text.lines().filter_map(follower).collect() } else { Vec::new() },
        }
    }

    /// The replica at that address.
    pub(crate) fn replica(&self, ip: &str, port: u16) -> Option<&Follower> {
        self.replicas.iter().find(|one| one.port == port && same_address(&one.ip, ip))
    }
}

/// Whether two texts name one address: `::ffff:10.0.0.1` is `10.0.0.1`.
pub(crate) fn same_address(left: &str, right: &str) -> bool {
    let canonical = |text: &str| text.parse::<std::net::IpAddr>().map(|ip| ip.to_canonical());
    left == right || matches!((canonical(left), canonical(right)), (Ok(left), Ok(right)) if left == right)
}

/// `db3:keys=12,expires=0,avg_ttl=0`.
fn databases(text: &str) -> impl Iterator<Item = u64> {
    text.lines().filter_map(|line| {
        let (name, value) = line.trim_end().split_once(":keys=")?;
        name.strip_prefix("db")?.parse::<u32>().ok()?;
        value.split(',').next()?.parse().ok()
    })
}

/// `slave0:ip=10.0.0.2,port=6379,state=online,offset=123,lag=0`.
fn follower(line: &str) -> Option<Follower> {
    let (name, value) = line.trim_end().split_once(':')?;
    name.strip_prefix("slave")?.parse::<u32>().ok()?;
    let part = |wanted: &str| {
        value
            .split(',')
            .find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == wanted))
            .map(|(_, value)| value)
    };
    Some(Follower {
        ip: part("ip")?.to_owned(),
        port: part("port")?.parse().ok()?,
        online: part("state") == Some("online"),
        offset: part("offset")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_of_redis_8_2_is_read() {
        let text = "# Server\r\nredis_version:8.2.3\r\n# Persistence\r\nloading:0\r\nasync_loading:0\r\n\
            rdb_last_load_keys_expired:2\r\nrdb_last_load_keys_loaded:10\r\n# Replication\r\nrole:master\r\n\
            connected_slaves:1\r\nslave0:ip=10.0.0.2,port=6379,state=online,offset=98,lag=1,type=replica\r\n\
            slave1:ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0,lag=0,type=replica\r\n\
            slave_expires_tracked_keys:1\r\nmaster_replid:aa\r\nmaster_replid2:0000\r\nmaster_repl_offset:112\r\n\
            # Keyspace\r\ndb0:keys=7,expires=1,avg_ttl=0\r\ndb12:keys=3,expires=0,avg_ttl=0\r\n";
        let facts = Facts::parse(text, Moment::ZERO);
        assert_eq!((facts.is_primary, facts.loading, facts.offset, facts.keys), (true, false, 112, 10));
        assert_eq!((facts.loaded, facts.previous_replication_id.clone()), (Some((10, 2)), None));
        assert_eq!((facts.version.as_str(), facts.server.as_str()), ("8.2.3", "redis"));
        assert_eq!(facts.replicas.len(), 2);
        assert_eq!(facts.replica("::ffff:10.0.0.2", 6379).map(|one| (one.online, one.offset)), Some((true, 98)));
        assert_eq!(facts.replica("10.0.0.3", 6379).map(|one| one.online), Some(false));
        assert_eq!(facts.replica("10.0.0.2", 6380), None);
    }

    #[test]
    fn a_replica_of_valkey_is_read() {
        let text = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.8\r\nrole:slave\r\n\
            master_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\n\
            master_sync_in_progress:1\r\nslave_read_repl_offset:90\r\nslave_repl_offset:90\r\n\
            master_link_down_since_seconds:4\r\nmaster_replid:bb\r\nmaster_replid2:cc\r\nmaster_repl_offset:80\r\n";
        let facts = Facts::parse(text, Moment::ZERO);
        assert_eq!((facts.is_primary, facts.syncing, facts.link_up, facts.offset), (false, true, false, 90));
        assert_eq!(facts.follows, Some(("10.0.0.1".to_owned(), 6379)));
        assert_eq!((facts.lag_seconds, facts.previous_replication_id.as_deref()), (Some(4), Some("cc")));
        assert_eq!((facts.version.as_str(), facts.server.as_str()), ("8.1.8", "valkey"));
        assert_eq!(facts.loaded, None);
    }

    #[test]
    fn garbage_is_read_as_nothing() {
        let facts = Facts::parse("slave0:ip=\r\ndbx:keys=1\r\nrole\r\n:::", Moment::ZERO);
        assert_eq!(facts, Facts { server: "redis".to_owned(), ..Facts::default() });
    }
}
