//! The archive `appendonly.aof.tar`: a plain ustar file of one folder, manifest first, then the files in the order of loading.
//!
//! Headers are the `tar` crate's; bodies are streamed here, for the crate wants `io::Read` over the whole archive. Links, devices
//! and names that leave the folder are damage.

use redkeep_sdk::{Error, Sink};

use crate::reader::Reader;

/// The artifact.
pub(crate) const ARTIFACT: &str = "appendonly.aof.tar";
/// Its type.
pub(crate) const KIND: &str = "aof-archive";
/// Bytes of a block, and of a header.
const BLOCK: usize = 512;

/// Bytes that fill an entry's last block.
fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// Writes the header of a regular file. `path` has at most 100 bytes, or 255 with a `/` at the right place (ustar).
pub(crate) fn begin(sink: &mut dyn Sink, path: &str, size: u64, modified_seconds: u64) -> Result<(), Error> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path).map_err(|error| {
        Error::refused(format!("failed to archive {path}: {error}"), "use a shorter appendfilename or appenddirname")
    })?;
    header.set_size(size);
    header.set_mode(0o640);
    header.set_mtime(modified_seconds);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    sink.write(header.as_bytes())
}

/// Fills the last block of an entry of `size` bytes.
pub(crate) fn end(sink: &mut dyn Sink, size: u64) -> Result<(), Error> {
    let zeros = [0; BLOCK];
    sink.write(zeros.get(..usize::try_from(padding(size)).unwrap_or(0)).unwrap_or_default())
}

/// Ends the archive.
pub(crate) fn finish(sink: &mut dyn Sink) -> Result<(), Error> {
    sink.write(&[0; 2 * BLOCK])
}

/// An entry: a file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArchiveEntry {
    /// The file's name, without its folder.
    pub(crate) name: String,
    /// Its bytes.
    pub(crate) size: u64,
}

/// Reads an archive entry by entry.
pub(crate) struct ArchiveReader {
    reader: Reader,
    folder: Option<String>,
    /// Bytes of the present entry not read yet, and those that fill its block.
    left: u64,
    padding: u64,
}

impl ArchiveReader {
    /// From the archive's first byte.
    pub(crate) fn new(reader: Reader) -> Self {
        Self { reader, folder: None, left: 0, padding: 0 }
    }

    /// The next file; what is left of the present one is skipped. `None` at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<ArchiveEntry>, Error> {
        let mut skip = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        while skip > 0 {
            let skipped = self.reader.chunk(skip)?.len() as u64;
            if skipped == 0 {
                return Err(self.fault("the archive is cut short"));
            }
            skip -= skipped;
        }
        loop {
            let mut block = [0; BLOCK];
            if self.reader.fill(&mut block)? < block.len() {
                return Err(self.fault("the archive is cut short"));
            }
            if block.iter().all(|&byte| byte == 0) {
                return self.end_of_archive();
            }
            let header = tar::Header::from_byte_slice(&block);
            let stored = header.cksum().map_err(|_| self.fault("a header without a checksum"))?;
            if stored != checksum(&block) {
                return Err(self.fault("a header whose checksum does not hold"));
            }
            let path = header.path_bytes();
            let path = std::str::from_utf8(&path).map_err(|_| self.fault("a name that is not UTF-8"))?.to_owned();
            let size = header.entry_size().map_err(|_| self.fault("a header without a size"))?;
            match header.entry_type() {
                tar::EntryType::Directory if size == 0 => continue,
                tar::EntryType::Regular => {}
                _ => return Err(self.fault(&format!("{path} is not a plain file"))),
            }
            if size > u64::MAX / 2 {
                return Err(self.fault(&format!("{path} has an impossible size")));
            }
            let name = self.name_in_folder(&path)?;
            (self.left, self.padding) = (size, padding(size));
            return Ok(Some(ArchiveEntry { name, size }));
        }
    }

    /// The next bytes of the present entry, empty at its end.
    pub(crate) fn chunk(&mut self) -> Result<&[u8], Error> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let chunk = self.reader.chunk(self.left)?;
        if chunk.is_empty() {
            return Err(Error::damaged("the archive is cut short"));
        }
        self.left -= chunk.len() as u64;
        Ok(chunk)
    }

    /// The whole present entry; an error above `maximum` bytes.
    pub(crate) fn whole(&mut self, entry: &ArchiveEntry, maximum: usize) -> Result<Vec<u8>, Error> {
        if entry.size > maximum as u64 {
            return Err(self.fault(&format!("{} has more than {maximum} bytes", entry.name)));
        }
        let mut bytes = Vec::new();
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(bytes);
            }
            bytes.extend_from_slice(chunk);
        }
    }

    /// All entries lie in one folder, whose name does not matter.
    fn name_in_folder(&mut self, path: &str) -> Result<String, Error> {
        let plain = path.strip_prefix("./").unwrap_or(path);
        let parts: Vec<&str> = plain.split('/').collect();
        let [folder, name] = parts.as_slice() else {
            return Err(self.fault(&format!("{path} lies in no folder, or too deep")));
        };
        if [*folder, *name].iter().any(|part| part.is_empty() || *part == "." || *part == "..") {
            return Err(self.fault(&format!("{path} is not a plain name")));
        }
        match &self.folder {
            Some(first) if first != folder => Err(self.fault(&format!("{path} lies in another folder than {first}"))),
            Some(_) => Ok((*name).to_owned()),
            None => {
                self.folder = Some((*folder).to_owned());
                Ok((*name).to_owned())
            }
        }
    }

    /// After the first empty block only empty bytes may come.
    fn end_of_archive(&mut self) -> Result<Option<ArchiveEntry>, Error> {
        let mut zeros = 0;
        loop {
            let chunk = self.reader.chunk(u64::MAX)?;
            if chunk.is_empty() {
                break;
            }
            if chunk.iter().any(|&byte| byte != 0) {
                return Err(self.fault("bytes after the end of the archive"));
            }
            zeros += chunk.len() as u64;
        }
        if zeros < BLOCK as u64 {
            return Err(self.fault("the archive is cut short"));
        }
        Ok(None)
    }

    fn fault(&self, problem: &str) -> Error {
        Error::damaged(format!("{problem} (before byte {} of {ARTIFACT})", self.reader.position()))
    }
}

/// The sum of a header's bytes, its own checksum taken as blanks.
fn checksum(block: &[u8]) -> u32 {
    let own = 148..156;
    block.iter().enumerate().map(|(index, &byte)| u32::from(if own.contains(&index) { b' ' } else { byte })).sum()
}
