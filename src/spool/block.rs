//! From kept frames to blocks: what is compressed, written, indexed and, by a crash, lost together.
//!
//! No I/O, no clock, no thread. A block is sealed when it is full, when it is a second old and when its segment's time is
//! over, whether frames come or not. All of it depends on the frames and on `now` only, so that a replay gives the same
//! bytes.

use super::Tuple;
use super::format::Format;
use crate::capture::{Frame, LinkType};
use crate::time::{Timeline, Timestamp};
use foldhash::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Which segments a frame can be in: a file has one link type, and a pcapng file of ours one interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StreamId {
    /// What frames begin with.
    pub link: LinkType,
    /// The interface, in pcapng.
    pub interface: Option<u32>,
}

/// What the writer is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SpoolOp {
    /// Append a block to its stream's segment, and begin another segment where it is of another time.
    Block(Block),
    /// The segment's time is over, and nothing came since.
    Close(StreamId),
}

/// Records that belong together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// Whose segment it goes to.
    pub stream: StreamId,
    /// The interface's name, where it is known.
    pub interface: Option<Arc<str>>,
    /// When its segment's time began: blocks of one stream with another one are in another segment.
    pub window: Timestamp,
    /// The time of the earliest frame.
    pub first: Timestamp,
    /// The time of the latest frame.
    pub last: Timestamp,
    /// How many frames.
    pub packets: u32,
    /// Whose frames, in the order of their first.
    pub flows: Vec<FlowInBlock>,
    /// The records.
    pub data: Vec<u8>,
}

/// A flow's share of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowInBlock {
    /// The flow.
    pub tuple: Tuple,
    /// The time of its earliest frame here.
    pub first: Timestamp,
    /// The time of its latest frame here.
    pub last: Timestamp,
    /// How many frames.
    pub packets: u32,
}

/// Collects frames into blocks.
#[derive(Debug)]
pub struct Blocks {
    format: Format,
    /// How long a segment is; `None` for as long as it may be large.
    rotate: Option<Duration>,
    names: HashMap<u32, Arc<str>>,
    streams: Vec<Stream>,
    ops: VecDeque<SpoolOp>,
    /// Memory of a block that was written: fresh memory costs a fault for each page.
    spare: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Stream {
    id: StreamId,
    /// When the current segment's time began.
    window: Timestamp,
    /// Whether a block of the current segment has been handed over.
    written: bool,
    /// When the block was begun, in the time of timers.
    begun: Timestamp,
    block: Option<Block>,
    places: HashMap<Tuple, u32>,
}

impl Blocks {
    /// Holds nothing yet.
    pub fn new(format: Format, rotate: Option<Duration>) -> Self {
        Self { format, rotate, names: HashMap::default(), streams: Vec::new(), ops: VecDeque::new(), spare: None }
    }

    /// Notes an interface's name, for frames from now on.
    pub fn set_name(&mut self, interface: u32, name: &str) {
        self.names.insert(interface, name.into());
    }

    /// Takes back the memory of a block, for the next one.
    pub fn recycle(&mut self, mut data: Vec<u8>) {
        data.clear();
        self.spare = Some(data);
    }

