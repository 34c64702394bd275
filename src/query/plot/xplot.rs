//! Files of xplot, in the style of tcptrace: one time-sequence graph for each direction, one of round-trip times.

use super::{Mark, Plot};
use std::fmt::Write;

/// The files: the end of each one's name, and its text.
pub fn write(plot: &Plot<'_>) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    for sender in [plot.series.client, 1 - plot.series.client] {
        let (name, _) = plot.name(sender);
        files.push((if name == "client" { "c2s_tsg.xpl" } else { "s2c_tsg.xpl" }, sequence(plot, sender)));
        files.push((if name == "client" { "c2s_rtt.xpl" } else { "s2c_rtt.xpl" }, rtt(plot, sender)));
    }
    files
}

fn sequence(plot: &Plot<'_>, sender: usize) -> String {
    let mut out = head(plot, sender, "time sequence graph", "sequence offset");
    let origin = plot.series.origins[sender];
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(out, "{text}");
    };
    let mut last: Option<(String, u64, u64)> = None;
    for point in &plot.series.points {
        let (at, seen) = (time(point.time.as_nanos()), point.seen);
        if seen.sender == sender {
            let (from, to) = (seen.start.saturating_sub(origin), seen.end.saturating_sub(origin));
            if from == to {
                continue;
            }
            let (colour, letter) = match Mark::from(seen.role) {
                Mark::Fast | Mark::Timeout | Mark::Spurious | Mark::Unknown => ("red", Some("R")),
                Mark::OutOfOrder => ("pink", Some("O")),
                Mark::Probe => ("blue", Some("P")),
                Mark::Empty | Mark::New => ("white", None),
            };
            line(format_args!("{colour}\ndarrow {at} {from}\nuarrow {at} {to}\nline {at} {from} {at} {to}"));
            if let Some(letter) = letter {
                line(format_args!("atext {at} {to}\n{letter}"));
            }
        } else if let Some(ack) = seen.ack {
            let (ack, edge) = (ack.saturating_sub(origin), ack.saturating_sub(origin) + seen.window);
            if let Some((before, old_ack, old_edge)) = &last {
                line(format_args!("green\nline {before} {old_ack} {at} {old_ack}\nline {at} {old_ack} {at} {ack}"));
                line(format_args!("yellow\nline {before} {old_edge} {at} {old_edge}\nline {at} {old_edge} {at} {edge}"));
            }
            if seen.duplicate_ack {
                line(format_args!("green\ndtick {at} {ack}"));
            }
            for (from, to) in &seen.sack[..seen.sack_blocks] {
                let (from, to) = (from.saturating_sub(origin), to.saturating_sub(origin));
                line(format_args!("purple\nline {at} {from} {at} {to}"));
            }
            last = Some((at, ack, edge));
        }
    }
    line(format_args!("go"));
    out
}

fn rtt(plot: &Plot<'_>, sender: usize) -> String {
    let mut out = head(plot, sender, "round-trip times of its data", "microseconds");
    for point in plot.series.points.iter().filter(|p| p.seen.sender != sender) {
        if let Some(rtt) = point.seen.rtt_ns {
            let _ = writeln!(out, "red\ndot {} {}", time(point.time.as_nanos()), rtt / 1_000);
        }
    }
    out.push_str("go\n");
    out
}

fn head(plot: &Plot<'_>, sender: usize, what: &str, unit: &str) -> String {
    let ((_, from), (_, to)) = (plot.name(sender), plot.name(1 - sender));
    format!("timeval unsigned\ntitle\n{from}_==>_{to} ({what})\nxlabel\ntime\nylabel\n{unit}\n")
}

/// Seconds and microseconds, all that xplot's `timeval` has.
fn time(nanos: u64) -> String {
    format!("{}.{:06}", nanos / 1_000_000_000, nanos % 1_000_000_000 / 1_000)
}

#[cfg(test)]
mod tests {
    use super::super::tests::series;
    use super::*;

    #[test]
    fn a_time_sequence_graph_has_segments_acks_windows_retransmissions_and_sacks() {
        let series = series();
        let files = write(&Plot { title: "t", series: &series, ends: ["a", "b"] });
        assert_eq!(files.iter().map(|f| f.0).collect::<Vec<_>>(), ["c2s_tsg.xpl", "c2s_rtt.xpl", "s2c_tsg.xpl", "s2c_rtt.xpl"]);
        let graph = &files[0].1;
        assert!(graph.starts_with("timeval unsigned\ntitle\na_==>_b (time sequence graph)\n") && graph.ends_with("go\n"));
        for part in [
            "white\ndarrow 1.030000 1\nuarrow 1.030000 501\nline 1.030000 1 1.030000 501\n",
            "red\ndarrow 1.050000 1\nuarrow 1.050000 501\nline 1.050000 1 1.050000 501\natext 1.050000 501\nR\n",
            "purple\nline 1.045000 501 1.045000 1001\n",
            "green\nline 1.045000 1 1.060000 1\nline 1.060000 1 1.060000 1001\n",
        ] {
            assert!(graph.contains(part), "{part} in {graph}");
        }
    }
}
