//! Sentinel: where the primary and its replicas are. Any Sentinel that answers is believed; what it says of roles is
//! checked with the nodes themselves.

use crate::connection::Node;
use crate::discovery::cluster::address_of;
use crate::endpoint::Address;
use crate::error::AccessError;
use crate::resp::Value;

/// The primary and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) primary: Address,
    pub(crate) replicas: Vec<Address>,
}

/// Asks the Sentinels one after the other.
pub(crate) async fn read(sentinels: &[Node], primary: &str) -> Result<Watched, AccessError> {
    let mut failure = None;
    for sentinel in sentinels {
        match ask(sentinel, primary).await {
            Ok(watched) => return Ok(watched),
            Err(error @ (AccessError::Login { .. } | AccessError::NoPermission { .. })) => return Err(error),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| AccessError::NotFound {
        what: format!("the primary `{primary}`"),
        help: "name at least one Sentinel".to_owned(),
    }))
}

async fn ask(sentinel: &Node, primary: &str) -> Result<Watched, AccessError> {
    let mut connection = sentinel.connect().await?;
    let reply =
        connection.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", primary]).await.map_err(|error| match error {
            AccessError::Reply { text, .. } if text.contains("unknown command") => AccessError::Refused {
                reason: "NotASentinel",
                why: format!("failed to ask {}: it is no Sentinel", sentinel.address),
                help: "name the Sentinels' port (26379 by default), or write redis:// for the server itself".to_owned(),
            },
            other => other,
        })?;
    let address = match reply.elements() {
        [host, port] => host.text().zip(port.text()).and_then(|(host, port)| address_of(&host, &port)),
        _ => None,
    };
    let address = address.ok_or_else(|| AccessError::NotFound {
        what: format!("the primary `{primary}` at the Sentinel {}", sentinel.address),
        help: "check the name at the end of the address; `SENTINEL MASTERS` lists those that are watched".to_owned(),
    })?;
    let replicas = connection.call(&["SENTINEL", "REPLICAS", primary]).await?;
    let replicas = replicas.elements().iter().filter_map(replica).collect();
    Ok(Watched { primary: address, replicas })
}

/// One replica, unless the Sentinel holds it for gone.
fn replica(entry: &Value) -> Option<Address> {
    let pairs: Vec<(String, String)> = entry
        .elements()
        .chunks_exact(2)
        .filter_map(|pair| Some((pair.first()?.text()?, pair.last()?.text()?)))
        .collect();
    let get = |key: &str| pairs.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    let gone = get("flags")
        .is_some_and(|flags| flags.split(',').any(|flag| matches!(flag, "s_down" | "o_down" | "disconnected")));
    if gone { None } else { address_of(get("ip")?, get("port")?) }
}