    /// Takes a frame of a flow.
    pub fn handle_frame(&mut self, frame: &Frame<'_>, tuple: Tuple, now: Timestamp) {
        let interface = (self.format == Format::Pcapng).then_some(frame.interface);
        let id = StreamId { link: frame.link, interface };
        let at = self.streams.iter().position(|s| s.id == id).unwrap_or_else(|| {
            let window = self.window(frame.ts);
            let (block, places) = (None, HashMap::default());
            self.streams.push(Stream { id, window, written: false, begun: now, block, places });
            self.streams.len() - 1
        });
        if self.is_of_another_time(self.streams[at].window, frame.ts) {
            self.streams[at].seal(&mut self.ops);
            self.streams[at].written = false;
            self.streams[at].window = self.window(frame.ts);
        }
        let stream = &mut self.streams[at];
        let len = self.format.record_len(frame.data.len());
        if stream.block.as_ref().is_some_and(|b| b.data.len() + len > BLOCK_LEN || now.since(stream.begun) >= SEAL) {
            stream.seal(&mut self.ops);
        }
        if stream.block.is_none() {
            stream.begun = now;
        }
        let block = stream.block.get_or_insert_with(|| Block {
            stream: id,
            interface: self.names.get(&frame.interface).filter(|_| interface.is_some()).cloned(),
            window: stream.window,
            first: frame.ts,
            last: frame.ts,
            packets: 0,
            flows: Vec::new(),
            data: self.spare.take().unwrap_or_else(|| Vec::with_capacity(BLOCK_LEN)),
        });
        self.format.append(&mut block.data, frame);
        block.packets += 1;
        block.first = block.first.min(frame.ts);
        block.last = block.last.max(frame.ts);
        let place = *stream.places.entry(tuple).or_insert_with(|| {
            block.flows.push(FlowInBlock { tuple, first: frame.ts, last: frame.ts, packets: 0 });
            (block.flows.len() - 1) as u32
        });
        let flow = &mut block.flows[place as usize];
        flow.packets += 1;
        flow.first = flow.first.min(frame.ts);
        flow.last = flow.last.max(frame.ts);
    }

    /// Seals what is old enough: `now` is the time of timers, `latest` the time that captures have reached.
    pub fn advance(&mut self, now: Timestamp, latest: Timestamp) {
        for at in 0..self.streams.len() {
            let over = self.is_of_another_time(self.streams[at].window, latest);
            let stream = &mut self.streams[at];
            if over || (stream.block.is_some() && now.since(stream.begun) >= SEAL) {
                stream.seal(&mut self.ops);
            }
            if over && std::mem::take(&mut stream.written) {
                self.ops.push_back(SpoolOp::Close(stream.id));
            }
        }
    }

    /// Seals everything.
    pub fn finish(&mut self) {
        for mut stream in std::mem::take(&mut self.streams) {
            stream.seal(&mut self.ops);
        }
    }

    /// The next thing that the writer is to do.
    pub fn poll_op(&mut self) -> Option<SpoolOp> {
        self.ops.pop_front()
    }

    /// When the time of a segment with such a frame begins.
    fn window(&self, ts: Timestamp) -> Timestamp {
        match self.rotate.map(|d| d.as_nanos() as u64) {
            None => Timestamp::ZERO,
            Some(nanos) => Timestamp::from_nanos(ts.as_nanos() / nanos * nanos),
        }
    }

