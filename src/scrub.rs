//! Removes what must not be archived: payload always, addresses as the policy says.
//!
//! The only way to a [`Scrubbed`] is [`Scrubber::scrub`], and a flow's segment takes nothing else, so a byte that was not
//! scrubbed cannot reach a file.

use crate::capture::LinkType;
use crate::packet::Packet;

/// What to remove beside payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubPolicy {
    /// How addresses are masked.
    pub anonymize: Anonymize,
    /// Whether files keep the link layer of the capture instead of becoming Ethernet.
    pub keep_linktype: bool,
    /// Zeroes hardware addresses (`-scrub=mac`).
    pub mac: bool,
    /// Zeroes the IPv4 identification (`-scrub=ipid`) and the IPv6 flow label.
    pub ip_id: bool,
    /// Zeroes the TCP timestamp option's values (`-scrub=tsopt`).
    pub tcp_timestamps: bool,
}

/// How addresses are masked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Anonymize {
    /// Addresses are kept.
    #[default]
    None,
    /// IPv4 addresses lose their last 8 bits, IPv6 addresses their last 80 (/48).
    Netblock,
}

/// Which of a packet's addresses are hidden: not those of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hide {
    /// Hide the source address.
    pub src: bool,
    /// Hide the destination address.
    pub dst: bool,
}

/// Header bytes of one packet that may be archived.
#[derive(Clone, Copy, Debug)]
pub struct Scrubbed<'a> {
    bytes: &'a [u8],
    wire_len: u32,
}

impl<'a> Scrubbed<'a> {
    /// The bytes to archive.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The packet's length on the wire, corrected by what the link layer gained or lost.
    pub fn wire_len(&self) -> u32 {
        self.wire_len
    }
}

/// Scrubs packets into a buffer of its own.
#[derive(Debug)]
pub struct Scrubber {
    policy: ScrubPolicy,
}

impl Scrubber {
    /// A scrubber for a policy.
    pub fn new(policy: ScrubPolicy) -> Self {
        Self { policy }
    }

    /// The link type that files of frames of this link type have.
    pub fn file_link(&self, link: LinkType) -> LinkType {
        if self.policy.keep_linktype { link } else { LinkType::Ethernet }
    }

    /// Copies the packet's headers, without payload and with addresses masked.
    ///
    /// `frame` is the whole captured frame that `packet` was parsed from; `wire_len` its length on the wire.
    pub fn scrub(&mut self, _link: LinkType, _frame: &[u8], _wire_len: u32, _packet: &Packet, _hide: Hide) -> Scrubbed<'_> {
        unimplemented!("scrub")
    }
}
