//! A picture of the busier direction: four panels over one time axis, light or dark as the reader's system is.

use super::{Mark, Plot, escape};
use crate::query::survey::Point;
use std::fmt::Write;

/// The picture, 1,200 by 1,000 pixels. Where many packets share a column of pixels, their least and greatest values show.
pub fn write(plot: &Plot<'_>) -> String {
    let sender = plot.busier();
    let lines = Lines::of(plot, sender);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} 1000\" width=\"{WIDTH}\" height=\"1000\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<rect class=\"back\" width=\"100%\" height=\"100%\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" class=\"head\">{title}</text>\n<text x=\"{LEFT}\" y=\"46\" class=\"faint\">{who} {end} sends</text>\n",
        title = escape(plot.title),
        who = plot.name(sender).0,
        end = escape(plot.name(sender).1),
    );
    legend(&mut out);
    let span = plot.series.points.iter().map(|p| p.time.as_nanos()).max().unwrap_or_default().saturating_sub(plot.start());
    let until = (span as f64 / 1e9).max(1e-6);
    let mut panel = Panel { out: &mut out, until, top: 92.0, height: 420.0, low: 0.0, high: 1.0 };

    let highest = greatest(lines.segments.iter().map(|s| s.to).chain(lines.acks.iter().map(|a| a.1)));
    // The window's edge belongs to the picture unless it flattens the rest of it.
    let edge = Some(greatest(lines.edges.iter().map(|e| e.1))).filter(|edge| *edge < highest * 1.6);
    panel.begin("Sequence numbers", "B", edge.unwrap_or(highest).max(highest));
    panel.curve(&lines.edges, "window");
    panel.curve(&lines.acks, "ack");
    panel.bars(&lines.segments, |mark| mark == Mark::New, "segment");
    panel.bars(&lines.sacks, |_| true, "sack");
    panel.bars(&lines.segments, |mark| mark == Mark::Probe, "sack");
    panel.bars(&lines.segments, |mark| mark == Mark::OutOfOrder, "late");
    let again = |mark| matches!(mark, Mark::Fast | Mark::Timeout | Mark::Spurious | Mark::Unknown);
    panel.bars(&lines.segments, again, "again");
    panel.end();

    (panel.top, panel.height) = (566.0, 100.0);
    panel.begin(
        "Round-trip time, capture point to receiver and back",
        "s",
        greatest(lines.rtt.iter().chain(&lines.stamps).map(|p| p.1)),
    );
    panel.dots(&lines.stamps, "window");
    panel.dots(&lines.rtt, "ack");
    panel.end();

    (panel.top, panel.height) = (716.0, 100.0);
    panel.begin("Bytes in flight", "B", greatest(lines.flight.iter().map(|p| p.1)));
    panel.curve(&lines.flight, "segment");
    panel.end();

    (panel.top, panel.height) = (866.0, 100.0);
    let (sent, acked) = (rate(&lines.sent, until), rate(&lines.gains, until));
    let title = format!("Throughput, averaged over {}", scaled(until / BINS as f64, until / BINS as f64 / 10.0, "s"));
    panel.begin(&title, "bit/s", greatest(sent.iter().chain(&acked).map(|p| p.1)));
    panel.curve(&sent, "segment");
    panel.curve(&acked, "ack");
    panel.end();
    out.push_str("</svg>\n");
    out
}

/// A run of positions at a time, in seconds and bytes.
#[derive(Clone, Copy)]
struct Bar {
    at: f64,
    from: f64,
    to: f64,
    mark: Mark,
}

/// What one direction draws; points are seconds and values.
#[derive(Default)]
struct Lines {
    segments: Vec<Bar>,
    sacks: Vec<Bar>,
    acks: Vec<(f64, f64)>,
    edges: Vec<(f64, f64)>,
    rtt: Vec<(f64, f64)>,
    stamps: Vec<(f64, f64)>,
    flight: Vec<(f64, f64)>,
    /// Bytes sent, and bytes newly acknowledged.
    sent: Vec<(f64, f64)>,
    gains: Vec<(f64, f64)>,
}

