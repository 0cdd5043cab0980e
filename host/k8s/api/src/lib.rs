//! The custom resources of group `redis.io/v1`.
