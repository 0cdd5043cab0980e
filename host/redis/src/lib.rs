//! Redis access: commands, replication, data directory, discovery.
