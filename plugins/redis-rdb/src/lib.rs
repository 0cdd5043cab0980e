//! Method redis-rdb: a server's dataset as one RDB file.
