//! The manifest of a multi-part append-only file: which base and which increments, in which order.
//!
//! Rules from `aofLoadManifestFromFile` of Redis 7: lines of key and value, `#` comments, names perhaps quoted, unknown keys
//! skipped, the last line ended. It decides nothing about files.

use std::fmt;

/// A manifest of a real server has three lines; this many files is damage.
const MAXIMUM_FILES: usize = 10_000;
/// `MANIFEST_MAX_LINE` of Redis.
const MAXIMUM_LINE: usize = 1024;
/// No larger text is a manifest.
pub(crate) const MAXIMUM_BYTES: usize = MAXIMUM_FILES * 256;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The snapshot that the rest follows, `b`.
    Base,
    /// Commands, `i`.
    Increment,
    /// Left over from before the last rewrite, `h`; not loaded.
    History,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ManifestFile {
    /// The file's name, without a folder.
    pub(crate) name: String,
    /// Its sequence number.
    pub(crate) sequence: u64,
    /// What it is.
    pub(crate) kind: Kind,
}

/// A whole manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// In the order of the text.
    pub(crate) files: Vec<ManifestFile>,
}

/// Why a text is no manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ManifestError {
    /// Line, from 1.
    pub(crate) line: usize,
    /// What is wrong with it.
    pub(crate) problem: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} in line {} of the manifest", self.problem, self.line)
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// Reads a manifest as the server would.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let fault = |line: usize, problem: &str| ManifestError { line, problem: problem.to_owned() };
        let text = std::str::from_utf8(text).map_err(|_| fault(1, "bytes that are not UTF-8"))?;
        if text.is_empty() {
            return Err(fault(1, "nothing"));
        }
        if !text.ends_with('\n') {
            return Err(fault(text.lines().count(), "no final newline"));
        }
        let mut manifest = Self::default();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if line.starts_with('#') {
                continue;
            }
            if line.len() > MAXIMUM_LINE {
                return Err(fault(number, "a line that is too long"));
            }
            if manifest.files.len() == MAXIMUM_FILES {
                return Err(fault(number, "too many files"));
            }
            let file = parse_line(line).map_err(|problem| fault(number, &problem))?;
            match file.kind {
                Kind::Base if manifest.base().is_some() => return Err(fault(number, "a second base")),
                Kind::Increment if manifest.increments().last().is_some_and(|last| last.sequence >= file.sequence) => {
                    return Err(fault(number, "an increment out of order"));
                }
                _ => {}
            }
            if manifest.files.iter().any(|other| other.name == file.name) {
                return Err(fault(number, "a name that was used before"));
            }
            manifest.files.push(file);
        }
        Ok(manifest)
    }

    /// The text of a manifest, its last line ended (without it the server refuses to start).
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for file in &self.files {
            let kind = match file.kind {
                Kind::Base => "b",
                Kind::Increment => "i",
                Kind::History => "h",
            };
            text.extend(["file ", &quoted(&file.name), " seq ", &file.sequence.to_string(), " type ", kind, "\n"]);
        }
        text
    }

    /// The snapshot; a server that started with `appendonly yes` on nothing may have none yet.
    pub(crate) fn base(&self) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.kind == Kind::Base)
    }

    /// The commands, oldest first.
    pub(crate) fn increments(&self) -> impl Iterator<Item = &ManifestFile> {
        self.files.iter().filter(|file| file.kind == Kind::Increment)
    }

    /// Everything that a server loads, in its order.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = &ManifestFile> {
        self.base().into_iter().chain(self.increments())
    }
}

fn parse_line(line: &str) -> Result<ManifestFile, String> {
    let words = split_words(line)?;
    if words.len() < 6 || !words.len().is_multiple_of(2) {
        return Err("a line that is not made of pairs".to_owned());
    }
    let (mut name, mut sequence, mut kind) = (None, None, None);
    for pair in words.chunks_exact(2) {
        let [key, value] = pair else { continue };
        match key.to_ascii_lowercase().as_str() {
            "file" => name = Some(value.clone()),
            "seq" => sequence = Some(value.parse::<u64>().map_err(|_| format!("a sequence number {value:?}"))?),
            "type" => {
                kind = Some(match value.as_str() {
                    "b" => Kind::Base,
                    "i" => Kind::Increment,
                    "h" => Kind::History,
                    other => return Err(format!("an unknown type {other:?}")),
                });
            }
            _ => {}
        }
    }
    let name = name.ok_or("a line without a file name")?;
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
        return Err(format!("a file name {name:?} that is not one"));
    }
    match (sequence, kind) {
        (Some(sequence), Some(kind)) if sequence > 0 => Ok(ManifestFile { name, sequence, kind }),
        _ => Err("a line without sequence or type".to_owned()),
    }
}

