//! A connection explained on one screen, or as JSON.

use crate::analysis::{Close, EndSummary, Handshake, Party, Rtt, SynOptions, TcpSummary};
use crate::archive::metadata::Metadata;
use crate::archive::tcp_info::FinalTcpInfo;
use crate::query::text::{Colour, Ink, bit_rate, bytes, duration, grouped, utc};
use crate::query::trust::{Trust, names};
use crate::shard::{EndReason, FlowFlags};
use crate::time::Timestamp;
use serde_json::{Value, json};
use std::fmt::Write;

/// What there is to show of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The file's name.
    pub file: &'a str,
    /// What its packets tell.
    pub tcp: &'a TcpSummary,
    /// What the file says of its connection.
    pub metadata: Option<&'a Metadata>,
    /// How far to trust it.
    pub trust: &'a Trust,
}

/// The screen: 100 columns at most, but for long file names.
pub fn screen(shown: &Shown<'_>, colour: Colour) -> String {
    let Shown { file, tcp, metadata, trust } = *shown;
    let mut out = String::new();
    let heading = |text: &str| colour.paint(Ink::Strong, text);
    line(&mut out, &heading(file));
    line(&mut out, &format!("{} -> {}", tcp.client.endpoint, tcp.server.endpoint));
    let began = utc(Timestamp::from_nanos(tcp.first_ns));
    line(&mut out, &format!("{began}, {}, {} packets", duration(tcp.duration_ns()), grouped(tcp.packets)));
    out.push('\n');

    line(&mut out, &format!("{}  {}", heading("Trust"), colour.paint(trust.verdict.ink(), trust.verdict.words())));
    for note in &trust.notes {
        for (i, part) in wrap(&note.text, 92).iter().enumerate() {
            let mark = if i == 0 { colour.paint(note.verdict.ink(), "-") } else { " ".to_owned() };
            line(&mut out, &format!("     {mark} {part}"));
        }
    }
    if let Some(metadata) = metadata {
        line(&mut out, &colour.paint(Ink::Faint, &format!("       {}", provenance(metadata))));
    }
    out.push('\n');

    let shake = match tcp.handshake {
        Handshake::Complete => "complete",
        Handshake::SynAck => "not acknowledged by the client",
        Handshake::Syn => "not answered",
        Handshake::None => "not seen",
    };
    let total = tcp.handshake_rtt_ns.map(|rtt| format!(", {} from end to end", duration(rtt))).unwrap_or_default();
    line(&mut out, &format!("{}  {shake}{total}", heading("Handshake")));
    line(&mut out, &format!("{}      {}", heading("Close"), close(tcp)));
    line(&mut out, &format!("{}       {} at most between two packets", heading("Idle"), duration(tcp.longest_idle_ns)));
    if let Some(info) = metadata.and_then(|m| m.tcp_info.as_ref()) {
        let words = last_word(info, tcp);
        for (i, part) in wrap(&words, 88).iter().enumerate() {
            line(&mut out, &format!("{}{part}", if i == 0 { heading("Kernel") + "     " } else { " ".repeat(11) }));
        }
    }
    out.push('\n');

    let mut table = Table::default();
    table.heading("", "client", "server");
    table.row("SYN options", tcp, |end| end.syn.map_or("not seen".to_owned(), |syn| syn_options(&syn)));
    table.row("RTT to it, handshake", tcp, |end| end.handshake_rtt_ns.map_or("-".to_owned(), duration));
    table.row("  min/median/p95 (n)", tcp, |end| rtt(&end.rtt));
    table.row("  by timestamps", tcp, |end| rtt(&end.rtt_timestamps));
    table.gap();
    table.row("Packets sent", tcp, |end| format!("{}, {}", grouped(end.packets), bytes(end.wire_bytes)));
    table.row("Payload", tcp, payload);
    table.row("Goodput", tcp, |end| end.goodput_bits_per_s.map_or("-".to_owned(), bit_rate));
    table.row("In flight, window", tcp, |end| {
        format!("{} at most, {} offered", bytes(end.in_flight_max_bytes), bytes(end.window_max_bytes))
    });
    table.gap();
    table.row("Retransmitted", tcp, retransmitted);
    table.row("Out of order", tcp, |end| match end.out_of_order_packets {
        0 => "-".to_owned(),
        n => format!("{}, by {} at most", grouped(n), bytes(end.reordering_max_bytes)),
    });
    table.row("Duplicate ACKs", tcp, |end| count(end.duplicate_acks));
    table.row("SACK", tcp, |end| list(&[(end.sack_blocks, "blocks"), (end.dsacks, "D-SACK")]));
    table.row("Probes", tcp, |end| {
        let counts = [(end.zero_windows, "zero windows"), (end.window_probes, "window probes"), (end.keep_alives, "keep-alives")];
        list(&counts)
    });
    table.row("ECN", tcp, |end| {
        list(&[(end.ect_packets, "ECT"), (end.ce_packets, "CE"), (end.ece_packets, "ECE"), (end.cwr_packets, "CWR")])
    });
    table.row("FIN, RST", tcp, |end| list(&[(end.fin_packets, "FIN"), (end.rst_packets, "RST")]));
    table.write(&mut out, colour);
    out
}

