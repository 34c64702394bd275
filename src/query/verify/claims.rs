//! What a file's metadata says, against its packets.

use super::{Check, Report};
use crate::analysis::{Close, Handshake, TcpSummary};
use crate::archive::metadata::Metadata;
use crate::shard::{EndReason, FlowFlags};
use crate::time::Timestamp;

/// What the packets of a file are, for its metadata to agree with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content<'a> {
    pub(super) packets: u64,
    /// The times of the first and the last packet.
    pub(super) times: Option<(Timestamp, Timestamp)>,
    /// What they tell.
    pub(super) tcp: Option<&'a TcpSummary>,
}

/// Holds the metadata to the content.
pub(super) fn check(metadata: &Metadata, content: &Content<'_>, report: &mut Report) {
    let mut wrong = |text: String| report.find(Check::Metadata, None, || text);
    let Some(end) = metadata.end else {
        return wrong(
            "the file was never finished: its metadata says nothing (flowarc repair FILE gives it a sound one)".to_owned(),
        );
    };
    let kept = u64::from(metadata.packets_kept);
    if kept != content.packets && !(metadata.packets_kept == u32::MAX && content.packets > kept) {
        wrong(format!("it counts {kept} packets, there are {}", content.packets));
    }
    if metadata.packets_seen < metadata.packets_kept {
        wrong(format!("{kept} packets kept of {} seen", metadata.packets_seen));
    }
    if let Some((first, last)) = content.times {
        // Packets from before the first one that was kept may have been seen.
        if on_record(metadata.first) > first {
            wrong(format!("it says that the first packet came at {:?}, after {first:?}", metadata.first));
        }
        if on_record(metadata.last) != last {
            wrong(format!("it says that the last packet came at {:?} and not at {last:?}", metadata.last));
        }
    }
    // With packets missing in between, the rest need not show what the whole did.
    let partial = FlowFlags::TRUNCATED | FlowFlags::LATE_UUID | FlowFlags::MERGED;
    let whole = metadata.flags.0 & partial == 0 && metadata.packets_seen == metadata.packets_kept;
    // Masked ends that have become equal cannot be told apart.
    let Some(tcp) = content.tcp.filter(|tcp| whole && tcp.client.endpoint != tcp.server.endpoint) else { return };
    if metadata.flags.has(FlowFlags::HANDSHAKE) && tcp.handshake != Handshake::Complete {
        wrong("it says that the handshake was seen whole, and it is not there".to_owned());
    }
    if metadata.flags.has(FlowFlags::MIDSTREAM) && tcp.starts_with_syn {
        wrong("it says that the first SYN was not seen, and it is there".to_owned());
    }
    let resets = tcp.client.rst_packets + tcp.server.rst_packets;
    if end == EndReason::Fin && tcp.close != Close::Fin && resets == 0 {
        wrong("it says that both ends closed, and there are no FINs of both".to_owned());
    }
    if end == EndReason::Reset && resets == 0 {
        wrong("it says that the connection was reset, and there is no reset".to_owned());
    }
}

/// A time as the 32 bits of seconds of a record can tell it.
fn on_record(time: Timestamp) -> Timestamp {
    Timestamp::from_parts(time.secs().min(u32::MAX.into()), time.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{ACK, FIN, Talk, say};
    use std::path::PathBuf;

    const FIRST: Timestamp = Timestamp::ZERO;
    const LAST: Timestamp = Timestamp::from_nanos(101_000_000);

    fn sound() -> Metadata {
        let flags = FlowFlags(FlowFlags::HANDSHAKE);
        let end = Some(EndReason::Fin);
        Metadata { end, flags, first: FIRST, last: LAST, packets_seen: 5, packets_kept: 5, ..Metadata::UNFINISHED }
    }

    fn findings(metadata: Metadata) -> Vec<String> {
        let mut talk = Talk::shake_hands();
        talk.client(100, say(1000, 9000, 0, FIN | ACK));
        talk.server(101, say(9000, 1001, 0, FIN | ACK));
        let tcp = talk.end();
        let mut report = Report::new(PathBuf::new());
        check(&metadata, &Content { packets: 5, times: Some((FIRST, LAST)), tcp: Some(&tcp) }, &mut report);
        report.findings.into_iter().map(|f| f.text).collect()
    }

    #[test]
    fn metadata_that_agrees_has_no_finding_and_each_lie_has_one() {
        assert_eq!(findings(sound()), Vec::<String>::new());
        for (lie, part) in [
            (Metadata { end: None, ..sound() }, "never finished"),
            (Metadata { packets_kept: 4, ..sound() }, "counts 4 packets"),
            (Metadata { packets_seen: 4, ..sound() }, "5 packets kept of 4"),
            (Metadata { first: LAST, ..sound() }, "the first packet"),
            (Metadata { last: FIRST, ..sound() }, "the last packet"),
            (Metadata { end: Some(EndReason::Reset), ..sound() }, "no reset"),
            (Metadata { flags: FlowFlags(FlowFlags::MIDSTREAM), ..sound() }, "first SYN"),
        ] {
            let found = findings(lie);
            assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:?}");
        }
    }
}
