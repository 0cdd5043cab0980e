//! The README's first command, as it stands once it is built.

use std::process::Command;

#[test]
fn the_demo_proves_the_restored_data_equal() {
    let output = Command::new(env!("CARGO_BIN_EXE_demo")).env_remove("REDKEEP_BIN").output().expect("the demo starts");
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{wrong}");
    assert!(said.contains("\nEqual: digest, "), "{said}");
}