/// All that is known, for programs.
pub fn json(shown: &Shown<'_>) -> Value {
    let Shown { file, tcp, metadata, trust } = *shown;
    let metadata = metadata.map(|m| {
        json!({
            "end": m.end.map(end_word),
            "flags": flag_words(m.flags),
            "tool": tool(m),
            "first_ns": m.first.as_nanos(),
            "last_ns": m.last.as_nanos(),
            "packets_seen": m.packets_seen,
            "packets_kept": m.packets_kept,
            "kernel_drops": m.kernel_drops,
            "tcp_info": m.tcp_info.as_ref().map(|info| last_word_json(info, tcp)),
        })
    });
    json!({ "file": file, "metadata": metadata, "trust": trust, "tcp": tcp })
}

/// One line for each connection of a file that holds several, with the number that picks it.
pub fn listing(flows: &[TcpSummary]) -> String {
    let mut rows = vec![["flow", "client", "server", "start", "duration", "packets", "payload"].map(str::to_owned)];
    for (number, tcp) in flows.iter().enumerate() {
        rows.push([
            (number + 1).to_string(),
            tcp.client.endpoint.to_string(),
            tcp.server.endpoint.to_string(),
            utc(Timestamp::from_nanos(tcp.first_ns)),
            duration(tcp.duration_ns()),
            grouped(tcp.packets),
            bytes(tcp.client.payload_bytes.saturating_add(tcp.server.payload_bytes)),
        ]);
    }
    let widths: [usize; 7] = std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let mut out = String::new();
    for row in rows {
        let mut text = String::new();
        for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Numbers to the right.
            let cell = if matches!(i, 1..=3) { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
            text.push_str(&cell);
        }
        line(&mut out, &text);
    }
    out
}

/// The word for an end reason, in JSON and in the catalogue's manner.
pub fn end_word(end: EndReason) -> &'static str {
    match end {
        EndReason::Fin => "fin",
        EndReason::Reset => "reset",
        EndReason::Closed => "closed",
        EndReason::CaptureWindow => "capture_window",
        EndReason::Idle => "idle",
        EndReason::Reused => "reused",
        EndReason::Shutdown => "shutdown",
        EndReason::EndOfInput => "end_of_input",
        EndReason::Budget => "budget",
        EndReason::Salvaged => "salvaged",
    }
}

