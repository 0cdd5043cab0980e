//! A host over a real directory and a real server, blocking and small; everything else is the SDK's fake.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redkeep_sdk::testing::{FakeHost, MemorySource};
use redkeep_sdk::{
    Artifact, Artifacts, Attribute, Entry, Error, Facts, Files, Host, Level, Redis, Replication, Sink, Source, code,
    resp,
};

use crate::scanner::Scanner;

pub(super) struct RealHost {
    pub(super) fake: FakeHost,
    pub(super) directory: PathBuf,
    pub(super) server: Option<String>,
}

impl RealHost {
    pub(super) fn new(run: &str, context: &[(&str, &str)], parameters: &str) -> Self {
        let fake = FakeHost::with_context(run, context).with_parameters(parameters);
        Self { fake, directory: PathBuf::new(), server: None }
    }

    pub(super) fn in_directory(mut self, directory: &Path) -> Self {
        self.directory = directory.to_owned();
        self
    }

    pub(super) fn at_server(mut self, address: String) -> Self {
        self.server = Some(address);
        self
    }

    /// The same backup for another run.
    pub(super) fn holding(self, backup: &Self, facts: &Facts) -> Self {
        let mut host = self;
        *host.fake.artifacts.borrow_mut() = backup.fake.artifacts.borrow().clone();
        host.fake.facts = facts.clone();
        host
    }

    fn connect(&self) -> Result<TcpStream, Error> {
        let address = self.server.as_ref().ok_or_else(|| Error::new(code::NOT_SUPPORTED, "no server"))?;
        let stream = TcpStream::connect(address).map_err(io)?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(io)?;
        Ok(stream)
    }
}

fn io(error: std::io::Error) -> Error {
    Error::new(code::SOURCE_IO, error.to_string())
}

fn not_found(error: std::io::Error) -> Error {
    let kind = if error.kind() == std::io::ErrorKind::NotFound { code::NOT_FOUND } else { code::SOURCE_IO };
    Error::new(kind, error.to_string())
}

impl Host for RealHost {
    fn log(&self, level: Level, message: &str, fields: &[Attribute]) {
        self.fake.log(level, message, fields);
    }
    fn context(&self) -> Vec<Attribute> {
        self.fake.context()
    }
    fn parameters(&self) -> String {
        self.fake.parameters()
    }
    fn progress(&self, phase: &str, unit: &str, done: u64, total: Option<u64>) -> Result<(), Error> {
        self.fake.progress(phase, unit, done, total)
    }
    fn now_ms(&self) -> u64 {
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
    }
    fn sleep_ms(&self, duration: u32) -> Result<(), Error> {
        std::thread::sleep(Duration::from_millis(u64::from(duration)));
        Ok(())
    }
    fn splice(&self, source: &mut dyn Source, sink: &mut dyn Sink, max: Option<u64>) -> Result<u64, Error> {
        self.fake.splice(source, sink, max)
    }
    fn artifacts(&self) -> &dyn Artifacts {
        self.fake.artifacts()
    }
    fn redis(&self) -> &dyn Redis {
        self
    }
    fn files(&self) -> &dyn Files {
        self
    }
}

/// A file up to the length that it had when it was opened.
struct FileSource {
    file: File,
    position: u64,
    size: u64,
}

impl Source for FileSource {
    fn read(&mut self, max: u32) -> Result<Vec<u8>, Error> {
        let wanted = u64::from(max).min(self.size - self.position);
        let mut bytes = vec![0; usize::try_from(wanted).unwrap()];
        self.file.read_exact(&mut bytes).map_err(io)?;
        self.position += wanted;
        Ok(bytes)
    }
    fn position(&self) -> u64 {
        self.position
    }
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }
}

struct FileSink {
    file: File,
    path: String,
}

impl Sink for FileSink {
    fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.file.write_all(data).map_err(io)
    }
    fn finish(self: Box<Self>, attributes: &[Attribute]) -> Result<Artifact, Error> {
        let size = self.file.metadata().map_err(io)?.len();
        Ok(Artifact { name: self.path, size, sha256: String::new(), attributes: attributes.to_vec() })
    }
}

