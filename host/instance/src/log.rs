//! Redis' own log, line by line to standard output: without what a replica of nobody says every second, and with its last
//! lines kept for the message that explains an end.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use crate::state::NOBODY;

/// Lines that are kept.
const KEPT: usize = 8;
/// A line longer than this is passed on in pieces.
const LONGEST: u64 = 16 << 10;

/// The last lines of one start of Redis.
#[derive(Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// In one line.
    pub(crate) fn joined(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }
}

/// Passes a log on until it ends, from a thread of its own: whoever reads our output may be slow.
pub(crate) fn pass_on(from: impl Read + Send + 'static, tail: Tail) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut noise = Noise::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(LONGEST).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            if noise.covers(text) {
                continue;
            }
            if !text.is_empty() {
                tail.push(text.chars().take(400).collect());
            }
            // Nobody may be reading; Redis must go on all the same.
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(format!("redis: {text}\n").as_bytes());
            let _ = out.flush();
        }
    });
}

/// Knows what a replica of nobody says.
#[derive(Default)]
struct Noise {
    connecting: bool,
}

impl Noise {
    fn covers(&mut self, line: &str) -> bool {
        if line.contains("Connecting to ") {
            self.connecting = line.ends_with(&format!(" {}:{}", NOBODY.0, NOBODY.1));
            return self.connecting;
        }
        self.connecting && (line.contains("REPLICA sync started") || line.ends_with("Connection refused"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attempts_to_reach_nobody_are_left_out() {
        let mut noise = Noise::default();
        let mut covers = |line| noise.covers(line);
        assert!(covers("9:S 1 Nov 2026 * Connecting to MASTER 127.0.0.1:1"));
        assert!(covers("9:S 1 Nov 2026 * MASTER <-> REPLICA sync started"));
        assert!(covers("9:S 1 Nov 2026 # Error condition on socket for SYNC: Connection refused"));
        assert!(!covers("9:S 1 Nov 2026 * Background saving started"));
        assert!(!covers("9:S 1 Nov 2026 * Connecting to MASTER 10.0.0.1:6379"));
        assert!(!covers("9:S 1 Nov 2026 # Error condition on socket for SYNC: Connection refused"));
        assert!(covers("9:S 1 Nov 2026 * Connecting to PRIMARY 127.0.0.1:1"));
    }
}
