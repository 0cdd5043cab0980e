//! The replication protocol, sans-IO: words first ([`handshake`]), then the snapshot ([`snapshot`]), then commands
//! ([`stream`], whose relative times [`absolute`] makes absolute). `link.rs` connects them to a socket.

pub mod absolute;
pub mod handshake;
pub mod snapshot;
pub mod stream;