impl Lines {
    fn of(plot: &Plot<'_>, sender: usize) -> Self {
        let mut points: Vec<Point> = plot.series.points.clone();
        points.sort_by_key(|p| p.time);
        let (start, origin) = (plot.start(), plot.series.origins[sender]);
        let offset = |position: u64| position.saturating_sub(origin) as f64;
        let mut lines = Self::default();
        let (mut top, mut acked) = (0f64, 0f64);
        for Point { time, seen } in points {
            let at = (time.as_nanos() - start) as f64 / 1e9;
            if seen.sender == sender {
                let (from, to) = (offset(seen.start), offset(seen.end));
                if to > from {
                    lines.segments.push(Bar { at, from, to, mark: seen.role.into() });
                    lines.sent.push((at, to - from));
                    top = top.max(to);
                }
            } else if let Some(ack) = seen.ack {
                let ack = offset(ack);
                lines.acks.push((at, ack));
                lines.edges.push((at, ack + seen.window as f64));
                lines.gains.push((at, (ack - acked).max(0.0)));
                acked = acked.max(ack);
                let blocks = seen.sack[..seen.sack_blocks].iter();
                lines.sacks.extend(blocks.map(|b| Bar { at, from: offset(b.0), to: offset(b.1), mark: Mark::Empty }));
                lines.rtt.extend(seen.rtt_ns.map(|rtt| (at, rtt as f64 / 1e9)));
                lines.stamps.extend(seen.rtt_timestamps_ns.map(|rtt| (at, rtt as f64 / 1e9)));
            }
            lines.flight.push((at, (top - acked).max(0.0)));
        }
        lines
    }
}

/// One set of axes.
struct Panel<'a> {
    out: &'a mut String,
    /// The time axis's end, seconds.
    until: f64,
    top: f64,
    height: f64,
    low: f64,
    high: f64,
}

