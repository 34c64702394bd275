//! Holds the documentation to the program, and the source tree to its own rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn the_readme_lists_every_flag_as_the_command_line_has_it() {
    let out = bare_flowarc(&["headers", "--help"]).env("COLUMNS", "1000").output().unwrap();
    let flags = flags(&String::from_utf8(out.stdout).unwrap());
    assert!(flags.len() > 20, "only {} flags were found in the help text", flags.len());
    let mut table = "\n| flag | environment | default | meaning |\n|---|---|---|---|\n".to_owned();
    for Flag { name, variable, default, meaning, values } in flags {
        let values = if values.is_empty() { String::new() } else { format!(" (`{}`)", values.join("`, `")) };
        table += &format!("| `--{name}` | `{variable}` | {default} | {meaning}{values} |\n");
    }
    let readme = read("README.md");
    let section = between(&readme, "<!-- flags -->", "<!-- end of flags -->");
    assert!(section == table, "README.md must have this between its markers:\n{table}");
}

#[test]
fn the_page_on_capture_lists_every_flag_as_the_command_line_has_it() {
    let out = bare_flowarc(&["capture", "--help"]).env("COLUMNS", "1000").output().unwrap();
    let flags = flags(&String::from_utf8(out.stdout).unwrap());
    assert!(flags.len() > 20, "only {} flags were found in the help text", flags.len());
    let mut table = "\n| flag | default | meaning |\n|---|---|---|\n".to_owned();
    for Flag { name, default, meaning, values, .. } in flags {
        let values = if values.is_empty() { String::new() } else { format!(" (`{}`)", values.join("`, `")) };
        table += &format!("| `--{name}` | {default} | {meaning}{values} |\n");
    }
    let page = read("docs/CAPTURE.md");
    let section = between(&page, "<!-- flags -->", "<!-- end of flags -->");
    assert!(section == table, "docs/CAPTURE.md must have this between its markers:\n{table}");
}

#[test]
fn the_metrics_page_lists_what_the_program_exports_and_the_names_keep_the_rules() {
    let Some(headers) = exported_metrics("headers") else { return };
    let Some(capture) = exported_metrics("capture") else { return };
    let (headers, mut capture) = (families(&headers), families(&capture));
    check_metrics(&headers, "<!-- exported -->", "<!-- end of exported -->");
    // What both export is described once.
    capture.retain(|name, _| !headers.contains_key(name));
    check_metrics(&capture, "<!-- exported by capture -->", "<!-- end of exported by capture -->");
}

/// Holds what is exported to the rows between two marks.
fn check_metrics(exported: &BTreeMap<String, Family>, begin: &str, end: &str) {
    for (name, family) in exported {
        assert!(!family.help.is_empty(), "{name} has no help text");
        if name.starts_with("flowarc_") {
            assert_eq!(family.broken_rule(name), None, "{name}");
        }
    }
    let documented = documented_metrics(begin, end);
    assert_eq!(
        documented.keys().collect::<Vec<_>>(),
        exported.keys().collect::<Vec<_>>(),
        "docs/METRICS.md on the left, /metrics on the right"
    );
    for (name, row) in documented {
        let family = &exported[&name];
        assert_eq!(row.kind, family.kind, "type of {name} in docs/METRICS.md");
        assert_eq!(row.labels.keys().collect::<Vec<_>>(), family.labels.keys().collect::<Vec<_>>(), "labels of {name}");
        for (label, values) in row.labels {
            assert!(values.is_empty() || values == family.labels[&label], "values of {label} of {name}: {:?}", family.labels);
        }
    }
}

#[test]
fn the_pages_name_no_metric_that_does_not_exist() {
    let mut known = documented_metrics("<!-- exported -->", "<!-- end of exported -->");
    known.extend(documented_metrics("<!-- exported by capture -->", "<!-- end of exported by capture -->"));
    for page in pages() {
        let text = read(&page);
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let ours =
                ["flowarc_", "pcap_missed_", "pcap_saver_", "pcap_demuxer_", "pcap_muxer_"].iter().any(|p| word.starts_with(p));
            // The crate's name in Rust, and prefixes that stand for all that begin so.
            if ours && word != "flowarc_eventsocket" && !word.ends_with('_') {
                assert!(known.contains_key(word), "{}: {word}", page.display());
            }
        }
    }
}

