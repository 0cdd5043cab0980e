//! The artifact `znodes.zktree`: see README.md for its format. Written and read as a stream, one znode in memory.

use redkeep_sdk::{Artifact, Attribute, CHUNK, Error, Facts, Host, Progress, Sink, Source, code};

use crate::jute::{Frames, JuteError, Reader, Writer, frame};
use crate::protocol::MAX_FRAME;
use crate::znode::{Acl, Stat, Znode, is_path};

/// The artifact's type, which restores and other tools know it by.
pub(crate) const TYPE: &str = "zookeeper-tree";
pub(crate) const NAME: &str = "znodes.zktree";
const MAGIC: &[u8; 8] = b"ZKTREE01";
const ZNODE: u8 = 1;
const END: u8 = 2;
/// A znode's frame: data and path and list, each of which came in a frame.
const MAX_RECORD: usize = 3 * MAX_FRAME;

/// What a tree holds, counted on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) znodes: u64,
    pub(crate) ephemerals: u64,
    pub(crate) data_bytes: u64,
    /// Between these two transactions the tree was read.
    pub(crate) first_zxid: i64,
    pub(crate) last_zxid: i64,
}

impl Counts {
    pub(crate) fn add(&mut self, znode: &Znode) {
        self.znodes += 1;
        self.data_bytes += znode.data.as_ref().map_or(0, Vec::len) as u64;
        self.ephemerals += u64::from(znode.stat.is_ephemeral());
    }

    pub(crate) fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        facts.set("znodes", self.znodes).set("ephemerals", self.ephemerals);
        facts.set("data-bytes", self.data_bytes);
        facts.set("first-zxid", format!("0x{:x}", self.first_zxid));
        facts.set("last-zxid", format!("0x{:x}", self.last_zxid));
        facts
    }
}

fn write_znode(znode: &Znode, writer: &mut Writer) {
    writer.byte(ZNODE).string(&znode.path);
    znode.stat.write(writer);
    Acl::write_list(&znode.acl, writer);
    writer.buffer(znode.data.as_deref());
}

fn read_znode(reader: &mut Reader<'_>) -> Result<Znode, JuteError> {
    let path = reader.string()?.to_owned();
    if !is_path(&path) {
        return Err(JuteError("a path is none"));
    }
    let stat = Stat::read(reader)?;
    let acl = Acl::read_list(reader)?;
    let data = reader.buffer()?.map(<[u8]>::to_vec);
    Ok(Znode { path, stat, acl, data })
}

/// Writes a tree, parents before their children.
pub(crate) struct TreeWriter {
    sink: Box<dyn Sink>,
    buffer: Vec<u8>,
    counts: Counts,
}

impl TreeWriter {
    pub(crate) fn create(host: &dyn Host) -> Result<Self, Error> {
        let sink = host.artifacts().create(NAME, &[Attribute::new("type", TYPE)])?;
        Ok(Self { sink, buffer: MAGIC.to_vec(), counts: Counts::default() })
    }

    pub(crate) fn counts(&mut self) -> &mut Counts {
        &mut self.counts
    }

    /// Returns how many bytes it took.
    pub(crate) fn push(&mut self, znode: &Znode) -> Result<usize, Error> {
        self.counts.add(znode);
        let before = self.buffer.len();
        frame(&mut self.buffer, |writer| write_znode(znode, writer));
        let taken = self.buffer.len() - before;
        if self.buffer.len() >= CHUNK as usize {
            self.flush()?;
        }
        Ok(taken)
    }

    pub(crate) fn finish(mut self) -> Result<Facts, Error> {
        let Counts { znodes, data_bytes, first_zxid, last_zxid, .. } = self.counts;
        frame(&mut self.buffer, |writer| {
            writer.byte(END).long(znodes.cast_signed()).long(data_bytes.cast_signed());
            writer.long(first_zxid).long(last_zxid);
        });
        self.flush()?;
        self.sink.finish(&[])?;
        Ok(self.counts.facts())
    }

    fn flush(&mut self) -> Result<(), Error> {
        for part in self.buffer.chunks(CHUNK as usize) {
            self.sink.write(part)?;
        }
        self.buffer.clear();
        Ok(())
    }
}

/// Reads a tree from bytes in any chunking.
struct TreeParser {
    frames: Frames,
    head: Vec<u8>,
    counts: Counts,
    ended: bool,
}

impl TreeParser {
    fn new() -> Self {
        Self { frames: Frames::new(MAX_RECORD), head: Vec::new(), counts: Counts::default(), ended: false }
    }