impl Panel<'_> {
    fn begin(&mut self, title: &str, unit: &str, high: f64) {
        self.high = if high > 0.0 { high * 1.07 } else { 1.0 };
        let (top, bottom) = (self.top, self.top + self.height);
        let right = LEFT + INNER;
        let step = nice(self.high, self.height / 30.0);
        let mut grid = String::new();
        let mut labels = String::new();
        let mut tick = 0.0;
        while tick <= self.high {
            let y = self.y(tick);
            let _ = write!(grid, "M{LEFT} {y:.1}H{right}");
            let label = scaled(tick, step, unit);
            let _ = write!(labels, "<text x=\"{}\" y=\"{:.1}\" class=\"faint end\">{label}</text>", LEFT - 7.0, y + 4.0);
            tick += step;
        }
        let step = nice(self.until, 10.0);
        let mut tick = 0.0;
        while tick <= self.until {
            let x = self.x(tick);
            let _ = write!(grid, "M{x:.1} {top}V{bottom}");
            let label = scaled(tick, step, "s");
            let _ = write!(labels, "<text x=\"{x:.1}\" y=\"{:.1}\" class=\"faint middle\">{label}</text>", bottom + 16.0);
            tick += step;
        }
        let _ = write!(
            self.out,
            "<g>\n<text x=\"{LEFT}\" y=\"{:.1}\">{title}</text>\n<path class=\"grid\" d=\"{grid}\"/>\n{labels}\n\
             <rect class=\"frame\" x=\"{LEFT}\" y=\"{top}\" width=\"{INNER}\" height=\"{}\"/>\n\
             <svg x=\"{LEFT}\" y=\"{top}\" width=\"{INNER}\" height=\"{}\" viewBox=\"{LEFT} {top} {INNER} {}\">\n",
            top - 8.0,
            self.height,
            self.height,
            self.height,
        );
    }

    fn end(&mut self) {
        self.out.push_str("</svg>\n</g>\n");
    }

    fn x(&self, time: f64) -> f64 {
        LEFT + time / self.until * INNER
    }

    fn y(&self, value: f64) -> f64 {
        self.top + self.height - (value - self.low) / (self.high - self.low) * self.height
    }

    /// Steps from point to point; of a column, its least, greatest and last value.
    fn curve(&mut self, points: &[(f64, f64)], class: &str) {
        let mut path = String::new();
        let mut rest = points;
        while let Some(&(time, first)) = rest.first() {
            let column = self.column(time);
            let here = rest.iter().take_while(|p| self.column(p.0) == column).count();
            let (low, high) = rest[..here].iter().fold((first, first), |(l, h), p| (l.min(p.1), h.max(p.1)));
            let last = rest[here - 1].1;
            let x = f64::from(column) / 2.0;
            if path.is_empty() {
                let _ = write!(path, "M{x} {:.1}", self.y(first));
            } else {
                let _ = write!(path, "H{x}");
            }
            if here > 1 {
                let _ = write!(path, "V{:.1}V{:.1}", self.y(low), self.y(high));
            }
            let _ = write!(path, "V{:.1}", self.y(last));
            rest = &rest[here..];
        }
        self.path(class, &path);
    }

    /// Vertical strokes; those of a column that touch become one.
    fn bars(&mut self, bars: &[Bar], wanted: impl Fn(Mark) -> bool, class: &str) {
        let mut path = String::new();
        let mut open: Option<(i32, f64, f64)> = None;
        // What is rare and matters is seen however short it is.
        let least = if matches!(class, "again" | "late") { 6.0 } else { 1.5 };
        let touch = (self.high - self.low) / self.height;
        let flush = |open: Option<(i32, f64, f64)>, path: &mut String| {
            if let Some((column, from, to)) = open {
                let (y1, y2) = (self.y(from), self.y(to));
                let _ = write!(path, "M{} {:.1}V{:.1}", f64::from(column) / 2.0, y1.max(y2 + least), y2);
            }
        };
        for bar in bars.iter().filter(|bar| wanted(bar.mark)) {
            let column = self.column(bar.at);
            open = match open {
                Some((at, from, to)) if at == column && bar.from <= to + touch && bar.to >= from - touch => {
                    Some((at, from.min(bar.from), to.max(bar.to)))
                }
                _ => {
                    flush(open, &mut path);
                    Some((column, bar.from, bar.to))
                }
            };
        }
        flush(open, &mut path);
        self.path(class, &path);
    }

    /// One dot for each pixel that has any.
    fn dots(&mut self, points: &[(f64, f64)], class: &str) {
        let mut pixels: Vec<(i32, i32)> = points.iter().map(|p| (self.column(p.0), self.y(p.1).round() as i32)).collect();
        pixels.sort_unstable();
        pixels.dedup();
        let mut path = String::new();
        for (x, y) in pixels {
            let _ = write!(path, "M{} {y}h0", f64::from(x) / 2.0);
        }
        self.path(&format!("{class} dots"), &path);
    }

    fn path(&mut self, class: &str, path: &str) {
        if !path.is_empty() {
            let _ = writeln!(self.out, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }

    /// Half pixels: what can be told apart on a dense display.
    fn column(&self, time: f64) -> i32 {
        (self.x(time) * 2.0).round() as i32
    }
}

fn legend(out: &mut String) {
    let entries = [
        ("segment", "segment, in flight, sent"),
        ("ack", "acknowledged, RTT by sequence"),
        ("window", "window's edge, RTT by timestamps"),
        ("again", "sent again"),
        ("late", "out of order"),
        ("sack", "SACK, probes"),
    ];
    let mut x = LEFT;
    for (class, text) in entries {
        let _ = writeln!(
            out,
            "<path class=\"{class} key\" d=\"M{x} 64h16\"/><text x=\"{}\" y=\"68\" class=\"faint\">{text}</text>",
            x + 21.0
        );
        x += 21.0 + 6.6 * text.len() as f64 + 16.0;
    }
}

/// Bits per second in each of a fixed number of times.
fn rate(points: &[(f64, f64)], until: f64) -> Vec<(f64, f64)> {
    let width = until / BINS as f64;
    let mut bins = vec![0.0; BINS];
    for (at, bytes) in points {
        bins[((at / width) as usize).min(BINS - 1)] += bytes;
    }
    bins.iter().enumerate().map(|(i, bytes)| (i as f64 * width, bytes * 8.0 / width)).collect()
}

/// The distance of round ticks of which about `count` reach `high`.
fn nice(high: f64, count: f64) -> f64 {
    let raw = high / count.max(1.0);
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|s| raw <= s * power * 1.000_001).unwrap_or(10.0);
    step * power
}

