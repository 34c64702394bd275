//! Frames copied out of a ring block or a file buffer, to be handled together.

use super::{Packet, Skip, parse};
use crate::capture::{Frame, LinkType};
use crate::time::Timestamp;

/// Parsed frames in the order of capture, each with the packet time at which it is handled. Of a frame only the headers
/// are copied: the rest is no business of those that come after. Reused: its buffers keep
/// their size.
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
    packet: Result<Packet, Skip>,
}

impl FrameBatch {
    /// Appends a frame that is handled at `now`, cut behind its headers.
    pub fn push(&mut self, frame: &Frame<'_>, now: Timestamp) {
        let Frame { ts, wire_len, link, interface, data } = *frame;
        let packet = parse(link, data);
        self.heads.push(Head { now, ts, wire_len, link, interface, start: self.bytes.len(), packet });
        self.bytes.extend_from_slice(&data[..packet.map_or(0, |p| p.header_len)]);
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

    /// What frame number `i` was parsed to.
    ///
    /// # Panics
    /// Where there are not so many.
    pub fn packet(&self, i: usize) -> &Result<Packet, Skip> {
        &self.heads[i].packet
    }

    /// Frame number `i`, which ends behind its headers, and the time at which it is handled.
    ///
    /// # Panics
    /// Where there are not so many.
    pub fn get(&self, i: usize) -> (Frame<'_>, Timestamp) {
        let Head { now, ts, wire_len, link, interface, start, packet } = self.heads[i];
        let len = packet.map_or(0, |p| p.header_len);
        (Frame { ts, wire_len, link, interface, data: &self.bytes[start..start + len] }, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::IpVersion;
    use crate::packet::testing::{Hidden, Spec};

    #[test]
    fn a_frame_comes_back_without_its_payload_and_one_that_is_skipped_without_a_byte() {
        let (data, headers) = Spec::plain(IpVersion::V4).build(Hidden { secret: 1, payload: 0xa5 });
        assert!(headers < data.len());
        let given = Frame { ts: Timestamp::ZERO, wire_len: 1514, link: LinkType::Ethernet, interface: 3, data: &data };
        let mut batch = FrameBatch::default();
        batch.push(&given, Timestamp::ZERO);
        batch.push(&Frame { data: &data[..20], ..given }, Timestamp::ZERO);
        assert_eq!(batch.get(0).0.data, &data[..headers]);
        assert_eq!((batch.get(0).0.wire_len, batch.get(0).0.interface), (1514, 3));
        assert!(batch.packet(1).is_err() && batch.get(1).0.data.is_empty());
    }
}
