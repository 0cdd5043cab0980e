//! wasmtime's engine, narrowed to the settings that redkeep allows, and the thread that drives its epochs.

use std::hash::Hasher;

use wasmtime::{Config, InstanceAllocationStrategy};

use crate::limits::TICK;

/// Of wasmtime, for the key of the compile cache: its artifacts are good for exactly this version.
pub(crate) const WASMTIME: &str = "48.0.8";

/// A sandbox: an engine and its ticker. The thread ends with the last clone of the engine.
pub(crate) fn start() -> wasmtime::Result<wasmtime::Engine> {
    let mut config = Config::new();
    config.epoch_interruption(true);
    // Pooling would save 5 µs of 17 an instance and bring hard caps that foreign guests hit (WASM.md 2).
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    let engine = wasmtime::Engine::new(&config)?;
    let weak = engine.weak();
    std::thread::Builder::new().name("redkeep-epoch".to_owned()).spawn(move || {
        // A thread, not a task: a guest that holds every worker of the runtime must still be interrupted.
        while let Some(engine) = weak.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    })?;
    Ok(engine)
}

/// What compiled code depends on besides the component: the target, the compiler's and the engine's settings.
pub(crate) fn compatibility(engine: &wasmtime::Engine) -> String {
    use sha2::Digest as _;

    /// Feeds a digest with whatever hashes itself: `DefaultHasher` promises nothing from one Rust release to the next.
    struct Feed(sha2::Sha256);

    impl Hasher for Feed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            0
        }
    }

    let mut feed = Feed(sha2::Sha256::new());
    std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut feed);
    crate::loader::hexadecimal(&feed.0.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compatibility_is_the_same_for_equal_engines_and_differs_with_settings() {
        let engine = start().unwrap();
        assert_eq!(compatibility(&engine), compatibility(&start().unwrap()));
        let mut config = Config::new();
        config.epoch_interruption(false);
        assert_ne!(compatibility(&engine), compatibility(&wasmtime::Engine::new(&config).unwrap()));
    }

    #[test]
    fn the_version_in_the_cache_key_is_the_version_linked() {
        let manifest = include_str!("../../../Cargo.toml");
        assert!(manifest.contains(&format!("wasmtime = {{ version = \"={WASMTIME}\"")));
    }

    #[test]
    fn the_ticker_ends_with_its_engine() {
        let engine = start().unwrap();
        let weak = engine.weak();
        drop(engine);
        let gone = (0..200).any(|_| {
            std::thread::sleep(TICK);
            weak.upgrade().is_none()
        });
        assert!(gone);
    }
}