/// Splits like `sdssplitargs`: blanks, and "…" with escapes.
fn split_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut characters = line.trim_end_matches('\r').chars().peekable();
    loop {
        while characters.next_if(char::is_ascii_whitespace).is_some() {}
        let Some(&first) = characters.peek() else { return Ok(words) };
        let mut word = String::new();
        if first == '"' {
            characters.next();
            loop {
                match characters.next() {
                    Some('"') => break,
                    Some('\\') => match characters.next() {
                        Some('"') => word.push('"'),
                        Some('\\') => word.push('\\'),
                        _ => return Err("an escape that is not supported".to_owned()),
                    },
                    Some(character) => word.push(character),
                    None => return Err("a quote without an end".to_owned()),
                }
            }
            if characters.peek().is_some_and(|c| !c.is_ascii_whitespace()) {
                return Err("bytes after a quote".to_owned());
            }
        } else {
            while let Some(character) = characters.next_if(|c| !c.is_ascii_whitespace()) {
                word.push(character);
            }
        }
        words.push(word);
    }
}

/// As `sdscatrepr` writes names with blanks or quotes in them.
fn quoted(name: &str) -> String {
    if name.contains([' ', '"', '\\']) {
        format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_manifest_of_a_real_server_is_read() {
        let text = b"file appendonly.aof.2.base.rdb seq 2 type b\nfile appendonly.aof.1.incr.aof seq 1 type h\n\
            file appendonly.aof.2.incr.aof seq 2 type i startoffset 17\nfile appendonly.aof.3.incr.aof seq 3 type i\n";
        let manifest = Manifest::parse(text).unwrap();
        let names: Vec<&str> = manifest.loaded().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["appendonly.aof.2.base.rdb", "appendonly.aof.2.incr.aof", "appendonly.aof.3.incr.aof"]);
    }

    #[rstest]
    #[case::empty("", "nothing in line 1")]
    #[case::no_newline("file a seq 1 type b", "no final newline in line 1")]
    #[case::empty_line("file a seq 1 type b\n\n", "not made of pairs in line 2")]
    #[case::two_bases("file a seq 1 type b\nfile b seq 2 type b\n", "a second base in line 2")]
    #[case::order("file a seq 2 type i\nfile b seq 2 type i\n", "an increment out of order in line 2")]
    #[case::twice("file a seq 1 type i\nfile a seq 2 type i\n", "a name that was used before in line 2")]
    #[case::escape("file ../a seq 1 type b\n", "file name \"../a\" that is not one")]
    #[case::kind("file a seq 1 type x\n", "an unknown type \"x\"")]
    #[case::sequence("file a seq -1 type b\n", "a sequence number \"-1\"")]
    #[case::zero("file a seq 0 type b\n", "without sequence or type")]
    #[case::quote("file \"a seq 1 type b\n", "a quote without an end")]
    fn what_the_server_refuses_is_refused(#[case] text: &str, #[case] message: &str) {
        let error = Manifest::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn quoted_names_and_comments_are_understood() {
        let manifest = Manifest::parse(b"# hello\nfile \"my \\\"db\\\".1.base.rdb\" seq 1 type b\n").unwrap();
        assert_eq!(manifest.base().unwrap().name, "my \"db\".1.base.rdb");
        assert_eq!(Manifest::parse(manifest.text().as_bytes()).unwrap(), manifest);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(sequences in proptest::collection::btree_set(1_u64.., 0..6), name in "[a-z \".]{1,12}x") {
            let mut files = vec![ManifestFile { name: format!("{name}.base"), sequence: 1, kind: Kind::Base }];
            files.extend(sequences.into_iter().map(|sequence| ManifestFile {
                name: format!("{name}.{sequence}"), sequence, kind: Kind::Increment,
            }));
            let manifest = Manifest { files };
            prop_assert_eq!(Manifest::parse(manifest.text().as_bytes()).unwrap(), manifest);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse(&bytes);
        }
    }
}