#[test]
fn every_panel_and_alert_asks_for_metrics_that_exist() {
    let mut known = documented_metrics("<!-- exported -->", "<!-- end of exported -->");
    known.extend(documented_metrics("<!-- exported by capture -->", "<!-- end of exported by capture -->"));
    let files = tree(Path::new("deploy"), &mut |p| {
        let name = p.file_name().unwrap().to_string_lossy();
        (name.starts_with("grafana-") && name.ends_with(".json")) || name == "rules.yaml"
    });
    assert!(files.len() >= 4, "{files:?}");
    for path in files {
        let text = read(&path);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let ours = ["flowarc_", "pcap_", "process_", "promhttp_"];
        let metrics: Vec<_> = words.filter(|w| ours.iter().any(|p| w.starts_with(p))).collect();
        assert!(metrics.len() > 10, "{}", path.display());
        for metric in metrics {
            assert!(known.contains_key(metric.trim_end_matches("_bucket")), "{metric} in {}", path.display());
        }
    }
}

#[test]
fn the_operations_page_quotes_log_lines_that_the_program_writes() {
    let source: String = sources().iter().map(read).collect();
    let page = read("docs/OPERATIONS.md");
    let rows: Vec<_> = rows(between(&page, "<!-- log lines -->", "<!-- end of log lines -->")).collect();
    assert!(rows.len() > 10);
    for row in rows {
        for part in row[0].trim_matches('`').split("…").map(str::trim).filter(|p| !p.is_empty()) {
            assert!(source.contains(part), "no log line has {part:?}");
        }
    }
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    for page in pages() {
        for link in read(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (target, anchor) = link.split_once('#').map_or((link, None), |(target, anchor)| (target, Some(anchor)));
            let target = if target.is_empty() { page.clone() } else { page.parent().unwrap().join(target) };
            assert!(root().join(&target).exists(), "{}: {link}", page.display());
            if let Some(anchor) = anchor {
                let anchors = anchors(&read(&target));
                assert!(anchors.contains(anchor), "{}: {link} is none of {anchors:?}", page.display());
            }
        }
    }
}

/// What the headings of a page can be linked to by, as forges make it of their text.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let headings = text.lines().filter(|line| {
        fenced ^= line.starts_with("```");
        !fenced && line.starts_with('#')
    });
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn a_module_imports_only_from_those_before_it() {
    let front = read("src/lib.rs");
    let order = front.split("in this order:").nth(1).unwrap().split("pub mod").next().unwrap();
    let order: Vec<_> = order.split('`').skip(1).step_by(2).flat_map(str::split_whitespace).collect();
    let modules: BTreeSet<_> = front.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), modules, "the order in src/lib.rs names every module once");
    let place = |module: &str| order.iter().position(|m| *m == module);
    for path in sources().iter().filter(|p| p.starts_with("src")) {
        let module = path.components().nth(1).unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let Some(own) = place(module) else { continue };
        for line in read(path).lines().map(str::trim_start).filter(|l| !l.starts_with("//")) {
            for used in line.split("crate::").skip(1) {
                let used = used.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap();
                let used = place(used).unwrap_or_else(|| panic!("{}: name one module in {line}", path.display()));
                assert!(used <= own, "{}: {module} comes before {} in the order: {line}", path.display(), order[used]);
            }
        }
    }
}

#[test]
fn no_file_names_a_place_of_the_machine_that_it_was_written_on() {
    // In two parts, so that this file does not hold what it looks for.
    let places = ["home", "root", "work", "Users"].map(|place| ["/", place, "/"].concat());
    for path in tree(Path::new(""), &mut |_| true) {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for place in &places {
            let from_here = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || "._-{}~)".contains(c));
            assert!(!text.match_indices(place).any(|(at, _)| from_here(at)), "{} names {place}", path.display());
        }
    }
}

#[test]
fn a_source_file_holds_one_idea() {
    for path in sources() {
        let lines = read(&path).lines().count();
        assert!(lines < 1000, "{} has {lines} lines: split it", path.display());
        if lines > 600 {
            eprintln!("WARNING: {} has {lines} lines", path.display());
        }
    }
}

