//! A page that stands alone: the packets, delta-coded, and a script that draws, zooms and pans.

use super::{Mark, Plot, escape};
use crate::analysis::Position;
use std::fmt::Write;

/// The page.
pub fn write(plot: &Plot<'_>) -> String {
    let data = base64(&encode(plot));
    let mut facts = String::new();
    let _ = write!(
        facts,
        "{{\"client\":{},\"ends\":[{},{}],\"start\":{}}}",
        plot.series.client,
        quoted(plot.name(0).1),
        quoted(plot.name(1).1),
        plot.start() / 1_000_000,
    );
    PAGE.replace("{title}", &escape(plot.title)).replace("{facts}", &facts).replace("{data}", &data)
}

/// The packets as one stream of varints: what differs from the packet before of the same sender, mostly, and so is small.
fn encode(plot: &Plot<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut time = plot.start();
    // For each sender: the end of its last segment, its last acknowledgement and window.
    let mut last = [[0u64; 3]; 2];
    varint(&mut out, plot.series.points.len() as u64);
    for point in &plot.series.points {
        let (seen, now) = (point.seen, point.time.as_nanos());
        let relative = |position: Position, sender: usize| position.saturating_sub(plot.series.origins[sender]);
        let head = seen.sender as u8
            | (Mark::from(seen.role) as u8) << 1
            | u8::from(seen.ack.is_some()) << 4
            | u8::from(seen.duplicate_ack) << 5
            | u8::from(seen.rtt_ns.is_some()) << 6
            | u8::from(seen.rtt_timestamps_ns.is_some()) << 7;
        out.extend([head, seen.flags]);
        difference(&mut out, now, time);
        time = now;
        let [end, acked, window] = &mut last[seen.sender];
        let start = relative(seen.start, seen.sender);
        difference(&mut out, start, *end);
        *end = relative(seen.end, seen.sender);
        varint(&mut out, end.saturating_sub(start));
        if let Some(ack) = seen.ack {
            let ack = relative(ack, 1 - seen.sender);
            difference(&mut out, ack, *acked);
            *acked = ack;
            difference(&mut out, seen.window, *window);
            *window = seen.window;
            varint(&mut out, seen.sack_blocks as u64);
            for (from, to) in &seen.sack[..seen.sack_blocks] {
                difference(&mut out, relative(*from, 1 - seen.sender), ack);
                varint(&mut out, to.saturating_sub(*from));
            }
        }
        seen.rtt_ns.into_iter().for_each(|rtt| varint(&mut out, rtt));
        seen.rtt_timestamps_ns.into_iter().for_each(|rtt| varint(&mut out, rtt));
    }
    out
}

/// LEB128: seven bits a byte, the lowest first.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A signed difference, folded so that small ones of either sign are short.
fn difference(out: &mut Vec<u8>, value: u64, from: u64) {
    let difference = value.wrapping_sub(from) as i64;
    varint(out, (difference << 1 ^ difference >> 63) as u64);
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0u32, |group, i| group << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let six = (group >> (18 - 6 * i) & 63) as usize;
            text.push(if i <= chunk.len() { char::from(ALPHABET[six]) } else { '=' });
        }
    }
    text
}

/// A string of JSON within a script element.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('<', "\\u003c")
}

const PAGE: &str = include_str!("page.html");

#[cfg(test)]
mod tests {
    use super::super::tests::series;
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn numbers_are_short_where_they_are_small() {
        let mut out = Vec::new();
        varint(&mut out, 300);
        difference(&mut out, 5, 6);
        difference(&mut out, 6, 5);
        assert_eq!(out, [0xac, 2, 1, 2]);
    }

    #[test]
    fn the_page_asks_for_nothing_from_elsewhere_and_shows_no_markup_of_names() {
        let series = series();
        let page = write(&Plot { title: "<script>alert(1)</script>", series: &series, ends: ["</script>", "b"] });
        assert!(!page.contains("://") && !page.contains("<script>alert") && !page.contains("\"</script>\""));
        assert!(page.contains("&lt;script&gt;") && !page.contains("{data}"));
    }
}
