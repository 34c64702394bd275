//! A connection drawn: time-sequence graph, round-trip times, bytes in flight, throughput.
//!
//! [`html`] writes a page that stands alone and zooms, [`svg`] a picture, [`xplot`] the files of the old tools.

pub mod html;
pub mod svg;
pub mod xplot;

use super::survey::{Point, Series};
use crate::analysis::{Cause, Role};

/// What to draw.
#[derive(Clone, Copy, Debug)]
pub struct Plot<'a> {
    /// The heading.
    pub title: &'a str,
    /// The packets.
    pub series: &'a Series,
    /// The client's and the server's address and port.
    pub ends: [&'a str; 2],
}

impl Plot<'_> {
    /// The time of the earliest packet, nanoseconds: where the time axis begins.
    fn start(&self) -> u64 {
        self.series.points.iter().map(|p| p.time.as_nanos()).min().unwrap_or_default()
    }

    /// The sender of more payload: what a picture of one direction shows.
    fn busier(&self) -> usize {
        let mut sent = [0u64; 2];
        for Point { seen, .. } in &self.series.points {
            sent[seen.sender] += seen.end - seen.start;
        }
        usize::from(sent[1] > sent[0])
    }

    /// What a sender is called.
    fn name(&self, sender: usize) -> (&'static str, &str) {
        if sender == self.series.client { ("client", self.ends[0]) } else { ("server", self.ends[1]) }
    }
}

/// How a packet is drawn; the numbers are those of the page's script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Mark {
    Empty = 0,
    New = 1,
    OutOfOrder = 2,
    Fast = 3,
    Timeout = 4,
    Spurious = 5,
    Unknown = 6,
    Probe = 7,
}

impl From<Role> for Mark {
    fn from(role: Role) -> Self {
        match role {
            Role::Empty => Self::Empty,
            Role::New => Self::New,
            Role::OutOfOrder => Self::OutOfOrder,
            Role::Retransmission(Cause::Fast) => Self::Fast,
            Role::Retransmission(Cause::Timeout) => Self::Timeout,
            Role::Retransmission(Cause::Spurious) => Self::Spurious,
            Role::Retransmission(Cause::Unknown) => Self::Unknown,
            Role::KeepAlive | Role::WindowProbe => Self::Probe,
        }
    }
}

/// Text for XML and HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Analyzer;
    use crate::analysis::testing::{ACK, FIN, SYN, say};
    use crate::capture::LinkType;
    use crate::time::Timestamp;

    /// A handshake, data with a retransmission and SACK, a FIN.
    pub(super) fn series() -> Series {
        let mut analyzer = Analyzer::new(LinkType::Ethernet);
        let packets = [
            (0, 0, say(999, 0, 0, SYN)),
            (10, 1, say(8999, 1000, 0, SYN | ACK)),
            (20, 0, say(1000, 9000, 0, ACK)),
            (30, 0, say(1000, 9000, 500, ACK)),
            (31, 0, say(1500, 9000, 500, ACK)),
            (45, 1, say(9000, 1000, 0, ACK).sack(&[(1500, 2000)])),
            (50, 0, say(1000, 9000, 500, ACK)),
            (60, 1, say(9000, 2000, 0, ACK)),
            (70, 0, say(2000, 9000, 0, FIN | ACK)),
        ];
        let mut points = Vec::new();
        for (millis, sender, say) in packets {
            let (bytes, wire_len) = say.bytes(sender);
            let time = Timestamp::from_nanos(1_000_000_000 + millis * 1_000_000);
            points.extend(analyzer.handle_packet(time, wire_len, &bytes).map(|seen| Point { time, seen }));
        }
        let origins = [points[0].seen.start, points[1].seen.start];
        Series { points, origins, client: analyzer.client() }
    }

    #[test]
    fn the_busier_direction_is_the_one_that_is_drawn() {
        let series = series();
        let plot = Plot { title: "t", series: &series, ends: ["a", "b"] };
        assert_eq!((plot.busier(), plot.name(0), plot.start()), (0, ("client", "a"), 1_000_000_000));
    }
}
