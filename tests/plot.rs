//! Plots as a user makes them, and the page in a real browser: that it draws, zooms, pans and follows the colour scheme.

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

#[test]
fn pictures_pages_and_xplot_files_are_written_where_they_were_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (html, svg) = (path("a.html"), path("a.svg"));
    for plot in [&html, &svg] {
        let out = flowarc(&["show", &data("v4.pcap"), "--flow=1", "--plot", plot]);
        assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
    }
    assert!(fs::read_to_string(&svg).unwrap().contains("192.0.2.10:443 sends"));
    assert!(fs::read_to_string(&html).unwrap().contains("<canvas"));
    assert!(flowarc(&["show", &data("v4.pcap"), "--flow=1", "--xplot", &path("x_")]).status.success());
    for suffix in ["c2s_tsg", "s2c_tsg", "c2s_rtt", "s2c_rtt"] {
        let text = fs::read_to_string(path(&format!("x_{suffix}.xpl"))).unwrap();
        assert!(text.starts_with("timeval unsigned\n") && text.ends_with("go\n"), "{suffix}");
    }
    assert_eq!(flowarc(&["show", &data("v4.pcap"), "--flow=1", "--plot", &path("a.png")]).status.code(), Some(64));
    assert_eq!(flowarc(&["show", "-", "--plot", &html]).status.code(), Some(64));
}

#[test]
fn in_a_browser_the_page_of_200_000_packets_draws_zooms_and_pans_in_light_and_dark() {
    let Some(chromium) = ["chromium", "chromium-browser", "google-chrome"].iter().find_map(|name| found(name)) else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run this test with chromium");
        eprintln!("SKIPPED: the page in a browser: no chromium");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (capture, page) = (dir.path().join("long.pcap"), dir.path().join("long.html"));
    fs::write(&capture, long_capture(100_000)).unwrap();
    let out = flowarc(&["show", capture.to_str().unwrap(), "--plot", page.to_str().unwrap()]);
    assert!(out.status.success(), "{out:?}");
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.len() < 6_000_000, "{} bytes", html.len());
    fs::write(&page, html.replace("</body>", &format!("<pre id=\"result\"></pre><script>{PROBE}</script></body>"))).unwrap();
    // 0 is dark and 1 light to Blink.
    for (scheme, background) in [("1", "rgb(255, 255, 255)"), ("0", "rgb(20, 23, 28)")] {
        let mut browser = Command::new(&chromium);
        browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--virtual-time-budget=5000"]);
        // It has nothing to look for on a network.
        browser.args([
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
        ]);
        browser.arg(format!("--user-data-dir={}", dir.path().join("profile").display()));
        browser.arg(format!("--blink-settings=preferredColorScheme={scheme}")).arg("--dump-dom");
        let out =
            browser.arg(format!("file://{}", page.display())).timeout(std::time::Duration::from_secs(120)).output().unwrap();
        let dom = String::from_utf8_lossy(&out.stdout);
        let result = dom.split("<pre id=\"result\">").nth(1).and_then(|rest| rest.split("</pre>").next()).unwrap_or_default();
        let seen: Value = serde_json::from_str(result).unwrap_or_else(|e| panic!("{e}: {result:?} {out:?}"));
        assert_eq!(seen["background"], background);
        let range = |step: &str| {
            let view = &seen[step];
            (view["from"].as_f64().unwrap(), view["to"].as_f64().unwrap(), view["segments"].as_u64().unwrap())
        };
        let (whole, wheel, drag, again) = (range("whole"), range("wheel"), range("drag"), range("doubleclick"));
        assert_eq!(whole.2, 100_002, "every segment of the busier direction, with SYN-ACK and FIN");
        assert!(wheel.1 - wheel.0 < (whole.1 - whole.0) / 4.0 && wheel.2 < whole.2 / 3 && wheel.2 > 0, "{seen}");
        assert!(
            drag.0 > wheel.0 && ((drag.1 - drag.0) - (wheel.1 - wheel.0)).abs() < 1e-6,
            "dragging left goes on in time: {seen}"
        );
        assert_eq!(again, whole, "a double click shows the whole");
        assert!(range("fragment").2 < 2_000, "the address's fragment picks a range: {seen}");
        assert_eq!(range("other").2, 2, "the other direction has a SYN and a FIN: {seen}");
        for canvas in ["sequence", "rtt", "flight", "rate"] {
            assert!(seen["inked"][canvas].as_u64().unwrap() > 500, "{canvas} is empty: {seen}");
        }
    }
}

