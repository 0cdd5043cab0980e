//! Embeds the plugins that `cargo xtask plugins` built and the kit for authors, so that one file is the whole product.
//!
//! Only methods for Redis (`redis-*`) come with the program; the others are files of their own, as anybody's plugin is. None
//! found is no error here: the program then says how to build them.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let manifest_dir = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let plugins = manifest_dir.parent().ok_or("the crate has no parent folder")?.join("plugins");
    let dist = plugins.join("dist");
    // A path that does not exist would make every build run this again: then the folder above is watched.
    println!("cargo:rerun-if-changed={}", if dist.is_dir() { &dist } else { &plugins }.display());
    let found = components(&dist)?;
    if found.is_empty() {
        println!("cargo:warning=no plugins in {}: run `cargo xtask plugins`, then build again", dist.display());
    }
    let mut code = String::from("pub(crate) const BUNDLED: &[(&str, &[u8])] = &[\n");
    for (name, path) in &found {
        println!("cargo:rerun-if-changed={}", path.display());
        writeln!(code, "    ({name:?}, include_bytes!({:?})),", path.display().to_string())?;
    }
    code.push_str("];\n");
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("bundled.rs"), code)?;
    std::fs::write(out_dir.join("kit.rs"), kit(&plugins.join("sdk/src"))?)?;
    Ok(())
}

/// The Rust kit's sources, for `redkeep plugin new`.
fn kit(sources: &Path) -> Result<String, Box<dyn Error>> {
    println!("cargo:rerun-if-changed={}", sources.display());
    let mut files = Vec::new();
    rust_files(sources, &mut files)?;
    files.sort();
    let mut code = String::from("/// Path below `src`, and text.\nconst SDK: &[(&str, &str)] = &[\n");
    for path in &files {
        let name = path.strip_prefix(sources)?.display().to_string();
        writeln!(code, "    ({name:?}, include_str!({:?})),", path.display().to_string())?;
    }
    code.push_str("];\n");
    Ok(code)
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn components(dist: &Path) -> Result<Vec<(String, PathBuf)>, Box<dyn Error>> {
    let mut found = Vec::new();
    if dist.is_dir() {
        for entry in std::fs::read_dir(dist)? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if path.extension().is_some_and(|extension| extension == "wasm") && name.starts_with("redis-") {
                found.push((name, path));
            }
        }
    }
    found.sort();
    Ok(found)
}
