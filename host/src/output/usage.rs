//! What the parser of arguments refuses, in the words and formats of every other failure.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Command, Error};

use super::failure::Failure;

/// How the line begins with which clap ends its errors; ours says of which command.
const CLAP_HELP: &str = "For more information, try";

/// A refused command line; `None` where help or the version was asked for.
pub(crate) fn failure(error: &Error, root: &Command, arguments: &[OsString]) -> Option<Failure> {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return None;
    }
    let rendered = error.render().to_string();
    let told = without_help(&rendered).take_while(|line| !line.starts_with("Usage:"));
    let words: Vec<&str> = told.flat_map(str::split_whitespace).skip_while(|word| *word == "error:").collect();
    let names = path(root, arguments).join(" ");
    Some(Failure::usage(words.join(" ")).with_help(format!("`{names} --help` lists what it takes")))
}

/// The same for people: the lines of clap, which show the tip and the usage, and our last one.
pub(crate) fn text(error: &Error, failure: &Failure, colours: bool) -> String {
    let rendered = error.render();
    let rendered = if colours { rendered.ansi().to_string() } else { rendered.to_string() };
    let told = without_help(&rendered).collect::<Vec<_>>().join("\n");
    let help = failure.help.as_deref().map(|help| format!("help: {help}\n")).unwrap_or_default();
    format!("{}\n{help}", told.trim_end())
}

fn without_help(rendered: &str) -> impl Iterator<Item = &str> {
    rendered.lines().filter(|line| !line.starts_with(CLAP_HELP))
}

/// Whether the command line asks for JSON: it could not be parsed, and an answer in another format would help no program.
pub(crate) fn wants_json(arguments: &[OsString]) -> bool {
    let texts: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let is_one = |text: &&str| matches!(*text, "-ojson" | "-o=json" | "--output=json");
    texts.iter().any(is_one) || texts.windows(2).any(|pair| matches!(pair, ["-o" | "--output", "json"]))
}

/// The program and the subcommands that were named, as far as there are such.
fn path(root: &Command, arguments: &[OsString]) -> Vec<String> {
    let mut command = root;
    let mut names = vec![root.get_name().to_owned()];
    for argument in arguments {
        if let Some(next) = argument.to_str().and_then(|name| command.find_subcommand(name)) {
            names.push(next.get_name().to_owned());
            command = next;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use clap::{Arg, value_parser};

    fn command() -> Command {
        let keep = Arg::new("keep").long("keep").value_parser(value_parser!(u32));
        Command::new("redkeep")
            .subcommand(Command::new("prune").arg(keep))
            .subcommand(Command::new("storage").subcommand(Command::new("probe")))
    }

    fn arguments(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[rstest]
    #[case("prune --keep -1", "`redkeep prune --help`", "'-1'")]
    #[case("prune --keep much", "`redkeep prune --help`", "much")]
    #[case("storage probe --deep", "`redkeep storage probe --help`", "--deep")]
    #[case("prun", "`redkeep --help`", "prune")]
    fn what_is_refused_names_what_was_written_and_the_help_of_its_command(
        #[case] line: &str,
        #[case] help: &str,
        #[case] named: &str,
    ) {
        let arguments = arguments(line);
        let words = std::iter::once(OsString::from("redkeep")).chain(arguments.clone());
        let error = command().try_get_matches_from(words).unwrap_err();
        let failure = failure(&error, &command(), &arguments).unwrap();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.help.as_ref().unwrap().starts_with(help), "{failure:?}");
        assert!(failure.message.contains(named) && !failure.message.contains("For more"), "{failure:?}");
        assert!(!failure.message.contains("error:") && !failure.message.contains("Usage"), "{failure:?}");
        let text = text(&error, &failure, false);
        assert!(text.starts_with("error: ") && text.ends_with("lists what it takes\n"), "{text}");
        assert!(!text.contains("For more"), "{text}");
    }

    #[test]
    fn help_and_version_are_no_failures() {
        let error = command().try_get_matches_from(["redkeep", "prune", "--help"]).unwrap_err();
        assert_eq!(failure(&error, &command(), &arguments("prune --help")), None);
    }

    #[rstest]
    #[case("list -o json", true)]
    #[case("list --output=json --deep", true)]
    #[case("-ojson list", true)]
    #[case("list -o text json", false)]
    fn a_format_is_known_before_the_line_is_parsed(#[case] line: &str, #[case] expected: bool) {
        assert_eq!(wants_json(&arguments(line)), expected);
    }
}
