//! The task engine: backup, restore, verify, prune; everything between plugin and storage.
