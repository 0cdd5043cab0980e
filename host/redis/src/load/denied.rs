//! What to do about a command that the target's access list denies: its words name the command.

/// What lifts the denial of `user` that `text` is, or `None` where it is none.
pub(super) fn help(text: &str, user: &str) -> Option<String> {
    let text = text.strip_prefix("NOPERM ")?;
    let command = text.split_once("to run the '").and_then(|(_, rest)| rest.split('\'').next());
    Some(match command {
        Some(command) => format!("the target's user may not run {command}: allow it by ACL SETUSER {user} +{command}"),
        None => format!("the target's user may not write to every key: allow it by ACL SETUSER {user} ~*"),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::since_72(
        "NOPERM User rs has no permissions to run the 'rpush' command",
        Some("run rpush: allow it by ACL SETUSER rs +rpush")
    )]
    #[case::a_subcommand(
        "NOPERM User rs has no permissions to run the 'xgroup|create' command",
        Some("ACL SETUSER rs +xgroup|create")
    )]
    #[case::of_62(
        "NOPERM this user has no permissions to run the 'rpush' command or its subcommand",
        Some("ACL SETUSER rs +rpush")
    )]
    #[case::a_key("NOPERM No permissions to access a key", Some("ACL SETUSER rs ~*"))]
    #[case::a_key_of_62("NOPERM this user has no permissions to access one of the keys used as arguments", Some("~*"))]
    #[case::something_else("OOM command not allowed", None)]
    fn a_denial_names_the_rule(#[case] text: &str, #[case] said: Option<&str>) {
        let found = help(text, "rs");
        assert_eq!(found.is_some(), said.is_some(), "{found:?}");
        assert!(found.unwrap_or_default().contains(said.unwrap_or_default()), "{text}");
    }
}
