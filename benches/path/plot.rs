//! A line plot as SVG: the horizontal axis logarithmic, for light and dark pages.

use std::fmt::Write;

/// A line for each series of points, with its name.
pub(crate) fn lines(title: &str, series: &[(&str, Vec<(f64, f64)>)]) -> String {
    let points = || series.iter().flat_map(|(_, points)| points);
    let (left, right) = points().fold((f64::MAX, f64::MIN), |(l, r), (x, _)| (l.min(x.log10()), r.max(x.log10())));
    let top = points().fold(0f64, |top, (_, y)| top.max(*y)) * 1.05;
    let x = |v: f64| LEFT + (v.log10() - left) / (right - left).max(1e-9) * WIDTH;
    let y = |v: f64| TOP + HEIGHT - v / top * HEIGHT;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="13">
<style>text{{fill:#333}}.grid{{stroke:#ccc}}@media(prefers-color-scheme:dark){{text{{fill:#ddd}}.grid{{stroke:#555}}}}</style>
<text x="{LEFT}" y="20" font-size="15">{title}</text>
"##,
        LEFT + WIDTH + 190.0,
        TOP + HEIGHT + 40.0
    );
    let step = 10f64.powf((top / 4.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * step).into_iter().find(|step| top / step <= 6.0).unwrap_or(step);
    for i in 0..=(top / step) as u32 {
        let v = f64::from(i) * step;
        let at = y(v);
        let _ = writeln!(
            svg,
            r#"<path class="grid" d="M{LEFT} {at:.1}h{WIDTH}"/><text x="{}" y="{:.1}" text-anchor="end">{v}</text>"#,
            LEFT - 8.0,
            at + 4.0
        );
    }
    for decade in left.ceil() as i32..=right.floor() as i32 {
        let (v, label) = (10f64.powi(decade), ["1", "10", "100", "1 k", "10 k", "100 k", "1 M", "10 M"]);
        let label = usize::try_from(decade).ok().and_then(|d| label.get(d)).unwrap_or(&"");
        let _ = writeln!(svg, r#"<text x="{:.1}" y="{}" text-anchor="middle">{label}</text>"#, x(v), TOP + HEIGHT + 20.0);
    }
    for ((name, points), colour) in series.iter().zip(["#1b7fbd", "#d95f02", "#7a7a7a"]) {
        let path: Vec<String> = points.iter().map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py))).collect();
        let _ = writeln!(svg, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2.5"/>"#, path.join(" "));
        if let Some((px, py)) = points.last() {
            let _ = writeln!(svg, r#"<text x="{:.1}" y="{:.1}">{name}</text>"#, x(*px) + 8.0, y(*py) + 4.0);
        }
    }
    svg + "</svg>\n"
}

const LEFT: f64 = 50.0;
const TOP: f64 = 40.0;
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 260.0;
