//! Generated from `wit/v0.1`, with every capability. Nothing is written by hand here.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]

wit_bindgen::generate!({
    path: "../../wit/v0.1",
    inline: "
        package redkeep:sdk;
        world everything {
            include redkeep:plugin/redis-method@0.1.0;
            include redkeep:plugin/socket-method@0.1.0;
        }
    ",
    world: "redkeep:sdk/everything",
    pub_export_macro: true,
    export_macro_name: "export_component",
    generate_all,
    default_bindings_module: "redkeep_sdk::bindings",
});
