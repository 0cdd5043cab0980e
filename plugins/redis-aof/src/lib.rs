//! Method redis-aof: a dataset and the commands that follow, as an append-only file.