impl Files for RealHost {
    fn list_directory(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(self.directory.join(path)).map_err(not_found)? {
            let entry = entry.map_err(io)?;
            let Ok(metadata) = entry.metadata() else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(Entry {
                path: if path.is_empty() { name } else { format!("{path}/{name}") },
                size: metadata.len(),
                modified_ms: 0,
                directory: metadata.is_dir(),
                attributes: Vec::new(),
            });
        }
        Ok(entries)
    }
    fn open(&self, path: &str) -> Result<Box<dyn Source>, Error> {
        let file = File::open(self.directory.join(path)).map_err(not_found)?;
        let size = file.metadata().map_err(io)?.len();
        Ok(Box::new(FileSource { file, position: 0, size }))
    }
    fn create(&self, path: &str) -> Result<Box<dyn Sink>, Error> {
        let whole = self.directory.join(path);
        std::fs::create_dir_all(whole.parent().unwrap()).map_err(io)?;
        let file = File::create_new(whole).map_err(io)?;
        Ok(Box::new(FileSink { file, path: path.to_owned() }))
    }
    fn remove(&self, path: &str) -> Result<(), Error> {
        std::fs::remove_file(self.directory.join(path)).map_err(io)
    }
}

fn send(stream: &mut TcpStream, arguments: &[&[u8]]) -> Result<(), Error> {
    let mut bytes = Vec::new();
    resp::command(&mut bytes, arguments);
    stream.write_all(&bytes).map_err(io)
}

/// One reply of a few bytes.
fn receive(stream: &mut TcpStream) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).map_err(io)?;
        assert!(read > 0, "the server closed the connection");
        bytes.extend_from_slice(&chunk[..read]);
        if resp::Reply::parse(&bytes).is_ok() {
            return Ok(bytes);
        }
    }
}

impl Redis for RealHost {
    fn info(&self, section: Option<&str>) -> Result<Vec<Attribute>, Error> {
        let reply = self.command(&[b"INFO", section.unwrap_or("all").as_bytes()])?;
        let reply = resp::Reply::parse(&reply).unwrap();
        let lines = reply.text().unwrap().lines().filter_map(|line| line.split_once(':'));
        Ok(lines.map(|(key, value)| Attribute::new(key, value)).collect())
    }
    fn command(&self, arguments: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let mut stream = self.connect()?;
        send(&mut stream, arguments)?;
        receive(&mut stream)
    }
    fn pipeline(&self, _commands: &[Vec<Vec<u8>>]) -> Result<Box<dyn Source>, Error> {
        Err(Error::new(code::NOT_SUPPORTED, "not needed here"))
    }
    fn replicate(&self, _snapshot_only: bool) -> Result<Box<dyn Replication>, Error> {
        let mut stream = self.connect()?;
        send(&mut stream, &[b"REPLCONF", b"listening-port", b"65536", b"capa", b"eof", b"capa", b"psync2"])?;
        receive(&mut stream)?;
        send(&mut stream, &[b"PSYNC", b"?", b"-1"])?;
        let mut link = Link {
            stream,
            buffer: Vec::new(),
            id: String::new(),
            start: 0,
            offset: 0,
            snapshot: None,
            acknowledged: Instant::now(),
        };
        let answer = link.line()?;
        let mut words = answer.split_whitespace();
        assert_eq!(words.next(), Some("+FULLRESYNC"), "{answer}");
        words.next().unwrap().clone_into(&mut link.id);
        link.start = words.next().unwrap().parse().unwrap();
        link.offset = link.start;
        link.read_snapshot()?;
        Ok(Box::new(link))
    }
    fn resume(&self, _id: &str, _offset: u64) -> Result<Box<dyn Replication>, Error> {
        Err(Error::new(code::NOT_SUPPORTED, "not needed here"))
    }
    fn load(&self, _options: &[Attribute]) -> Result<Box<dyn Sink>, Error> {
        Ok(Box::new(Loader { stream: self.connect()?, scanner: Scanner::default(), commands: 0, size: 0 }))
    }
}

/// Sends everything, and reads as many replies as there were commands.
struct Loader {
    stream: TcpStream,
    scanner: Scanner,
    commands: u64,
    size: u64,
}

