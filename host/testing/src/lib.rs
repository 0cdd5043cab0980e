//! Real servers, workloads and comparisons for tests; a dev-dependency only.
