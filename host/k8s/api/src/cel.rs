//! CEL rules and patterns that several kinds share. Messages say which field and what would be right.

use kube::core::Rule;
use redkeep_core::managed::{DIRECTIVES_WITH_FIELDS, RESERVED_DIRECTIVES};

/// A DNS subdomain, as object names are.
pub const NAME_PATTERN: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// A DNS label, as names of services and methods are.
pub const LABEL_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// `30m`, `36h`, `1d12h`.
pub const DURATION_PATTERN: &str = "^([0-9]+[smhdw])+$";
/// `500M`, `10Gi`, bytes.
pub const SIZE_PATTERN: &str = "^[0-9]+([kKMGT]i?B?)?$";
/// `none`, `gzip[:1-9]`, `zstd[:1-19]`.
pub const COMPRESSION_PATTERN: &str = "^(none|gzip(:[1-9])?|zstd(:([1-9]|1[0-9]))?)$";
/// A key of a Secret or ConfigMap.
pub const KEY_PATTERN: &str = "^[-._a-zA-Z0-9]+$";
/// A digest.
pub const DIGEST_PATTERN: &str = "^(sha256:)?[0-9a-f]{64}$";

/// Hosts that a pod must not be sent to by a user's words: itself, its node's link-local services, a cloud's metadata. In brackets: all
/// of `0::/16` (loopback, addresses of IPv4 in every dress), NAT64, 6to4, Teredo, link-local, and the clouds' own.
const FORBIDDEN_HOST: &str = r"(localhost\.*|[^/:@]*\.localhost\.*|127\.[0-9.]*|0\.[0-9.]*|169\.254\.[0-9.]*|100\.100\.100\.200|168\.63\.129\.16|192\.0\.0\.192|metadata\.*|metadata\.google\.internal\.*|instance-data(\.[a-z0-9.-]*)?|\[(:|0{1,4}:|0{0,2}64:ff9b:|2002:|2001:0{0,4}:|fe[89ab][0-9a-f]:|fd00:0?ec2:|fd20:0{0,2}ce:|[^\]]*\.)[^\]]*\])";
/// A host whose last label is a number: resolvers read `127.0x1`, `0177.0.0.1` and `2130706433` as addresses, so it must be a plain one.
const NUMBER: &str = r"([^/:]*\.)?(0x[0-9a-f]*|[0-9]+)\.*";
const PLAIN: &str =
    r"((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";

/// For a path inside a bucket or claim.
pub fn path() -> Rule {
    Rule::new(r"!self.split('/').exists(part, part == '..' || part == '.')")
        .message("must not hold `.` or `..` as a part")
}

/// For an `http://` or `https://` address of a storage service: its shape.
pub fn http_endpoint_shape() -> Rule {
    Rule::new(r"self.matches('^https?://([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?$')")
        .message("must be http://HOST[:PORT] or https://HOST[:PORT], without user, query or fragment")
}

/// For an `http://` or `https://` address of a storage service: its host.
pub fn http_endpoint_host() -> Rule {
    forbidden_host("^https?://")
}

/// For `HOST:PORT` of a Redis or Sentinel: its shape.
pub fn host_and_port_shape() -> Rule {
    Rule::new(r"self.matches('^([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\]):[0-9]{1,5}$')")
        .message("must be HOST:PORT, as in redis-0.redis:6379 or [fd00::1]:6379")
}

/// For `HOST:PORT` of a Redis or Sentinel: its host.
pub fn host_and_port_host() -> Rule {
    forbidden_host("^")
}

fn forbidden_host(prefix: &str) -> Rule {
    let pattern = |host: &str| format!("{prefix}{host}(:|/|$)").replace('\\', r"\\");
    // The shape lets capitals through: `LOCALHOST`, `0X7F`.
    Rule::new(format!(
        "!self.lowerAscii().matches('{}') && (!self.lowerAscii().matches('{}') || self.matches('{}'))",
        pattern(FORBIDDEN_HOST),
        pattern(NUMBER),
        pattern(PLAIN)
    ))
    .message("must not be a loopback, link-local or metadata address, nor a number that is read as one")
}