#[test]
fn no_dependency_needs_a_newer_rust_than_is_stated() {
    // Of this platform only: cargo has not downloaded what others would need.
    let environment = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    let platform = format!("--filter-platform={}-unknown-linux-{environment}", std::env::consts::ARCH);
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--offline", "--locked", "--format-version=1", &platform]);
    let out = command.current_dir(root()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let used: BTreeSet<_> = nodes.iter().map(|node| node["id"].as_str().unwrap()).collect();
    let (mut stated, mut needed) = (BTreeSet::new(), BTreeSet::new());
    for package in metadata["packages"].as_array().unwrap() {
        let version = package["rust_version"].as_str().map(version);
        if package["source"].is_null() {
            stated.extend(version);
        } else if used.contains(package["id"].as_str().unwrap()) {
            needed.extend(version.map(|v| (v, package["name"].as_str().unwrap())));
        }
    }
    assert_eq!(stated.len(), 1, "all packages of the workspace need the same Rust");
    let (newest, package) = needed.last().unwrap();
    assert!(newest <= stated.first().unwrap(), "{package} needs Rust {newest:?}: more than rust-version in Cargo.toml");
}

/// A flag as the README shows it.
struct Flag {
    name: String,
    variable: String,
    default: String,
    meaning: String,
    /// What it may be, if that is a fixed set.
    values: Vec<String>,
}

/// Reads a help text in which each paragraph is one line.
fn flags(help: &str) -> Vec<Flag> {
    let mut flags: Vec<Flag> = Vec::new();
    for line in help.lines().map(str::trim) {
        let bracketed = |key: &str| line.strip_prefix('[')?.strip_prefix(key)?.strip_suffix(']').map(str::trim);
        if let Some(rest) = line.strip_prefix("--") {
            let name = rest.split([' ', '[']).next().unwrap().to_owned();
            let (variable, default, meaning) = (String::new(), "none".to_owned(), String::new());
            flags.push(Flag { name, variable, default, meaning, values: Vec::new() });
            continue;
        }
        let Some(flag) = flags.last_mut() else { continue };
        if let Some(variable) = bracketed("env:") {
            flag.variable = variable.trim_end_matches('=').to_owned();
        } else if let Some(default) = bracketed("default:") {
            if default != "\"\"" {
                flag.default = format!("`{default}`");
            }
        } else if let Some(values) = bracketed("possible values:") {
            flag.values = values.split(", ").map(str::to_owned).collect();
        } else if let Some(value) = line.strip_prefix("- ") {
            flag.values.extend(value.split(':').next().map(str::to_owned));
        } else if flag.meaning.is_empty() {
            let (meaning, default) = line.split_once(" [default: ").unwrap_or((line, "none"));
            (flag.meaning, flag.default) = (meaning.to_owned(), default.trim_end_matches(']').to_owned());
        }
    }
    flags
}

/// What a metric's type, help and samples say.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    /// The labels and their values.
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Family {
    /// The rule of prometheus.io/docs/practices/naming that a name breaks.
    fn broken_rule(&self, name: &str) -> Option<&'static str> {
        let words: Vec<_> = name.split('_').collect();
        let any = |list: &[&str]| words.iter().any(|w| list.contains(w));
        if (self.kind == "counter") != name.ends_with("_total") {
            Some("counters, and only they, end in _total")
        } else if any(&["milliseconds", "microseconds", "nanoseconds", "minutes", "kilobytes", "megabytes", "percent"]) {
            Some("units are base units")
        } else if any(&["counter", "gauge", "histogram", "summary"])
            || ["_count", "_sum", "_bucket"].iter().any(|e| name.ends_with(e))
        {
            Some("names do not tell the type")
        } else if !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            Some("names are lower case")
        } else {
            None
        }
    }
}

/// Reads the Prometheus text format.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((sample, labels)) = line.split_once('{') {
            let base =
                ["_bucket", "_sum", "_count"].iter().find_map(|e| sample.strip_suffix(e).filter(|b| families.contains_key(*b)));
            let family = families.get_mut(base.unwrap_or(sample)).expect("types come before samples");
            for pair in labels.split('}').next().unwrap().split("\",") {
                let (label, value) = pair.split_once("=\"").unwrap();
                if label != "le" {
                    family.labels.entry(label.to_owned()).or_default().insert(value.trim_end_matches('"').to_owned());
                }
            }
        }
    }
    families
}

