//! All of `bindgen!`, and nothing else: the contract as Rust traits and types.
//!
//! One world imports everything, because guests in JavaScript and Python import whole worlds: what a run does not have
//! or a user did not grant is answered call by call, never by a failure to link.

#![allow(missing_docs, unreachable_pub, clippy::pedantic, reason = "generated code")]

wasmtime::component::bindgen!({
    path: "../../wit/v0.1",
    inline: "
        package redkeep:host;
        world everything {
            include redkeep:plugin/redis-method@0.1.0;
            include redkeep:plugin/socket-method@0.1.0;
        }
    ",
    world: "redkeep:host/everything",
    imports: { default: async | trappable },
    exports: { default: async },
    trappable_error_type: {
        "redkeep:plugin/types.error" => crate::failure::HostError,
    },
    with: {
        "redkeep:plugin/pipe.source": crate::handles::SourceHandle,
        "redkeep:plugin/pipe.sink": crate::handles::SinkHandle,
        "redkeep:plugin/redis.replication": crate::handles::ReplicationHandle,
        "redkeep:plugin/socket.connection": crate::handles::ConnectionHandle,
    },
});