/// The flags' names.
pub fn flag_words(flags: FlowFlags) -> Vec<&'static str> {
    const NAMES: [(u16, &str); 12] = [
        (FlowFlags::ANONYMIZED, "anonymized"),
        (FlowFlags::MIDSTREAM, "midstream"),
        (FlowFlags::HANDSHAKE, "handshake"),
        (FlowFlags::TRUNCATED, "truncated"),
        (FlowFlags::LATE_UUID, "late_uuid"),
        (FlowFlags::SORTED, "sorted"),
        (FlowFlags::DEDUPLICATED, "deduplicated"),
        (FlowFlags::MERGED, "merged"),
        (FlowFlags::SYNTHETIC_LINK, "synthetic_link"),
        (FlowFlags::BOTH_LOCAL, "both_local"),
        (FlowFlags::SCRUBBED, "scrubbed"),
        (FlowFlags::REPLACED, "replaced"),
    ];
    NAMES.iter().filter(|(bit, _)| flags.has(*bit)).map(|(_, name)| *name).collect()
}

/// What the kernel said when the socket was gone, in one line.
fn last_word(info: &FinalTcpInfo, tcp: &TcpSummary) -> String {
    let micros = |micros: u32| duration(u64::from(micros) * 1_000);
    let whose = socket_of(info, tcp).map_or("of one end".to_owned(), |party| format!("of the {}", names(party).0));
    let min = info.min_rtt.map(|min| format!(", {} at least", micros(min))).unwrap_or_default();
    format!(
        "{whose}: RTT {} ± {}{min}; {} of {} segments retransmitted, {} acked, {} received, congestion window {}",
        micros(info.rtt),
        micros(info.rttvar),
        grouped(info.total_retrans.into()),
        grouped(info.segs_out.into()),
        bytes(info.bytes_acked),
        bytes(info.bytes_received),
        grouped(info.snd_cwnd.into()),
    )
}

fn last_word_json(info: &FinalTcpInfo, tcp: &TcpSummary) -> Value {
    json!({
        "of": socket_of(info, tcp),
        "cookie": info.cookie,
        "ca_state": info.ca_state,
        "options": info.options,
        "window_scales": info.window_scales,
        "snd_mss_bytes": info.snd_mss,
        "rtt_us": info.rtt,
        "rttvar_us": info.rttvar,
        "min_rtt_us": info.min_rtt,
        "snd_cwnd": info.snd_cwnd,
        "snd_ssthresh": info.snd_ssthresh,
        "total_retrans": info.total_retrans,
        "segs_out": info.segs_out,
        "segs_in": info.segs_in,
        "data_segs_out": info.data_segs_out,
        "data_segs_in": info.data_segs_in,
        "dsack_dups": info.dsack_dups,
        "reord_seen": info.reord_seen,
        "reordering": info.reordering,
        "rcv_ooopack": info.rcv_ooopack,
        "bytes_acked": info.bytes_acked,
        "bytes_received": info.bytes_received,
        "bytes_retrans": info.bytes_retrans,
        "delivery_rate_bytes_per_s": info.delivery_rate,
        "busy_time_us": info.busy_time,
        "rwnd_limited_us": info.rwnd_limited,
        "sndbuf_limited_us": info.sndbuf_limited,
    })
}

/// Whose socket the kernel spoke of: the end whose bytes fit, if only one's do. FIN and SYN may count one each.
fn socket_of(info: &FinalTcpInfo, tcp: &TcpSummary) -> Option<Party> {
    let fits = |own: &EndSummary, other: &EndSummary| {
        info.bytes_acked.abs_diff(own.unique_bytes) <= 2 && info.bytes_received.abs_diff(other.unique_bytes) <= 2
    };
    match (fits(&tcp.client, &tcp.server), fits(&tcp.server, &tcp.client)) {
        (true, false) => Some(Party::Client),
        (false, true) => Some(Party::Server),
        _ => None,
    }
}

fn tool(metadata: &Metadata) -> String {
    let [major, minor, patch] = metadata.tool;
    format!("flowarc {major}.{minor}.{patch}")
}

