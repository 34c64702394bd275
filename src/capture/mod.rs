//! Where frames come from: live interfaces or capture files.
//!
//! A source hands out borrowed frames in batches and says when it is idle. It knows nothing of IP.

use crate::time::Timestamp;

pub mod clock;
pub mod file;
pub mod filter;
pub mod interfaces;
pub mod live;
pub mod shunt;

/// A frame as captured, borrowed from its ring block or file buffer.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// When it was captured.
    pub ts: Timestamp,
    /// Its length on the wire in bytes: at least `data.len()`; of the super-packet where GRO or GSO made one.
    pub wire_len: u32,
    /// What its first byte is.
    pub link: LinkType,
    /// Which of the source's interfaces saw it: the kernel's index when live, the interface's number offline.
    pub interface: u32,
    /// The captured bytes; may be fewer than were on the wire.
    pub data: &'a [u8],
}

/// The link layer that a frame begins with. Numbers are those of LINKTYPE_ values (tcpdump.org/linktypes.html).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LinkType {
    /// LINKTYPE_ETHERNET, 1.
    Ethernet,
    /// LINKTYPE_NULL, 0: BSD loopback, address family in the byte order of the capturing machine.
    Null,
    /// LINKTYPE_LOOP, 108: OpenBSD loopback, address family in network order.
    Loop,
    /// LINKTYPE_RAW, 101 (and DLT_RAW's 12 and 14), LINKTYPE_IPV4, 228, LINKTYPE_IPV6, 229: an IP packet.
    Raw,
    /// LINKTYPE_LINUX_SLL, 113.
    LinuxSll,
    /// LINKTYPE_LINUX_SLL2, 276.
    LinuxSll2,
    /// Any other LINKTYPE_ value: its frames are counted and not parsed.
    Other(u16),
}

impl LinkType {
    /// The link type of a LINKTYPE_ number in a capture file or of a DLT_ number of libpcap.
    pub fn from_number(n: u16) -> Self {
        match n {
            0 => Self::Null,
            1 => Self::Ethernet,
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            108 => Self::Loop,
            113 => Self::LinuxSll,
            276 => Self::LinuxSll2,
            n => Self::Other(n),
        }
    }

    /// The LINKTYPE_ number to write in a pcap file header.
    pub fn number(self) -> u16 {
        match self {
            Self::Null => 0,
            Self::Ethernet => 1,
            Self::Raw => 101,
            Self::Loop => 108,
            Self::LinuxSll => 113,
            Self::LinuxSll2 => 276,
            Self::Other(n) => n,
        }
    }
}

/// What a call of [`PacketSource::next_batch`] ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// This many frames were handed out; more may wait.
    Frames(usize),
    /// Nothing came. No frame older than the watermark can still come.
    Idle {
        /// The time up to which timers may fire.
        watermark: Timestamp,
    },
    /// The source has ended and will give no more frames.
    Ended,
}

/// Gives out frames in batches.
pub trait PacketSource {
    /// What reading can fail with.
    type Error: std::error::Error;

    /// Hands each frame of the next batch to `sink`, in the order of capture, and returns what the batch ended with.
    ///
    /// # Errors
    /// Fails when the source is lost or damaged; frames handed out before that remain valid, and a later call may
    /// succeed where the error says so.
    fn next_batch(&mut self, sink: &mut dyn FnMut(Frame<'_>)) -> Result<Progress, Self::Error>;
}
