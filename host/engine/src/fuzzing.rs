//! For the fuzz target `stored` (`tests/fuzz`): what else than a manifest is read from a storage, by its bytes alone. Each reads,
//! and writes what it read; `None` where it refuses.

use crate::pipeline::{read_part_table, write_part_table};
use crate::{index, parts};

/// A part table of which the manifest says that it has `count` parts of `stored_size` bytes together.
pub fn part_table(bytes: &[u8], count: u64, stored_size: u64) -> Option<Vec<u8>> {
    read_part_table("artifact", bytes, count, stored_size).ok().map(|parts| write_part_table(&parts))
}

/// The lines of an index, behind a head that is right.
pub fn index_lines(body: &[u8]) -> Option<Vec<u8>> {
    let lines = index::decode(&index::with_head(body.to_vec()))?;
    let written = index::encode(&lines.iter().collect::<Vec<_>>());
    written.splitn(2, |byte| *byte == b'\n').nth(1).map(<[u8]>::to_vec)
}

/// What is known of a shard that was captured by a task of its own.
pub fn captured_part(bytes: &[u8]) -> Option<Vec<u8>> {
    let part: parts::Part = serde_json::from_slice(bytes).ok()?;
    serde_json::to_vec(&part).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the byte that chooses what it is.
    fn seed(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/stored");
        std::fs::read(std::path::Path::new(folder).join(name)).unwrap().split_off(1)
    }

    #[test]
    fn the_corpus_begins_with_what_is_read() {
        let table = seed("part-table");
        assert_eq!(part_table(&table, 2, 15), Some(table.clone()));
        assert_eq!((part_table(&table, 3, 15), part_table(&table, 2, 14)), (None, None));
        assert_eq!(part_table(&seed("part-table-newer"), 0, 0), None);
        // The line between the two sound ones is none.
        let lines = index_lines(&seed("index")).unwrap();
        assert_eq!(lines.split_inclusive(|byte| *byte == b'\n').count(), 2);
        assert_eq!(index_lines(&lines), Some(lines));
        let part = captured_part(&seed("part")).unwrap();
        assert_eq!(captured_part(&part), Some(part));
    }
}