    /// Small disorder across the turn of a segment's time begins no segment; a clock that was set does.
    fn is_of_another_time(&self, window: Timestamp, ts: Timestamp) -> bool {
        self.rotate.is_some_and(|rotate| ts >= window + rotate || ts + Timeline::STEP < window)
    }
}

impl Stream {
    fn seal(&mut self, ops: &mut VecDeque<SpoolOp>) {
        if let Some(block) = self.block.take() {
            self.places.clear();
            self.written = true;
            ops.push_back(SpoolOp::Block(block));
        }
    }
}

/// Small enough that one flow's packets are found without reading much, large enough to compress well: zstd packs 256 KiB
/// within 2 % of what it makes of 1 MiB.
pub const BLOCK_LEN: usize = 256 << 10;
/// What a crash can lose.
pub const SEAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_sealed_when_it_is_full() {
        let mut lab = Lab::new(None);
        let per_block = BLOCK_LEN / (16 + 1000);
        (0..=per_block as u64).for_each(|i| lab.frame(i, 1000));
        let blocks = lab.blocks();
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].packets as usize, per_block);
        assert!(blocks[0].data.len() <= BLOCK_LEN);
    }

    #[test]
    fn a_block_is_sealed_after_a_second_with_frames_and_without() {
        for quiet in [true, false] {
            let mut lab = Lab::new(None);
            lab.frame(0, 10);
            lab.frame(999, 10);
            assert_eq!(lab.blocks().len(), 0);
            if quiet {
                lab.blocks.advance(at(1000), at(1000))
            } else {
                lab.frame(1000, 10)
            }
            assert_eq!(lab.blocks().iter().map(|b| b.packets).collect::<Vec<_>>(), [2], "quiet: {quiet}");
        }
    }

    #[test]
    fn segments_turn_with_the_clock_and_a_quiet_link_closes_its_own() {
        let mut lab = Lab::new(Some(Duration::from_secs(60)));
        lab.frame(59_999, 10);
        lab.frame(60_000, 10);
        // Disorder: a frame of the minute before.
        lab.frame(59_000, 10);
        lab.blocks.advance(at(119_999), at(119_999));
        assert_eq!(lab.blocks().iter().map(|b| b.window).collect::<Vec<_>>(), [at(0), at(60_000)]);
        lab.blocks.advance(at(120_000), at(120_000));
        assert!(matches!(lab.blocks.poll_op(), Some(SpoolOp::Close(_))));
        lab.blocks.advance(at(180_000), at(180_000));
        assert_eq!(lab.blocks.poll_op(), None, "closed once");
    }

    #[test]
    fn a_clock_that_is_set_begins_a_segment() {
        for to in [3_600_000, 3_000] {
            let mut lab = Lab::new(Some(Duration::from_secs(60)));
            lab.frame(100_000, 10);
            // Timers do not see the step.
            lab.frame_at(at(to), at(100_001), 10);
            lab.blocks.finish();
            let windows: Vec<_> = lab.blocks().iter().map(|b| b.window).collect();
            assert_eq!(windows, [at(60_000), at(to / 60_000 * 60_000)]);
        }
    }

    #[test]
    fn a_block_knows_its_flows_and_their_times() {
        let mut lab = Lab::new(None);
        let mut other = Tuple::not_ip();
        other.protocol = 17;
        lab.frame(5, 10);
        lab.blocks.handle_frame(&frame(at(7), &[0; 10]), other, at(7));
        lab.frame(3, 10);
        lab.blocks.finish();
        let [block] = &lab.blocks()[..] else { panic!("one block") };
        assert_eq!((block.first, block.last, block.packets), (at(3), at(7), 3));
        let flow = |tuple, first, last, packets| FlowInBlock { tuple, first: at(first), last: at(last), packets };
        assert_eq!(block.flows, [flow(Tuple::not_ip(), 3, 5, 2), flow(other, 7, 7, 1)]);
    }

    #[test]
    fn links_have_segments_of_their_own_and_interfaces_in_pcapng() {
        for (format, expected) in [(Format::Pcap, 2), (Format::Pcapng, 3)] {
            let mut blocks = Blocks::new(format, None);
            blocks.set_name(2, "eth2");
            for (interface, link) in [(1, LinkType::Ethernet), (2, LinkType::Ethernet), (1, LinkType::Raw)] {
                let frame = Frame { interface, link, ..frame(at(0), &[0; 20]) };
                blocks.handle_frame(&frame, Tuple::not_ip(), at(0));
            }
            blocks.finish();
            let ops: Vec<_> = std::iter::from_fn(|| blocks.poll_op()).collect();
            assert_eq!(ops.len(), expected);
            if format == Format::Pcapng {
                assert!(matches!(&ops[1], SpoolOp::Block(b) if b.interface.as_deref() == Some("eth2")));
            }
        }
    }

    struct Lab {
        blocks: Blocks,
    }

    impl Lab {
        fn new(rotate: Option<Duration>) -> Self {
            Self { blocks: Blocks::new(Format::Pcap, rotate) }
        }

        fn frame(&mut self, millis: u64, len: usize) {
            self.frame_at(at(millis), at(millis), len);
        }

        fn frame_at(&mut self, ts: Timestamp, now: Timestamp, len: usize) {
            self.blocks.handle_frame(&frame(ts, &vec![0; len]), Tuple::not_ip(), now);
        }

        fn blocks(&mut self) -> Vec<Block> {
            let ops = std::iter::from_fn(|| self.blocks.poll_op());
            ops.map(|op| if let SpoolOp::Block(b) = op { b } else { panic!("{op:?}") }).collect()
        }
    }

    fn frame(ts: Timestamp, data: &[u8]) -> Frame<'_> {
        Frame { ts, wire_len: data.len() as u32, link: LinkType::Ethernet, interface: 0, data }
    }

    /// Milliseconds after a full hour.
    fn at(millis: u64) -> Timestamp {
        Timestamp::from_parts(1_795_262_400, 0) + Duration::from_millis(millis)
    }
}
