//! How far a file can be trusted, in words.

use crate::analysis::{Close, Handshake, Party, TcpSummary};
use crate::archive::metadata::Metadata;
use crate::query::text::{self, Ink};
use crate::shard::{EndReason, FlowFlags};
use serde::Serialize;

/// What is known of a file's completeness.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Trust {
    /// The sum of it.
    pub verdict: Verdict,
    /// Why not more; each a sentence.
    pub notes: Vec<Note>,
}

/// How complete a file is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything from the first SYN to the end is there.
    Complete,
    /// What is there is whole, but the connection began before it or went on after it.
    Part,
    /// Packets are missing in between, or may be.
    Gaps,
    /// The file could not be read to its end.
    Damaged,
}

/// One reason for less than full trust.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Note {
    /// What it makes of the file.
    pub verdict: Verdict,
    /// In words.
    pub text: String,
}

impl Verdict {
    /// For a heading.
    pub fn words(self) -> &'static str {
        match self {
            Self::Complete => "complete: from the first SYN to the end, and every byte acknowledged was seen",
            Self::Part => "whole as far as it goes",
            Self::Gaps => "with gaps",
            Self::Damaged => "damaged",
        }
    }

    /// How it looks.
    pub fn ink(self) -> Ink {
        match self {
            Self::Complete => Ink::Good,
            Self::Part => Ink::Caution,
            Self::Gaps | Self::Damaged => Ink::Bad,
        }
    }
}

/// Weighs what the packets, the file's metadata and its reading tell.
pub fn weigh(tcp: &TcpSummary, metadata: Option<&Metadata>, damage: Option<&str>) -> Trust {
    let mut notes = Vec::new();
    let mut note = |verdict, text: String| notes.push(Note { verdict, text });
    if let Some(damage) = damage {
        note(Verdict::Damaged, damage.to_owned());
    }
    for (party, end) in tcp.ends() {
        let (who, other) = names(party);
        if end.packets == 0 && tcp.handshake != Handshake::Syn {
            note(Verdict::Gaps, format!("no packet of the {who} was captured: only one direction is there"));
        } else if end.unseen_bytes > 0 {
            let bytes = text::bytes(end.unseen_bytes);
            note(Verdict::Gaps, format!("{bytes} of the {who} were acknowledged by the {other} and never seen"));
        }
    }
    if let Some(metadata) = metadata {
        from_metadata(metadata, &mut note);
    }
    if !tcp.starts_with_syn {
        note(Verdict::Part, "the beginning is missing: the first packet is not a SYN".to_owned());
    } else if tcp.handshake != Handshake::Complete {
        note(Verdict::Part, "the handshake was not completed, or not all of it was seen".to_owned());
    }
    match (tcp.close, metadata.and_then(|m| m.end)) {
        (Close::Fin | Close::Reset, _) | (_, Some(EndReason::CaptureWindow | EndReason::Idle | EndReason::Shutdown)) => {}
        (Close::HalfClosed, _) => note(Verdict::Part, "only one end was seen to close".to_owned()),
        (Close::Open, _) => note(Verdict::Part, "the end is missing: neither FIN nor reset was seen".to_owned()),
    }
    if tcp.disordered_packets > 0 {
        let count = text::grouped(tcp.disordered_packets);
        note(Verdict::Gaps, format!("{count} packets lie before earlier ones: times cannot be trusted to the end"));
    }
    let unread = tcp.unreadable_packets + tcp.foreign_packets;
    if unread > 0 {
        note(Verdict::Gaps, format!("{} packets are not of this connection or could not be read", text::grouped(unread)));
    }
    if tcp.cut_packets > 0 {
        let count = text::grouped(tcp.cut_packets);
        note(Verdict::Gaps, format!("{count} packets were cut within the TCP header: options are missing (--maxheadersize)"));
    }
    if tcp.astray_packets > 0 {
        let count = text::grouped(tcp.astray_packets);
        note(Verdict::Gaps, format!("{count} packets have sequence numbers of nowhere near the connection's"));
    }
    notes.sort_by_key(|note| std::cmp::Reverse(note.verdict));
    let verdict = notes.first().map_or(Verdict::Complete, |note| note.verdict);
    Trust { verdict, notes }
}

