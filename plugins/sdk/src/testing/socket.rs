//! The server of another system, scripted.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::error::{Error, code};
use crate::host::{Connection, Socket};

/// What a connection does with bytes that were written to it: returns what the server answers, or none to close.
pub type Conversation = Box<dyn FnMut(&[u8]) -> Option<Vec<u8>>>;

/// A server of another system in memory. Each connection begins a conversation of its own.
#[derive(Clone)]
pub struct FakeSocket {
    begin: Rc<dyn Fn() -> Conversation>,
    short_reads: Option<usize>,
}

impl FakeSocket {
    /// A server whose conversations are made by `begin`.
    pub fn new(begin: impl Fn() -> Conversation + 'static) -> Self {
        Self { begin: Rc::new(begin), short_reads: None }
    }

    /// The same; reads return at most so many bytes, whatever is asked for.
    #[must_use]
    pub fn with_short_reads(mut self, bytes: usize) -> Self {
        self.short_reads = Some(bytes);
        self
    }
}

impl Socket for FakeSocket {
    fn connect(&self) -> Result<Box<dyn Connection>, Error> {
        let conversation = RefCell::new((self.begin)());
        Ok(Box::new(FakeConnection {
            conversation,
            received: VecDeque::new(),
            closed: false,
            short_reads: self.short_reads,
        }))
    }
}

struct FakeConnection {
    conversation: RefCell<Conversation>,
    received: VecDeque<u8>,
    closed: bool,
    short_reads: Option<usize>,
}

impl Connection for FakeConnection {
    fn read(&mut self, max: u32, within_ms: Option<u32>) -> Result<Vec<u8>, Error> {
        if self.received.is_empty() && !self.closed {
            // Nothing will ever come: a read that would wait for ever is a defect of the method.
            let message = "the server sent nothing";
            return Err(Error::new(if within_ms.is_some() { code::TIMEOUT } else { code::SOURCE_IO }, message));
        }
        let most = (max as usize).min(self.short_reads.unwrap_or(usize::MAX)).min(self.received.len());
        Ok(self.received.drain(..most).collect())
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        if self.closed {
            return Err(Error::new(code::SOURCE_IO, "the server has closed the connection"));
        }
        match (self.conversation.borrow_mut())(data) {
            Some(answer) => self.received.extend(answer),
            None => self.closed = true,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_answers_times_out_and_closes() {
        let server = FakeSocket::new(|| Box::new(|data| (data != b"bye").then(|| data.to_ascii_uppercase())));
        let mut connection = server.with_short_reads(2).connect().unwrap();
        assert_eq!(connection.read(10, Some(5)).unwrap_err().code, code::TIMEOUT);
        connection.write(b"abc").unwrap();
        assert_eq!(connection.read(10, None).unwrap(), b"AB");
        assert_eq!(connection.read(10, None).unwrap(), b"C");
        connection.write(b"bye").unwrap();
        assert!(connection.read(10, None).unwrap().is_empty());
        assert!(connection.write(b"more").is_err());
    }
}
