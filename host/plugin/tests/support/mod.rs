//! What the tests of the plugin host share: guests written in WebAssembly text, and runs over memory.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod guest;
pub(crate) mod registry;
pub(crate) mod world;