fn from_metadata(metadata: &Metadata, note: &mut impl FnMut(Verdict, String)) {
    let lost = metadata.packets_seen.saturating_sub(metadata.packets_kept);
    if lost > 0 {
        let (lost, seen) = (text::grouped(lost.into()), text::grouped(metadata.packets_seen.into()));
        note(Verdict::Gaps, format!("{lost} of {seen} packets that were captured are not in the file"));
    }
    if metadata.kernel_drops > 0 {
        let count = text::grouped(metadata.kernel_drops.into());
        note(Verdict::Gaps, format!("the kernel dropped {count} frames meanwhile, of this connection or of others"));
    }
    if metadata.flags.has(FlowFlags::TRUNCATED) {
        note(Verdict::Gaps, "packets were dropped for want of memory or of a disk that takes them".to_owned());
    }
    if metadata.flags.has(FlowFlags::LATE_UUID) {
        note(Verdict::Gaps, "the UUID came late: packets in between are missing".to_owned());
    }
    let ended = match metadata.end {
        None => "the file was never finished",
        Some(EndReason::CaptureWindow) => "the capture duration was over: the connection may have gone on",
        Some(EndReason::Idle) => "nothing came for the idle timeout: the connection may have gone on",
        Some(EndReason::Shutdown) => "the capture was stopped while the connection was open",
        Some(EndReason::Budget) => "the memory budget or the flow limit ended the capture",
        Some(EndReason::Salvaged) => "recovered after a crash: ends with the last whole member",
        _ => return,
    };
    note(Verdict::Part, ended.to_owned());
}

/// What a party is called, and what the other one is.
pub(super) fn names(party: Party) -> (&'static str, &'static str) {
    match party {
        Party::Client => ("client", "server"),
        Party::Server => ("server", "client"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{ACK, FIN, RST, Talk, say};

    fn whole() -> Talk {
        let mut talk = Talk::shake_hands();
        talk.client(100, say(1000, 9000, 500, ACK));
        talk.server(110, say(9000, 1500, 0, FIN | ACK));
        talk.client(120, say(1500, 9001, 0, FIN | ACK));
        talk
    }

    fn sound() -> Metadata {
        Metadata { end: Some(EndReason::Fin), packets_seen: 6, packets_kept: 6, ..Metadata::UNFINISHED }
    }

    fn reasons(trust: &Trust) -> Vec<(Verdict, &str)> {
        trust.notes.iter().map(|note| (note.verdict, note.text.as_str())).collect()
    }

    #[test]
    fn a_connection_from_syn_to_fin_is_complete() {
        let trust = weigh(&whole().end(), Some(&sound()), None);
        assert_eq!((trust.verdict, reasons(&trust)), (Verdict::Complete, vec![]));
    }

    #[test]
    fn what_is_missing_is_said_the_worst_first() {
        let mut talk = whole();
        talk.server(130, say(9001, 2501, 0, ACK));
        let metadata = Metadata { packets_seen: 9, kernel_drops: 1_234, end: Some(EndReason::CaptureWindow), ..sound() };
        let trust = weigh(&talk.end(), Some(&metadata), Some("cut"));
        let expected = [
            (Verdict::Damaged, "cut"),
            (Verdict::Gaps, "1,000 B of the client were acknowledged by the server and never seen"),
            (Verdict::Gaps, "3 of 9 packets that were captured are not in the file"),
            (Verdict::Gaps, "the kernel dropped 1,234 frames meanwhile, of this connection or of others"),
            (Verdict::Part, "the capture duration was over: the connection may have gone on"),
        ];
        assert_eq!(reasons(&trust), expected);
        assert_eq!(trust.verdict, Verdict::Damaged);
    }

    #[test]
    fn a_missing_beginning_or_end_makes_a_part() {
        let mut talk = Talk::new();
        talk.client(0, say(1000, 9000, 500, ACK));
        talk.server(10, say(9000, 1500, 500, ACK));
        let trust = weigh(&talk.end(), None, None);
        assert_eq!(trust.verdict, Verdict::Part);
        assert!(reasons(&trust)[0].1.contains("beginning is missing") && reasons(&trust)[1].1.contains("end is missing"));
    }

    #[test]
    fn one_direction_alone_is_a_gap_and_a_refused_or_unanswered_syn_is_none() {
        let mut talk = Talk::new();
        talk.client(0, say(1000, 9000, 500, ACK));
        assert_eq!(weigh(&talk.end(), None, None).verdict, Verdict::Gaps);
        let mut talk = Talk::new();
        talk.client(0, say(999, 0, 0, crate::analysis::testing::SYN));
        talk.server(10, say(0, 1000, 0, RST | ACK));
        assert_eq!(weigh(&talk.end(), None, None).verdict, Verdict::Part);
    }
}