    fn push(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(Znode) -> Result<(), Error>) -> Result<(), Error> {
        if self.head.len() < MAGIC.len() {
            let (head, rest) = bytes.split_at(bytes.len().min(MAGIC.len() - self.head.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            if !MAGIC.starts_with(&self.head) {
                return Err(damaged("it does not begin as a tree of znodes does"));
            }
        }
        self.frames.push(bytes);
        while let Some(frame) = self.frames.next_frame().map_err(|error| damaged(error.0))? {
            if self.ended {
                return Err(damaged("something follows its end"));
            }
            let mut reader = Reader(frame);
            match Self::read(&mut reader, &mut self.counts).map_err(|error| damaged(error.0))? {
                Some(znode) => {
                    self.counts.add(&znode);
                    each(znode)?;
                }
                None => self.ended = true,
            }
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'_>, counts: &mut Counts) -> Result<Option<Znode>, JuteError> {
        let read = match reader.byte()? {
            ZNODE => Some(read_znode(reader)?),
            END => {
                let told = (reader.long()?.cast_unsigned(), reader.long()?.cast_unsigned());
                if told != (counts.znodes, counts.data_bytes) {
                    return Err(JuteError("its end counts other znodes than it holds"));
                }
                counts.first_zxid = reader.long()?;
                counts.last_zxid = reader.long()?;
                None
            }
            _ => return Err(JuteError("a record is of no known kind")),
        };
        reader.end()?;
        Ok(read)
    }

    fn finish(self) -> Result<Counts, Error> {
        if self.ended && self.frames.is_empty() { Ok(self.counts) } else { Err(damaged("it is cut short")) }
    }
}

fn damaged(why: &str) -> Error {
    Error::damaged(format!("{NAME}: {why}"))
}

fn find(host: &dyn Host) -> Result<Artifact, Error> {
    let found = host.artifacts().list()?.into_iter().find(|artifact| artifact.kind() == TYPE);
    found.ok_or_else(|| Error::new(code::NOT_FOUND, format!("the backup has no artifact of type {TYPE}")))
}

/// Reads the whole tree of this backup.
pub(crate) fn read(
    host: &dyn Host,
    phase: &'static str,
    mut each: impl FnMut(Znode) -> Result<(), Error>,
) -> Result<Counts, Error> {
    let artifact = find(host)?;
    let mut source: Box<dyn Source> = host.artifacts().open(&artifact.name)?;
    let mut progress = Progress::new(host, phase, Some(artifact.size));
    let mut parser = TreeParser::new();
    loop {
        let bytes = source.read(CHUNK)?;
        if bytes.is_empty() {
            break;
        }
        parser.push(&bytes, &mut each)?;
        progress.advance(bytes.len(), parser.counts.znodes)?;
    }
    let counts = parser.finish()?;
    progress.tell(counts.znodes)?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redkeep_sdk::testing::FakeHost;

    use super::*;

    fn znodes() -> impl Strategy<Value = Vec<Znode>> {
        let acl =
            (0i32..32, "[a-z]{1,8}", ".{0,20}").prop_map(|(permissions, scheme, id)| Acl { permissions, scheme, id });
        let znode = (
            "(/[a-z.]{3,5}){1,4}",
            any::<i64>(),
            any::<i32>(),
            prop::collection::vec(acl, 0..3),
            any::<Option<Vec<u8>>>(),
        )
            .prop_map(|(path, number, version, acl, data)| Znode {
                path,
                stat: Stat { czxid: number, ephemeral_owner: number, version, ..Stat::default() },
                acl,
                data,
            })
            .prop_filter("a path", |znode| is_path(&znode.path));
        prop::collection::vec(znode, 0..20)
    }

    fn written(znodes: &[Znode]) -> (Vec<u8>, Facts) {
        let host = FakeHost::default();
        let mut writer = TreeWriter::create(&host).unwrap();
        writer.counts().last_zxid = 17;
        for znode in znodes {
            writer.push(znode).unwrap();
        }
        let facts = writer.finish().unwrap();
        (host.artifact(NAME).unwrap(), facts)
    }

    fn parsed(bytes: &[u8], chunk: usize) -> Result<(Vec<Znode>, Facts), Error> {
        let (mut parser, mut znodes) = (TreeParser::new(), Vec::new());
        for part in bytes.chunks(chunk) {
            parser.push(part, &mut |znode| {
                znodes.push(znode);
                Ok(())
            })?;
        }
        Ok((znodes, parser.finish()?.facts()))
    }

    proptest! {
        #[test]
        fn a_tree_comes_back_in_any_chunking(znodes in znodes(), chunk in 1usize..200) {
            let (bytes, facts) = written(&znodes);
            prop_assert_eq!(parsed(&bytes, chunk).unwrap(), (znodes, facts));
        }

        #[test]
        fn a_tree_cut_short_is_damaged(znodes in znodes(), at in any::<prop::sample::Index>()) {
            let (bytes, _) = written(&znodes);
            let error = parsed(&bytes[..at.index(bytes.len())], 64).unwrap_err();
            prop_assert_eq!(error.code, code::DAMAGED);
        }

        #[test]
        fn a_flipped_byte_never_panics(znodes in znodes(), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let (mut bytes, _) = written(&znodes);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let _ = parsed(&bytes, 64);
        }
    }

    #[test]
    fn what_is_no_tree_or_goes_on_after_its_end_is_damaged() {
        let (mut bytes, _) = written(&[]);
        bytes.extend_from_slice(&[0, 0, 0, 1, ZNODE]);
        for bytes in [&bytes[..], b"REDIS0011", b""] {
            assert_eq!(parsed(bytes, 3).unwrap_err().code, code::DAMAGED);
        }
    }
}
