//! The plugin host: loads, checks, limits and runs WebAssembly method components.
