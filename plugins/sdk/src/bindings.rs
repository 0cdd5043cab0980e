//! Generated from `wit/v0.1`, world `redis-method`. Nothing is written by hand here.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]

wit_bindgen::generate!({
    path: "../../wit/v0.1",
    world: "redis-method",
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "redkeep_sdk::bindings",
});