/// `rule` for each item of a list.
pub fn each(mut rule: Rule) -> Rule {
    rule.rule = format!("self.all(item, {})", rule.rule.replace("self.", "item."));
    rule
}

/// For `redis.conf`: nothing that is the operator's.
pub fn no_reserved_directives() -> Rule {
    let names: Vec<String> = RESERVED_DIRECTIVES.iter().map(|name| format!("'{name}'")).collect();
    Rule::new(format!("!self.exists(key, key.lowerAscii() in [{}])", names.join(", ")))
        .message("dir, ports, replication, passwords, TLS, include and the like are the operator's")
}

/// For `redis.conf`: nothing that has a field of its own, which would say something else.
pub fn no_directives_with_fields() -> Rule {
    let names: Vec<String> = DIRECTIVES_WITH_FIELDS.iter().map(|(name, _)| format!("'{name}'")).collect();
    Rule::new(format!("!self.exists(key, key.lowerAscii() in [{}])", names.join(", "))).message(
        "min-replicas-to-write and min-replicas-max-lag are set by failover.minReplicasToWrite and failover.minReplicasMaxLag",
    )
}

/// Exactly one of `fields` is set.
pub fn exactly_one(fields: &[&str]) -> Rule {
    Rule::new(format!("{} == 1", count(fields)))
        .message(format!("exactly one of {} must be set", fields.join(", ")).as_str())
}

/// At most one of `fields` is set.
pub fn at_most_one(fields: &[&str]) -> Rule {
    Rule::new(format!("{} <= 1", count(fields)))
        .message(format!("at most one of {} may be set", fields.join(", ")).as_str())
}

fn count(fields: &[&str]) -> String {
    let terms: Vec<String> = fields.iter().map(|field| format!("(has(self.{field}) ? 1 : 0)")).collect();
    terms.join(" + ")
}

/// None of the `fields` of `part` changes, whatever else does; nor does the part come or go.
pub fn immutable_within(part: &str, fields: &[&str]) -> Rule {
    let same = |field: &&str| {
        let (now, before) = (format!("self.{part}.{field}"), format!("oldSelf.{part}.{field}"));
        format!("has({now}) == has({before}) && (!has({now}) || {now} == {before})")
    };
    let terms: Vec<String> = fields.iter().map(same).collect();
    Rule::new(format!("has(self.{part}) == has(oldSelf.{part}) && (!has(self.{part}) || ({}))", terms.join(" && ")))
}

/// `field` only together with `with`.
pub fn only_with(field: &str, with: &str) -> Rule {
    Rule::new(format!("!has(self.{field}) || has(self.{with})"))
        .message(format!("{field} may be set only together with {with}").as_str())
}

/// Five fields or an `@` form. Which dates are possible is for the controller.
pub fn cron() -> Rule {
    Rule::new(
        r"self.matches('^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|[0-9A-Za-z*?#,/-]+( +[0-9A-Za-z*?#,/-]+){4})$')",
    )
    .message("must be five fields (minute hour day-of-month month day-of-week) or @yearly, @monthly, @weekly, @daily, @hourly")
}

/// A name of the IANA time zone database, by shape. `Local` and offsets mean something else on each machine or each season.
pub fn time_zone_shape() -> Rule {
    Rule::new("self.lowerAscii() != 'local' && self.matches('^[A-Za-z][A-Za-z0-9_+/-]*$')")
        .message("must be a name of the IANA time zone database, such as Europe/Berlin; not Local, not an offset")
}

/// A name that the API server's time zone database has. An unknown zone is an error of the evaluation, which refuses too.
pub fn time_zone_known() -> Rule {
    Rule::new("!self.matches('^[A-Za-z][A-Za-z0-9_+/-]*$') || timestamp('2026-01-01T00:00:00Z').getHours(self) >= 0")
        .message("must be a name of the IANA time zone database, such as Europe/Berlin")
}

/// The object's name is at most `length` long, for the names made from it.
pub fn name_length(length: usize, why: &str) -> Rule {
    Rule::new(format!("self.metadata.name.size() <= {length}"))
        .message(format!("metadata.name must be at most {length} characters long: {why}").as_str())
}