/// A tick's label: with the prefix that fits, and as many digits as ticks of this step need.
fn scaled(value: f64, step: f64, unit: &str) -> String {
    if value.abs() < step / 1e6 {
        return format!("0 {unit}");
    }
    let prefixes: &[(f64, &str)] = match unit {
        "s" => &[(1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")],
        _ => &[(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")],
    };
    let fits = prefixes.iter().find(|(size, _)| value.abs() >= size * 0.999).or(prefixes.last());
    let (size, prefix) = fits.copied().unwrap_or((1.0, ""));
    let digits = (-((step / size).log10() + 1e-9).floor()).clamp(0.0, 6.0) as usize;
    format!("{:.digits$} {prefix}{unit}", value / size)
}

fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 90.0;
const INNER: f64 = 1090.0;

/// Bins of the throughput, six pixels each.
const BINS: usize = 180;

const STYLE: &str = "\
:root{--back:#fff;--text:#1b1f24;--faint:#667085;--grid:#e6e8ec;--frame:#b8bec8;--segment:#1f2937;--ack:#15803d;--window:#b45309;\
--again:#dc2626;--late:#c026d3;--sack:#2563eb}\
@media(prefers-color-scheme:dark){:root{--back:#14171c;--text:#e6e8eb;--faint:#98a2b3;--grid:#2a3039;--frame:#475060;\
--segment:#e5e7eb;--ack:#4ade80;--window:#fbbf24;--again:#f87171;--late:#e879f9;--sack:#60a5fa}}\
text{font:13px system-ui,sans-serif;fill:var(--text)}.head{font-size:16px;font-weight:600}.faint{fill:var(--faint);font-size:12px}\
.end{text-anchor:end}.middle{text-anchor:middle}.back{fill:var(--back)}path{fill:none;stroke-width:1}\
.grid{stroke:var(--grid)}.frame{fill:none;stroke:var(--frame)}.segment{stroke:var(--segment)}.ack{stroke:var(--ack)}\
.window{stroke:var(--window)}.again{stroke:var(--again);stroke-width:2}.late{stroke:var(--late);stroke-width:2}.sack{stroke:var(--sack)}\
.dots{stroke-linecap:round;stroke-width:2.5}.key{stroke-width:3}";

#[cfg(test)]
mod tests {
    use super::super::tests::series;
    use super::*;

    #[test]
    fn ticks_are_round_and_their_labels_short() {
        assert_eq!((nice(95.0, 10.0), nice(0.0032, 10.0)), (10.0, 0.0005));
        let labels = [scaled(0.0, 1.0, "s"), scaled(0.25, 0.05, "s"), scaled(1.5, 0.5, "s"), scaled(2_500_000.0, 500_000.0, "B")];
        assert_eq!(labels, ["0 s", "250 ms", "1.5 s", "2.5 MB"]);
    }

    #[test]
    fn a_picture_has_every_kind_of_line_and_asks_for_nothing_from_elsewhere() {
        let series = series();
        let picture = write(&Plot { title: "a < b", series: &series, ends: ["a", "b"] });
        for class in ["segment", "ack", "window", "again", "sack", "ack dots"] {
            assert!(picture.contains(&format!("<path class=\"{class}\" d=\"M")), "{class}");
        }
        assert!(picture.contains("a &lt; b") && picture.matches("://").count() == 1, "only the name space");
    }

    #[test]
    fn two_hundred_thousand_packets_make_a_picture_of_bounded_size() {
        let mut series = series();
        let pattern = series.points.clone();
        series.points = (0..200_000u64)
            .map(|i| {
                let mut point = pattern[3 + (i % 2) as usize * 2];
                point.time = crate::time::Timestamp::from_nanos(1_000_000_000 + i * 50_000);
                (point.seen.start, point.seen.end) = (point.seen.start + i * 500, point.seen.end + i * 500);
                point
            })
            .collect();
        let picture = write(&Plot { title: "t", series: &series, ends: ["a", "b"] });
        assert!(picture.len() < 1_000_000, "{} bytes", picture.len());
    }
}