/// A metric's row in docs/METRICS.md.
struct MetricRow {
    kind: String,
    /// The labels and their values; none where the page lists none.
    labels: BTreeMap<String, BTreeSet<String>>,
}

fn documented_metrics(begin: &str, end: &str) -> BTreeMap<String, MetricRow> {
    let page = read("docs/METRICS.md");
    let mut metrics = BTreeMap::new();
    let exported = between(&page, begin, end);
    for row in rows(exported).filter(|row| row[0].starts_with('`')) {
        let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let mut labels = BTreeMap::new();
        if let [label, values @ ..] = &words(row[2])[..] {
            labels.insert(label.clone(), values.iter().cloned().collect());
        }
        let name = words(row[0]).remove(0);
        assert!(row.len() >= 4 && row.iter().enumerate().all(|(i, cell)| i == 2 || !cell.is_empty()), "{name}: an empty cell");
        let metric = MetricRow { kind: row[1].to_owned(), labels };
        assert!(metrics.insert(name.clone(), metric).is_none(), "{name} is there twice");
    }
    metrics
}

/// What the program serves while it does a job on loopback; `None` without the privilege to.
fn exported_metrics(job: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut command = bare_flowarc(&[job, "--interface=lo", "--prometheusx.listen-address=127.0.0.1:0"]);
    command.arg("--datadir").arg(folder.path().join("data"));
    let mut flowarc = Guard(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = String::new();
    let mut lines = BufReader::new(flowarc.0.stderr.take().unwrap());
    while !log.contains(" capturing ") {
        if lines.read_line(&mut log).unwrap() == 0 {
            assert!(log.contains("CAP_NET_RAW"), "{log}");
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run this test with CAP_NET_RAW");
            eprintln!("SKIPPED: the metrics page: needs CAP_NET_RAW to capture on lo");
            return None;
        }
    }
    let address = log.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect(&log).to_owned();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        // What an interface counts is there once its ring was looked at, within a second.
        if body.contains("interface=\"lo\"") {
            return Some(body.to_owned());
        }
        assert!(Instant::now() < deadline, "no metric has an interface: {body}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process that ends with the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program, without anything in its environment that could stand in for a flag.
fn bare_flowarc(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowarc"));
    command.args(args).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

/// The cells of each row of the tables in a text, without those of the heads.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines: Vec<_> = text.lines().collect();
    let is_rule = |line: &str| line.starts_with("|--");
    let body = move |i: usize| !is_rule(lines[i]) && !lines.get(i + 1).is_some_and(|next| is_rule(next));
    text.lines()
        .enumerate()
        .filter(move |(i, line)| line.starts_with("| ") && body(*i))
        .map(|(_, line)| line.trim_matches('|').split('|').map(str::trim).collect())
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let rest = text.split_once(begin).unwrap_or_else(|| panic!("no {begin}")).1;
    rest.split_once(end).unwrap_or_else(|| panic!("no {end}")).0
}

/// `1.95` and `1.95.0` are one version.
fn version(text: &str) -> [u32; 3] {
    let mut parts = text.split('.').map(|part| part.parse().unwrap());
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

fn sources() -> Vec<PathBuf> {
    let mut sources = tree(Path::new("src"), &mut |p| p.extension().is_some_and(|e| e == "rs"));
    sources.extend(tree(Path::new("eventsocket/src"), &mut |p| p.extension().is_some_and(|e| e == "rs")));
    sources
}

fn pages() -> Vec<PathBuf> {
    tree(Path::new(""), &mut |p| p.extension().is_some_and(|e| e == "md"))
}

/// The files below a folder of the repository, without what cargo, git and fuzzing put there, sorted.
fn tree(folder: &Path, wanted: &mut dyn FnMut(&Path) -> bool) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let (path, kind) = entry.map(|e| (folder.join(e.file_name()), e.file_type().unwrap())).unwrap();
        if ["target", ".git", "corpus", "artifacts", "__pycache__"].iter().any(|skipped| path.ends_with(skipped)) {
        } else if kind.is_dir() {
            files.extend(tree(&path, wanted));
        } else if wanted(&path) {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