/// What the test does in the page, with the events that a mouse makes.
const PROBE: &str = r##"
const canvas = document.getElementById("sequence"), box = canvas.getBoundingClientRect(), result = {inked: {}};
const look = name => { draw(); const n = /(\d+) segments/.exec(document.getElementById("view").textContent);
  result[name] = {from: state.from, to: state.to, segments: Number(n[1])}; };
const mouse = (type, part, more = {}) => ({bubbles: true, cancelable: true, pointerId: 1,
  clientX: box.left + 84 + part * (box.width - 98), clientY: box.top + 100, ...more});
look("whole");
for (const c of document.querySelectorAll("canvas")) {
  const {data} = c.getContext("2d").getImageData(90, 30, c.width - 110, c.height - 60);
  let inked = 0;
  for (let i = 3; i < data.length; i += 4) inked += data[i] > 0;
  result.inked[c.id] = inked;
}
for (let i = 0; i < 10; i++) canvas.dispatchEvent(new WheelEvent("wheel", {...mouse("wheel", 0.5), deltaY: -120}));
look("wheel");
canvas.dispatchEvent(new PointerEvent("pointerdown", mouse("pointerdown", 0.6)));
canvas.dispatchEvent(new PointerEvent("pointermove", mouse("pointermove", 0.4)));
canvas.dispatchEvent(new PointerEvent("pointerup", mouse("pointerup", 0.4)));
look("drag");
canvas.dispatchEvent(new MouseEvent("dblclick", mouse("dblclick", 0.5)));
look("doubleclick");
show(1, 1.05);
look("fragment");
whole();
document.querySelector("#directions button[aria-pressed=false]").click();
look("other");
result.background = getComputedStyle(document.body).backgroundColor;
document.getElementById("result").textContent = JSON.stringify(result);
"##;

/// A transfer of this many segments from the server, each acknowledged 20 ms later, some of them sent twice.
fn long_capture(segments: u64) -> Vec<u8> {
    let mut packets: Vec<(u64, u8, u64, u64, u8, u32)> =
        vec![(0, 0, 0, 0, 0x02, 0), (10, 1, 0, 1, 0x12, 0), (20, 0, 1, 1, 0x10, 0)];
    for i in 0..segments {
        let at = 1_000 + i * 100;
        packets.push((at, 1, 1 + i * 1448, 1, 0x10, 1448));
        packets.push((at + 20_000, 0, 1, 1 + (i + 1) * 1448, 0x10, 0));
    }
    let (end, close) = (1_000 + segments * 100 + 50_000, 1 + segments * 1448);
    packets.extend([(end, 1, close, 1, 0x11, 0), (end + 20, 0, 1, close + 1, 0x11, 0)]);
    packets.sort_by_key(|p| p.0);
    let mut file = Vec::new();
    file.extend([0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0]);
    for (micros, sender, seq, ack, flags, payload) in packets {
        let wire = 54 + payload;
        for field in [1_795_262_400 + (micros / 1_000_000) as u32, (micros % 1_000_000) as u32 * 1000, 54, wire] {
            file.extend(field.to_le_bytes());
        }
        let (ends, ports) = ([[192, 0, 2, 2], [192, 0, 2, 1]], [40_000u16, 443]);
        let (own, other) = (usize::from(sender), usize::from(1 - sender));
        file.extend([2; 12]);
        file.extend([8, 0, 0x45, 0]);
        file.extend(((40 + payload) as u16).to_be_bytes());
        file.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        file.extend(ends[own]);
        file.extend(ends[other]);
        file.extend(ports[own].to_be_bytes());
        file.extend(ports[other].to_be_bytes());
        file.extend(((0xffff_0000u32).wrapping_add(seq as u32)).to_be_bytes());
        file.extend(((0xffff_0000u32).wrapping_add(ack as u32)).to_be_bytes());
        file.extend([0x50, flags, 0xff, 0, 0, 0, 0, 0]);
    }
    file
}

fn found(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/local/bin", "/snap/bin"].iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

fn data(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name).display().to_string()
}

fn flowarc(args: &[&str]) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("flowarc")).env_clear().args(args).output().unwrap()
}
