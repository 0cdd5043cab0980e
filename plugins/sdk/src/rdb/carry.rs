//! Feeds the [machine](super::machine) from chunks.

use super::machine::{Fault, Machine, Step};
use super::role::Listener;

/// The longest atom: a score's text, one byte and up to 252 more.
const MAX_ATOM: usize = 1 + 252;

/// Feeds a machine from chunks: bytes of an atom that a chunk's end cut wait here for the rest.
#[derive(Debug, Default)]
pub(crate) struct Carry {
    bytes: Vec<u8>,
}

impl Carry {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// One step over the carried bytes and the input. `Used` counts bytes of the input alone; `More` means that all of
    /// it is carried now.
    pub(crate) fn step<L: Listener>(
        &mut self,
        machine: &mut Machine,
        input: &[u8],
        listener: &mut L,
    ) -> Result<Step, Fault> {
        if self.bytes.is_empty() {
            let step = machine.step(input, listener)?;
            if matches!(step, Step::More) {
                self.bytes.extend_from_slice(input);
            }
            return Ok(step);
        }
        let old = self.bytes.len();
        let room = MAX_ATOM.saturating_sub(old);
        self.bytes.extend_from_slice(&input[..input.len().min(room)]);
        let bytes = std::mem::take(&mut self.bytes);
        match machine.step(&bytes, listener)? {
            // The atom was not whole before, so it ends in the input.
            Step::Used(used) => Ok(Step::Used(used - old)),
            Step::Checksum { found, used } => Ok(Step::Checksum { found, used: used - old }),
            Step::More => {
                self.bytes = bytes;
                Ok(Step::More)
            }
            other => Ok(other),
        }
    }
}