fn provenance(metadata: &Metadata) -> String {
    let ended = match metadata.end {
        Some(EndReason::Fin) => "ended by FIN",
        Some(EndReason::Reset) => "ended by a reset",
        Some(EndReason::Closed) => "ended with its socket",
        Some(EndReason::CaptureWindow) => "ended with the capture duration",
        Some(EndReason::Idle) => "ended by silence",
        Some(EndReason::Reused) => "ended by the next connection of the same ports",
        Some(EndReason::Shutdown) => "ended with the program",
        Some(EndReason::EndOfInput) => "ended with the input",
        Some(EndReason::Budget) => "ended for want of memory",
        Some(EndReason::Salvaged) => "recovered after a crash",
        None => "not finished",
    };
    let flags = flag_words(metadata.flags).join(", ");
    let flags = if flags.is_empty() { flags } else { format!("; {flags}") };
    format!("archived by {}, {ended}{flags}", tool(metadata))
}

fn close(tcp: &TcpSummary) -> String {
    let who = tcp.closed_by.map(|party| names(party).0);
    match (tcp.close, who) {
        (Close::Fin, Some(who)) => format!("FIN both ways, the {who} first"),
        (Close::HalfClosed, Some(who)) => format!("FIN of the {who} alone"),
        (Close::Reset, Some(who)) => {
            let by = [(Party::Client, tcp.client.rst_packets), (Party::Server, tcp.server.rst_packets)];
            let resets: Vec<_> = by.iter().filter(|(_, n)| *n > 0).map(|(party, _)| names(*party).0).collect();
            let first = if resets.contains(&who) && tcp.client.fin_packets + tcp.server.fin_packets == 0 {
                String::new()
            } else {
                format!(", the {who} closed first")
            };
            format!("reset by the {}{first}", resets.join(" and the "))
        }
        _ => "no end seen".to_owned(),
    }
}

fn syn_options(syn: &SynOptions) -> String {
    let mut words = Vec::new();
    words.extend(syn.mss.map(|mss| format!("MSS {mss}")));
    words.extend(syn.window_scale.map(|shift| format!("WS {shift}")));
    let flags = [
        (syn.sack_permitted, "SACK"),
        (syn.timestamps, "TS"),
        (syn.ecn, "ECN"),
        (syn.fast_open, "TFO"),
        (syn.multipath, "MPTCP"),
    ];
    words.extend(flags.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()));
    if syn.payload_bytes > 0 {
        words.push(format!("{} data", bytes(syn.payload_bytes)));
    }
    if words.is_empty() { "none".to_owned() } else { words.join(" ") }
}

fn rtt(rtt: &Rtt) -> String {
    match (rtt.min_ns, rtt.median_ns, rtt.p95_ns) {
        (Some(min), Some(median), Some(p95)) => {
            format!("{} / {} / {} ({})", duration(min), duration(median), duration(p95), grouped(rtt.samples))
        }
        _ => "-".to_owned(),
    }
}

fn payload(end: &EndSummary) -> String {
    if end.data_packets == 0 {
        return "-".to_owned();
    }
    let segments = if end.super_packets > 0 {
        format!(", {} super-packets = {} segments", grouped(end.super_packets), grouped(end.data_segments))
    } else {
        String::new()
    };
    format!("{} in {}{segments}", bytes(end.unique_bytes), grouped(end.data_packets))
}

fn retransmitted(end: &EndSummary) -> String {
    if end.retransmitted_packets == 0 {
        return "-".to_owned();
    }
    let causes = list(&[
        (end.fast_retransmits, "fast"),
        (end.timeout_retransmits, "timeout"),
        (end.spurious_retransmits, "spurious"),
        (end.unknown_retransmits, "unknown"),
    ]);
    format!("{} ({:.2} %): {causes}", grouped(end.retransmitted_packets), end.retransmission_rate() * 100.0)
}

fn count(n: u64) -> String {
    if n == 0 { "-".to_owned() } else { grouped(n) }
}

