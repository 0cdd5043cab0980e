//! The program starts. It also has `cargo test` build the program itself, with the very features that the end-to-end tests
//! of the workspace are built with, so that nothing is compiled twice.

use std::process::Command;

#[test]
fn it_says_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_redkeep")).arg("--version").output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), concat!("redkeep ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn without_arguments_it_says_what_it_can_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_redkeep")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for command in ["backup", "restore", "verify", "list", "prune"] {
        assert!(said.contains(command), "{command} is missing: {said}");
    }
}