impl Sink for Loader {
    fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        let commands = &mut self.commands;
        self.scanner.push(data, |_, _| *commands += 1).unwrap();
        self.size += data.len() as u64;
        self.stream.write_all(data).map_err(io)
    }
    fn finish(mut self: Box<Self>, _attributes: &[Attribute]) -> Result<Artifact, Error> {
        self.scanner.finish().unwrap();
        send(&mut self.stream, &[b"ECHO", b"end-of-load"])?;
        let mut replies = Vec::new();
        while !replies.ends_with(b"end-of-load\r\n") {
            let mut chunk = vec![0; 65536];
            let read = self.stream.read(&mut chunk).map_err(io)?;
            assert!(read > 0, "the server closed the connection");
            replies.extend_from_slice(&chunk[..read]);
        }
        let text = String::from_utf8_lossy(&replies);
        // A line of a binary value may begin with "-" too: an error has a word in capitals there.
        let is_error = |line: &&str| {
            let word = line.strip_prefix('-').and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase())
        };
        if let Some(error) = text.lines().find(is_error) {
            return Err(Error::new(code::SERVER_REPLY, error));
        }
        let attributes = vec![Attribute::new("commands", self.commands)];
        Ok(Artifact { name: "load".to_owned(), size: self.size, sha256: String::new(), attributes })
    }
}

/// A replication link that keeps what it is sent, PINGs included: a server loads them.
struct Link {
    stream: TcpStream,
    buffer: Vec<u8>,
    id: String,
    start: u64,
    offset: u64,
    snapshot: Option<Vec<u8>>,
    acknowledged: Instant,
}

impl Link {
    fn more(&mut self) -> Result<(), Error> {
        let mut chunk = vec![0; 65536];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(Error::new(code::SOURCE_IO, "the link was closed")),
            Ok(read) => {
                self.buffer.extend_from_slice(&chunk[..read]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                Ok(())
            }
            Err(error) => Err(io(error)),
        }
    }

    /// The next line that is not empty.
    fn line(&mut self) -> Result<String, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = String::from_utf8(line).unwrap().trim().to_owned();
                if !line.is_empty() {
                    return Ok(line);
                }
                continue;
            }
            self.more()?;
        }
    }

    fn read_snapshot(&mut self) -> Result<(), Error> {
        let line = self.line()?;
        let length = if let Some(mark) = line.strip_prefix("$EOF:") {
            let mark = mark.as_bytes().to_vec();
            loop {
                if let Some(end) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                    self.snapshot = Some(self.buffer.drain(..end).collect());
                    self.buffer.drain(..mark.len());
                    return self.acknowledge();
                }
                self.more()?;
            }
        } else {
            line.strip_prefix('$').unwrap().parse::<usize>().unwrap()
        };
        while self.buffer.len() < length {
            self.more()?;
        }
        self.snapshot = Some(self.buffer.drain(..length).collect());
        self.acknowledge()
    }

    fn acknowledge(&mut self) -> Result<(), Error> {
        self.acknowledged = Instant::now();
        send(&mut self.stream, &[b"REPLCONF", b"ACK", b"0"])
    }
}

impl Replication for Link {
    fn id(&self) -> String {
        self.id.clone()
    }
    fn start_offset(&self) -> u64 {
        self.start
    }
    fn snapshot(&mut self) -> Result<Box<dyn Source>, Error> {
        Ok(Box::new(MemorySource::new(self.snapshot.take().unwrap())))
    }
    fn commands(&mut self, until: Option<u64>, within_ms: Option<u32>) -> Result<Box<dyn Source>, Error> {
        self.stream.set_read_timeout(Some(Duration::from_millis(20))).map_err(io)?;
        let deadline = Instant::now() + Duration::from_millis(u64::from(within_ms.unwrap_or(1000)));
        loop {
            let mut scanner = Scanner::default();
            let mut end = 0;
            scanner
                .push(&self.buffer, |scanner, _| {
                    let reached = until.is_some_and(|until| self.offset + end >= until);
                    if !reached {
                        end = scanner.safe_position();
                    }
                })
                .unwrap();
            let reached = until.is_some_and(|until| self.offset + end >= until);
            if reached || Instant::now() >= deadline {
                let bytes: Vec<u8> = self.buffer.drain(..usize::try_from(end).unwrap()).collect();
                self.offset += end;
                return Ok(Box::new(MemorySource::new(bytes)));
            }
            if self.acknowledged.elapsed() > Duration::from_millis(500) {
                self.acknowledge()?;
            }
            self.more()?;
        }
    }
    fn offset(&self) -> u64 {
        self.offset
    }
}
