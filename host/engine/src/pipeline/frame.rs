//! Compression in independent frames: zstd frames or gzip members, each of which opens on its own, and which ordinary tools
//! read one after the other as a single file.

use std::io::{self, BufRead, Read, Write as _};
use std::sync::{Mutex, PoisonError};

use redkeep_core::encoding::Compression;

/// Plain bytes of one zstd frame. Level 1 looks back 512 KiB, so that this costs no ratio, and a frame with its
/// context stays small: several are in flight.
const ZSTD_FRAME: usize = 2 << 20;
/// The same for levels whose tables grow with the frame (18 MiB at 1 MiB of frame, twice that at 2 MiB).
const ZSTD_FRAME_SLOW: usize = 1 << 20;
/// From this level on tables are that large.
const ZSTD_SLOW_LEVEL: u8 = 13;
/// Plain bytes of one gzip member; deflate looks back 32 KiB.
const GZIP_MEMBER: usize = 1 << 20;
/// Largest zstd window that is accepted when reading, log2: 16 MiB, eight times what is ever written.
pub(crate) const ZSTD_WINDOW_LIMIT: u32 = 24;

/// Plain bytes of one frame.
pub(crate) fn frame_size(compression: Compression) -> usize {
    match compression {
        Compression::None => redkeep_core::stream::CHUNK,
        Compression::Gzip(_) => GZIP_MEMBER,
        Compression::Zstd(level) if level >= ZSTD_SLOW_LEVEL => ZSTD_FRAME_SLOW,
        Compression::Zstd(_) => ZSTD_FRAME,
    }
}

/// How many frames may be in the queue of those being compressed; one more is awaited at its head.
pub(crate) fn workers(compression: Compression) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    match compression {
        Compression::None => 1,
        // With the one being awaited that makes two; a third would be 18 MiB more.
        Compression::Zstd(level) if level >= ZSTD_SLOW_LEVEL => 1,
        _ => cores.clamp(2, 4),
    }
}

/// Compresses frames; shared by the workers of one artifact, which lend one another their contexts.
pub(crate) struct Compressor {
    compression: Compression,
    contexts: Mutex<Vec<zstd::bulk::Compressor<'static>>>,
}

impl Compressor {
    pub(crate) fn new(compression: Compression) -> Self {
        Self { compression, contexts: Mutex::new(Vec::new()) }
    }

    /// One frame, with its content size in it.
    pub(crate) fn compress(&self, plain: &[u8]) -> io::Result<Vec<u8>> {
        match self.compression {
            Compression::None => Ok(plain.to_vec()),
            Compression::Gzip(level) => {
                let capacity = plain.len() / 2 + 64;
                let level = flate2::Compression::new(u32::from(level));
                let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(capacity), level);
                encoder.write_all(plain)?;
                encoder.finish()
            }
            Compression::Zstd(level) => {
                let lent = self.contexts.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut context = if let Some(context) = lent {
                    context
                } else {
                    let mut context = zstd::bulk::Compressor::new(i32::from(level))?;
                    context.include_checksum(true)?;
                    context
                };
                let compressed = context.compress(plain)?;
                self.contexts.lock().unwrap_or_else(PoisonError::into_inner).push(context);
                Ok(compressed)
            }
        }
    }
}

/// A reader of the plain bytes behind gzip members, one after the other, to the end of the input.
pub(crate) fn gunzip(stored: impl BufRead) -> impl Read {
    flate2::bufread::MultiGzDecoder::new(stored)
}
