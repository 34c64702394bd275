//! Frames copied out of a ring block or a file buffer, to be handled together.

use super::{Frame, LinkType};
use crate::time::Timestamp;

/// Frames in the order of capture, each with the packet time at which it is handled. Reused: its buffers keep their size.
#[derive(Clone, Debug, Default)]
pub struct FrameBatch {
    heads: Vec<Head>,
    bytes: Vec<u8>,
}

/// A frame but for its bytes.
#[derive(Clone, Copy, Debug)]
struct Head {
    now: Timestamp,
    ts: Timestamp,
    wire_len: u32,
    link: LinkType,
    interface: u32,
    start: usize,
    len: usize,
}

impl FrameBatch {
    /// Appends a copy of a frame that is handled at `now`.
    pub fn push(&mut self, frame: &Frame<'_>, now: Timestamp) {
        let Frame { ts, wire_len, link, interface, data } = *frame;
        self.heads.push(Head { now, ts, wire_len, link, interface, start: self.bytes.len(), len: data.len() });
        self.bytes.extend_from_slice(data);
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.heads.clear();
        self.bytes.clear();
    }

    /// How many frames it holds.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether it holds no frame.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Frame number `i` and the time at which it is handled.
    ///
    /// # Panics
    /// Where there are not so many.
    pub fn get(&self, i: usize) -> (Frame<'_>, Timestamp) {
        let Head { now, ts, wire_len, link, interface, start, len } = self.heads[i];
        (Frame { ts, wire_len, link, interface, data: &self.bytes[start..start + len] }, now)
    }
}