/// The counts that are not zero, each with its word.
fn list(counts: &[(u64, &str)]) -> String {
    let there: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{} {word}", grouped(*n))).collect();
    if there.is_empty() { "-".to_owned() } else { there.join(", ") }
}

fn line(out: &mut String, text: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{}", text.trim_end());
}

/// Breaks a text between words into lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("begins with a line");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

/// Figures of both ends side by side; rows without any are left out.
#[derive(Default)]
struct Table {
    rows: Vec<[String; 3]>,
}

impl Table {
    fn heading(&mut self, label: &str, client: &str, server: &str) {
        self.rows.push([label, client, server].map(str::to_owned));
    }

    fn row(&mut self, label: &str, tcp: &TcpSummary, figure: impl Fn(&EndSummary) -> String) {
        let (client, server) = (figure(&tcp.client), figure(&tcp.server));
        if client != "-" || server != "-" {
            self.rows.push([label.to_owned(), client, server]);
        }
    }

    fn gap(&mut self) {
        self.rows.push(Default::default());
    }

    fn write(&self, out: &mut String, colour: Colour) {
        let width = |i: usize| self.rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
        let (label_width, client_width) = (width(0), width(1));
        for (i, [label, client, server]) in self.rows.iter().enumerate() {
            let label = colour.paint(Ink::Strong, &format!("{label:<label_width$}"));
            let cell = |text: &str, width: usize| {
                let ink = if i == 0 { Ink::Strong } else { Ink::Faint };
                let padded = format!("{text:<width$}");
                if i == 0 || text == "-" { colour.paint(ink, &padded) } else { padded }
            };
            line(out, &format!("{label}  {}  {}", cell(client, client_width), cell(server, 0)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{ACK, FIN, Talk, say};
    use crate::query::trust::weigh;

    #[test]
    fn the_kernels_last_word_is_shown_beside_what_the_packets_tell() {
        let mut talk = Talk::shake_hands();
        talk.client(100, say(1000, 9000, 500, ACK));
        talk.server(130, say(9000, 1500, 0, ACK));
        talk.client(140, say(1500, 9000, 0, FIN | ACK));
        let tcp = talk.end();
        let tcp_info = Some(FinalTcpInfo {
            cookie: 7,
            rtt: 40_100,
            rttvar: 300,
            min_rtt: Some(39_900),
            total_retrans: 1,
            segs_out: 1_234,
            bytes_acked: 502,
            snd_cwnd: 10,
            ..FinalTcpInfo::default()
        });
        let metadata = Metadata { tcp_info, end: Some(EndReason::Fin), ..Metadata::UNFINISHED };
        let trust = weigh(&tcp, Some(&metadata), None);
        let shown = Shown { file: "x.pcap.gz", tcp: &tcp, metadata: Some(&metadata), trust: &trust };
        let text = screen(&shown, Colour::Never);
        let kernel = "Kernel     of the client: RTT 40.1 ms ± 300 µs, 39.9 ms at least; 1 of 1,234 segments\n";
        assert!(text.contains(kernel), "{text}");
        assert_eq!(json(&shown)["metadata"]["tcp_info"]["of"], "client");
    }

    #[test]
    fn a_long_text_is_broken_between_words() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("", 8), [""]);
    }

    #[test]
    fn rows_that_say_nothing_of_either_end_are_left_out() {
        let tcp = Talk::shake_hands().end();
        let trust = weigh(&tcp, None, None);
        let text = screen(&Shown { file: "x", tcp: &tcp, metadata: None, trust: &trust }, Colour::Never);
        assert!(!text.contains("Retransmitted") && !text.contains("Kernel") && text.contains("SYN options"), "{text}");
        assert!(
            screen(&Shown { file: "x", tcp: &tcp, metadata: None, trust: &trust }, Colour::Always).contains("\u{1b}[1mTrust")
        );
    }
}
