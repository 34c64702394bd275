//! `flowarc find`, `get`, `export`, `anonymize` and `catalog` as a user has them: processes on archives that `flowarc headers`
//! made, read by tcpdump, tar and DuckDB.

mod support;

use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::frames::{Capture, stamp};
use support::lab::{Lab, privileged};
use support::process::{Place, Running, flowarc};
use support::until;
use tempfile::TempDir;

/// Connections of three hours, IPv4 and IPv6, in an archive with a catalogue.
struct Made {
    dir: TempDir,
    archive: PathBuf,
    catalogue: PathBuf,
}

const HOUR: u64 = 3_600_000_000_000;
/// 2026-11-21T10:00:00Z.
const BEGIN: u64 = 1_795_255_200_000_000_000;

/// UUID, beginning, client and server of each connection.
fn connections() -> Vec<(String, u64, String, String)> {
    (0..30)
        .map(|n: u64| {
            let at = BEGIN + n % 3 * HOUR + n * 10_000_000_000;
            let (client, server) = if n % 5 == 4 {
                (format!("[2001:db8:77::{n:x}]:{}", 50_000 + n), "[2001:db8:1::1]:443".to_owned())
            } else {
                (format!("203.0.113.{n}:{}", 50_000 + n), "192.0.2.10:443".to_owned())
            };
            (format!("host_1795000000_{n:016X}"), at, client, server)
        })
        .collect()
}

impl Made {
    fn new(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (capture, events) = (dir.path().join("in.pcap"), dir.path().join("in.events"));
        let mut connections = connections();
        connections.sort_by_key(|c| c.1);
        let (mut frames, mut lines) = (Capture::default(), String::new());
        for (uuid, at, client, server) in &connections {
            frames.connection(*at, client, server, 3, 20_000_000);
            let [near, far] = [server, client].map(|end| end.rsplit_once(':').unwrap());
            let bare = |addr: &str| addr.trim_matches(['[', ']']).to_owned();
            lines += &format!(
                "{{\"Event\":0,\"Timestamp\":\"{}\",\"UUID\":\"{uuid}\",\"ID\":{{\"SPort\":{},\"DPort\":{},\"SrcIP\":\"{}\",\"DstIP\":\"{}\",\"Interface\":0,\"Cookie\":1}}}}\n",
                stamp(*at + 1_000_000),
                near.1,
                far.1,
                bare(near.0),
                bare(far.0)
            );
        }
        frames.write(&capture);
        fs::write(&events, lines).unwrap();
        let (archive, catalogue) = (dir.path().join("archive"), dir.path().join("archive.catalog"));
        let mut command = flowarc();
        command.arg("headers").arg("--read").arg(&capture).arg("--events").arg(&events).arg("--datadir").arg(&archive);
        let out = command.arg("--catalog").arg(&catalogue).args(flags).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Self { dir, archive, catalogue }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn find(&self, archive: &Path, args: &[&str]) -> Vec<String> {
        lines(&run(flowarc().arg("find").arg(archive).args(args)))
    }

    /// Every row, as JSON.
    fn rows(&self, archive: &Path, args: &[&str]) -> Vec<Value> {
        lines(&run(flowarc().arg("find").arg(archive).arg("--json").args(args)))
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn bundle(&self) -> PathBuf {
        let path = self.path("20261121T100000.tgz");
        let packed = Command::new("tar").arg("czf").arg(&path).arg("-C").arg(&self.archive).arg(".").status().unwrap();
        assert!(packed.success());
        path
    }
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

fn lines(out: &Output) -> Vec<String> {
    std::str::from_utf8(&out.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// What tcpdump makes of a capture on its standard input: a line a packet.
fn tcpdump(pcap: &[u8]) -> Vec<String> {
    let mut child = Command::new("tcpdump")
        .args(["-nn", "-tt", "-r", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tcpdump is installed");
    child.stdin.take().unwrap().write_all(pcap).unwrap();
    lines(&child.wait_with_output().unwrap())
}

#[test]
fn every_filter_finds_the_same_with_a_catalogue_without_and_in_a_bundle() {
    let made = Made::new(&[]);
    let uuids: Vec<String> = connections().into_iter().map(|c| c.0).collect();
    let bundle = made.bundle();
    for (args, expected) in [
        (&[][..], uuids.clone()),
        (&["--uuid", "host_1795000000_0000000000000003"], vec![uuids[3].clone()]),
        (&["--uuid", "host_1795000000_000000000000001"], uuids[16..].to_vec()),
        (&["--uuid", "nobody"], vec![]),
        (&["--addr", "203.0.113.7"], vec![uuids[7].clone()]),
        (&["--addr", "203.0.113.0/29"], [0, 1, 2, 3, 5, 6, 7].map(|i| uuids[i].clone()).to_vec()),
        (&["--addr", "2001:db8::/32"], [4, 9, 14, 19, 24, 29].map(|i| uuids[i].clone()).to_vec()),
        (&["--addr", "192.0.2.10", "--addr", "203.0.113.21"], vec![uuids[21].clone()]),
        (&["--port", "50012", "--port", "443"], vec![uuids[12].clone()]),
        (&["--since", "2026-11-21T11:00:10Z", "--until", "2026-11-21T11:01:00Z"], [1, 4].map(|i| uuids[i].clone()).to_vec()),
        (&["--min-duration", "1h"], vec![]),
        (&["--min-bytes", "1", "--max-bytes", "1GB", "--end", "fin", "--min-retrans", "0"], uuids.clone()),
        (&["--min-retrans", "1"], vec![]),
    ] {
        let expected: BTreeSet<String> = expected.into_iter().collect();
        for (archive, more) in [(&made.archive, &[][..]), (&made.archive, &["--no-catalog"]), (&bundle, &[])] {
            let found: Vec<String> = made.find(archive, &[args, more].concat());
            assert_eq!(found.len(), expected.len(), "{args:?} {more:?}");
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "{args:?} {more:?} in {}", archive.display());
        }
    }
    assert_eq!(made.find(&made.archive, &["--limit", "4"]).len(), 4);
}

#[test]
fn rows_are_the_same_from_the_daemon_a_rebuild_the_files_and_a_bundle() {
    let made = Made::new(&[]);
    let daemon = made.rows(&made.archive, &[]);
    assert_eq!(daemon.len(), 30);
    assert!(daemon.iter().all(|row| row["complete"] == true && row["packets_kept"] == row["packets_seen"]));
    assert!(daemon.is_sorted_by_key(|row| row["start"].as_str().unwrap().to_owned()));
    assert_eq!(made.rows(&made.archive, &["--no-catalog"]), daemon);
    let bundle = made.bundle();
    let in_bundle: Vec<Value> = made
        .rows(&bundle, &[])
        .into_iter()
        .map(|mut row| {
            let file = row["file"].as_str().unwrap().strip_prefix("20261121T100000.tgz!").unwrap().to_owned();
            row["file"] = file.into();
            row
        })
        .collect();
    assert_eq!(in_bundle, daemon);

    let catalog = |args: &[&str]| {
        let out = run(flowarc().arg("catalog").arg(&made.archive).args(args));
        String::from_utf8(out.stderr).unwrap()
    };
    assert!(catalog(&[]).contains("0 rows added, 30 files had theirs"), "nothing is added twice");
    // What a power failure might take, and a file that an uploader took.
    let part = fs::read_dir(made.catalogue.join("2026/11/21")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(part).unwrap();
    assert_eq!(made.rows(&made.archive, &[]).len(), 20);
    assert_eq!(made.find(&made.archive, &["--uuid", "host_1795000000_0000000000000002"]).len(), 1, "looked for in the files");
    assert!(catalog(&[]).contains("10 rows added, 20 files had theirs"));
    assert_eq!(made.rows(&made.archive, &[]), daemon);
    let taken = made.archive.join("2026/11/21/host_1795000000_0000000000000000.pcap.gz");
    fs::remove_file(&taken).unwrap();
    assert!(catalog(&["--all"]).contains("29 rows added, 0 files had theirs, 1 rows of files that are gone kept"));
    assert_eq!(made.rows(&made.archive, &[]), daemon, "history stays");
    let gone = flowarc().arg("get").arg(&made.archive).arg("host_1795000000_0000000000000000").output().unwrap();
    assert!(String::from_utf8(gone.stderr).unwrap().contains("no longer in the archive"));
}

#[test]
fn flows_are_had_for_tcpdump_as_files_and_merged() {
    let made = Made::new(&[]);
    let bundle = made.bundle();
    for archive in [&made.archive, &bundle] {
        let one = run(flowarc().arg("get").arg(archive).arg("host_1795000000_0000000000000003"));
        let packets = tcpdump(&one.stdout);
        assert!(packets.len() > 5 && packets.iter().all(|line| line.contains("203.0.113.3.50003")), "{packets:?}");

        let merged = tcpdump(&run(flowarc().arg("get").arg(archive).args(["--since", "2026-11-01"])).stdout);
        assert_eq!(merged.len(), packets.len() * 30);
        let times: Vec<f64> = merged.iter().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        assert!(times.is_sorted(), "in the order of time");

        let out = made.path("out").join(archive.file_name().unwrap());
        run(flowarc().arg("get").arg(archive).args(["--addr", "2001:db8::/32", "-o"]).arg(&out));
        assert_eq!(fs::read_dir(&out).unwrap().count(), 6);
        let stored = "host_1795000000_0000000000000004.pcap.gz";
        assert_eq!(fs::read(out.join(stored)).unwrap(), fs::read(made.archive.join("2026/11/21").join(stored)).unwrap());
        let again = flowarc().arg("get").arg(archive).args(["--addr", "2001:db8::/32", "-o"]).arg(&out).output().unwrap();
        assert_eq!(again.status.code(), Some(1), "nothing is overwritten");
        assert!(out.join(stored).exists());
    }
    let merged = run(flowarc().arg("get").arg(&made.archive).args(["--port", "443"])).stdout;
    assert_eq!(tcpdump(&merged).len() % 30, 0);
    for (name, merge) in [("one.pcap", None), ("two.pcap.gz", None), ("three", Some("--merge"))] {
        let file = made.path(name);
        run(flowarc().arg("get").arg(&made.archive).args(merge).args(["--port", "443", "-o"]).arg(&file));
        let mut bytes = fs::read(file).unwrap();
        if name.ends_with(".gz") {
            let mut unpacked = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut unpacked).unwrap();
            bytes = unpacked;
        }
        assert!(bytes == merged, "{name}");
    }
    for (args, code, said) in [
        (&["nobody"][..], 1, "no flow matches"),
        (&["host_1795000000_0000000000000003", "nobody"], 1, "not in"),
        (&[], 64, "which flows?"),
        (&["--since", "yesterday"], 64, "--since=yesterday"),
        (&["--until", "2026-11-20", "--since", "2026-11-21"], 64, "--until"),
        (&["--end", "tired"], 64, "--end=tired"),
        (&["--min-retrans", "101"], 64, "--min-retrans=101: want percent"),
        (&["--min-bytes", "2MB", "--max-bytes", "1MB"], 64, "--max-bytes: no flow has"),
        (&["--addr", "300.1.1.1"], 2, "192.0.2.0/24"),
    ] {
        let out = flowarc().arg("get").arg(&made.archive).args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{args:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains(said), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn a_whole_address_is_found_in_a_masked_archive_and_the_tool_says_so() {
    let made = Made::new(&["--anonymize.ip=netblock", "--local.addr=192.0.2.10"]);
    for more in [&[][..], &["--no-catalog"]] {
        let out = run(flowarc().arg("find").arg(&made.archive).args(["--addr", "203.0.113.7"]).args(more));
        assert_eq!(lines(&out).len(), 24, "all of its /24");
        assert!(String::from_utf8_lossy(&out.stderr).contains("masked"));
        assert_eq!(made.find(&made.archive, &[&["--addr", "203.0.112.7"], more].concat()).len(), 0);
        assert_eq!(made.find(&made.archive, &[&["--addr", "192.0.2.10"], more].concat()).len(), 24, "local addresses are whole");
    }
}

#[test]
fn an_archive_is_masked_anew_with_nothing_that_leads_back() {
    let made = Made::new(&[]);
    let key = made.path("key");
    fs::write(&key, [9; 32]).unwrap();
    let before = made.rows(&made.archive, &[]);
    let block = made.path("block");
    run(flowarc().arg("anonymize").arg(&made.archive).args(["--local.addr", "192.0.2.10", "-o"]).arg(&block));
    let rows = made.rows(&block, &[]);
    assert_eq!(rows.len(), 30);
    for (row, was) in rows.iter().zip(&before) {
        let client = row["client_addr"].as_str().unwrap();
        assert!(client == "203.0.113.0" || client == "2001:db8:77::", "{client}");
        assert!(row["anonymized"] == true && row["packets_kept"] == was["packets_kept"] && row["uuid"] == was["uuid"]);
    }
    run(flowarc().arg("verify").arg(&block));
    let pan = made.path("pan");
    for (mode, open) in [(0o644, true), (0o600, false)] {
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let _ = fs::remove_dir_all(&pan);
        let mut command = flowarc();
        command.arg("anonymize").arg(made.bundle()).args(["--method=cryptopan", "--key"]).arg(&key).arg("-o").arg(&pan);
        let said = String::from_utf8(run(&mut command).stderr).unwrap();
        assert_eq!(said.contains("everybody here may read the key"), open, "{said}");
    }
    let rows = made.rows(&pan, &[]);
    let clients: BTreeSet<&str> = rows.iter().map(|row| row["client_addr"].as_str().unwrap()).collect();
    assert_eq!(clients.len(), 30, "one to one");
    assert!(!clients.iter().any(|c| c.starts_with("203.0.113.") || c.starts_with("2001:db8:77:")));
    let found = made.find(&pan, &["--addr", "203.0.113.7", "--key", key.to_str().unwrap()]);
    assert_eq!(found, ["host_1795000000_0000000000000007"], "asked for by its own address");
    assert_eq!(made.find(&pan, &["--addr", "203.0.113.0/24", "--key", key.to_str().unwrap()]).len(), 24);
    // One by one, from the files and from a catalogue; the key of one archive does no harm to others.
    let rows_of_pan = made.path("rows-of-pan");
    run(flowarc().arg("catalog").arg(&pan).arg("--catalog").arg(&rows_of_pan));
    for host in (1..=40).map(|n| format!("203.0.113.{n}")) {
        let plain = made.find(&made.archive, &["--addr", &host]);
        for (archive, catalogue) in [(&pan, None), (&pan, Some(&rows_of_pan)), (&made.archive, None)] {
            let mut find = flowarc();
            find.arg("find").arg(archive).args(["--addr", &host, "--key"]).arg(&key);
            catalogue.map(|catalogue| find.arg("--catalog").arg(catalogue));
            let out = run(&mut find);
            assert_eq!(lines(&out), plain, "{host}");
            assert!(!String::from_utf8_lossy(&out.stderr).contains("masked"), "nothing was widened");
        }
    }
    let partly = made.path("partly");
    let local = ["--local.addr", "192.0.2.10", "--method=cryptopan", "--key"];
    run(flowarc().arg("anonymize").arg(&made.archive).args(local).arg(&key).arg("-o").arg(&partly));
    assert_eq!(made.find(&partly, &["--addr", "192.0.2.10"]).len(), made.find(&made.archive, &["--addr", "192.0.2.10"]).len());
    let none = flowarc().arg("find").arg(&partly).args(["--addr", "192.0.2.10", "--key"]).arg(&key).output().unwrap();
    assert!(none.stdout.is_empty() && String::from_utf8_lossy(&none.stderr).contains("asked for without --key"));
    let merged = run(flowarc().arg("get").arg(&pan).args(["--since", "2026-11-01"])).stdout;
    assert!(tcpdump(&merged).iter().all(|line| !line.contains("203.0.113.")));
    for (args, said) in [
        (&["--method=cryptopan"][..], "--key"),
        (&["--key", "x"], "--method=cryptopan"),
        (&["--method=cryptopan", "--key", "/dev/null"], "64 hexadecimal digits"),
    ] {
        let out = flowarc().arg("anonymize").arg(&made.archive).arg("-o").arg(made.path("no")).args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(64));
        assert!(String::from_utf8_lossy(&out.stderr).contains(said), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let out = flowarc().arg("anonymize").arg(&made.archive).arg("-o").arg(&block).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("is not empty"));
}

#[test]
fn a_generated_name_is_made_anew_when_its_addresses_are_masked() {
    let dir = tempfile::tempdir().unwrap();
    let (capture, archive, masked) = (dir.path().join("in.pcap"), dir.path().join("a"), dir.path().join("m"));
    let mut frames = Capture::default();
    frames.connection(BEGIN, "203.0.113.7:50000", "192.0.2.10:443", 2, 1_000_000);
    frames.write(&capture);
    let replay = |data: &Path, flags: &[&str]| {
        run(flowarc().arg("headers").arg("--read").arg(&capture).arg("--datadir").arg(data).args(flags));
    };
    replay(&archive, &[]);
    replay(&dir.path().join("direct"), &["--anonymize.ip=netblock"]);
    run(flowarc().arg("anonymize").arg(&archive).arg("-o").arg(&masked));
    let name = |data: &Path| support::archive::uuids(data);
    assert_ne!(name(&masked), name(&archive));
    assert_eq!(name(&masked), name(&dir.path().join("direct")), "the name that capture with masking would have given");
}

#[test]
fn duckdb_reads_catalogue_and_exports_with_the_queries_of_the_docs() {
    let Some(python) = python_with_readers() else { return };
    let made = Made::new(&[]);
    for format in ["parquet", "csv", "jsonl"] {
        let out = made.path(format);
        let said = run(flowarc().arg("export").arg(&made.archive).args(["--packets", "--format", format, "-o"]).arg(&out));
        assert!(String::from_utf8_lossy(&said.stderr).contains("30 flows"), "{}", String::from_utf8_lossy(&said.stderr));
        let reader = if format == "jsonl" { "read_json_auto".to_owned() } else { format!("read_{format}") };
        let glob = |table: &str| format!("{reader}('{}/{table}/*/*.{format}', hive_partitioning = true)", out.display());
        let sql = format!(
            "select count(*), count(distinct uuid), sum(client_packets + server_packets)::bigint, min(date)::varchar from {}",
            glob("flows")
        );
        let flows = duckdb(&python, &made, &sql);
        let sql = format!("select count(*), count(distinct uuid), sum(from_client::int) > 0 from {}", glob("packets"));
        let packets = duckdb(&python, &made, &sql);
        assert_eq!((&flows[0][0], &flows[0][1], &flows[0][3]), (&"30".into(), &"30".into(), &"2026-11-21".into()), "{format}");
        assert_eq!((&packets[0][0], &packets[0][1]), (&flows[0][2], &"30".into()), "{format}");
    }
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CATALOGUE.md")).unwrap();
    let queries: Vec<&str> = page.split("```sql duckdb\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(queries.len() >= 5, "the page has its queries");
    for query in queries {
        let sql = query
            .replace("archive.catalog/", &format!("{}/", made.catalogue.display()))
            .replace("OUT/", &format!("{}/", made.path("parquet").display()));
        let rows = duckdb(&python, &made, &sql);
        assert!(!rows.is_empty(), "no row: {query}");
    }
}

#[test]
fn pandas_runs_the_program_of_the_docs_and_bigquery_would_find_its_columns() {
    let Some(python) = python_with_readers() else { return };
    let made = Made::new(&[]);
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CATALOGUE.md")).unwrap();
    let block = |begin: &str| page.split(begin).nth(1).unwrap().split("```").next().unwrap().to_owned();
    let program = block("pandas:\n\n```python\n").replace("archive.catalog/", &format!("{}/", made.catalogue.display()));
    let script = made.path("flows.py");
    fs::write(&script, program).unwrap();
    let printed = lines(&run(Command::new(&python).arg(&script))).join("\n");
    assert!(printed.contains("fin ") && printed.contains("30.0"), "{printed}");

    // The query's names and types, as BigQuery makes them of Parquet's, by a parser of its dialect.
    let query = block("bq load").split("--nouse_legacy_sql '").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    let program = "import glob, sys, pyarrow.parquet, sqlglot\n\
        from sqlglot.optimizer import annotate_types, qualify\n\
        names = {'string': 'STRING', 'int64': 'INT64', 'double': 'FLOAT64', 'bool': 'BOOL', 'timestamp[us, tz=UTC]': 'TIMESTAMP'}\n\
        file = glob.glob(sys.argv[1] + '/*/*/*/*.parquet')[0]\n\
        columns = {field.name: names[str(field.type)] for field in pyarrow.parquet.read_schema(file)}\n\
        schema = {'dataset': {'flows': columns}}\n\
        query = sqlglot.parse_one(sys.argv[2], read='bigquery')\n\
        query = qualify.qualify(query, schema=schema, dialect='bigquery')\n\
        query = annotate_types.annotate_types(query, schema=schema, dialect='bigquery')\n\
        print([str(column.type) for column in query.selects])\n\
        try: qualify.qualify(sqlglot.parse_one(sys.argv[2].replace('truncated', 'cut'), read='bigquery'), schema=schema)\n\
        except sqlglot.errors.OptimizeError: print('and no others')\n";
    let said = lines(&run(Command::new(&python).args(["-c", program]).arg(&made.catalogue).arg(&query)));
    assert_eq!(said, ["['DATE', 'BIGINT']", "and no others"], "{query}");
}

/// Rows as text.
fn duckdb(python: &Path, made: &Made, sql: &str) -> Vec<Vec<String>> {
    let script = made.path("query.py");
    let program = "import duckdb, json, sys\nprint(json.dumps([[str(v) for v in r] for r in duckdb.sql('select columns(*)::varchar from (' + sys.stdin.read() + ')').fetchall()]))";
    fs::write(&script, program).unwrap();
    let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "DuckDB refuses {sql}");
    serde_json::from_slice(&out.stdout).unwrap()
}

/// A Python that has DuckDB, pandas and a parser of BigQuery's SQL, installed below target/ the first time; `None` where they
/// cannot be had.
fn python_with_readers() -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readers");
    let python = venv.join("bin/python");
    let works = || {
        Command::new(&python)
            .args(["-c", "import duckdb, pandas, pyarrow, sqlglot"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    if !works() {
        let _ = Command::new("python3").args(["-m", "venv"]).arg(&venv).status();
        let _ = Command::new(venv.join("bin/pip")).args(["install", "-q", "duckdb", "pandas", "pyarrow", "sqlglot"]).status();
    }
    if works() {
        return Some(python);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run this test with DuckDB, pandas, pyarrow and sqlglot");
    eprintln!(
        "SKIPPED: the queries of docs/CATALOGUE.md: needs duckdb, pandas, pyarrow and sqlglot (pip install) or the network"
    );
    None
}

#[test]
fn what_cannot_be_an_archive_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for (args, said) in [
        (vec!["find", "nowhere"], "no such archive"),
        (vec!["find", ".", "--catalog", "."], "flowarc catalog makes one"),
        (vec!["export", "nowhere", "-o", "x"], "no such archive"),
    ] {
        let out = flowarc().args(&args).current_dir(dir.path()).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains(said), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    fs::write(dir.path().join("broken.pcap.gz"), b"\x1f\x8b garbage").unwrap();
    fs::write(dir.path().join("broken.tgz"), b"\x1f\x8b garbage").unwrap();
    let out = flowarc().args(["find", "broken.pcap.gz"]).current_dir(dir.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("broken.pcap.gz is left out"));
    let out = flowarc().args(["find", "broken.tgz"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("broken.tgz"));
}

#[test]
fn a_flow_is_found_within_seconds_of_its_end_and_after_kill_9() {
    if !privileged("a_flow_is_found_within_seconds_of_its_end_and_after_kill_9") {
        return;
    }
    let (lab, place) = (Lab::new(), Place::new());
    let catalogue = place.path("rows");
    let flags = ["--interface=near", "--uuid.source=kernel", "--catalog", catalogue.to_str().unwrap()];
    let find = |args: &[&str]| lines(&run(flowarc().arg("find").arg(&place.data).arg("--catalog").arg(&catalogue).args(args)));
    let talk = || {
        let mut conversation = lab.connect("192.0.2.1");
        conversation.talk();
        let port = conversation.remote.port().to_string();
        conversation.close();
        port
    };
    let mut running = Running::headers(&place, &lab.near, flags);
    let port = talk();
    let port = ["--port", &port, "--since", "1m"];
    until("the flow is found", || find(&port).len() == 1);
    let uuid = find(&port).remove(0);
    assert!(place.archive().keys().any(|name| name.contains(&uuid)));
    assert_eq!(running.metrics().child("flowarc_catalogue_rows_total", "outcome", "recorded"), 1.0);

    running.signal(Signal::SIGKILL);
    running.wait();
    assert_eq!(find(&port), std::slice::from_ref(&uuid), "its row was on the disk");
    let mut running = Running::headers(&place, &lab.near, flags);
    until("what was left is published", || support::archive::names(&catalogue).iter().any(|name| name.ends_with(".parquet")));
    assert_eq!(find(&port), std::slice::from_ref(&uuid), "once");
    let other = talk();
    until("the other flow is found", || find(&["--port", &other]).len() == 1);
    running.stop(Signal::SIGTERM);
    assert_eq!(find(&["--port", &other]).len(), 1, "published at the end");
    let names = support::archive::names(&catalogue);
    assert!(names.iter().all(|name| name.ends_with(".parquet")) && names.len() == 2, "{names:?}");
}
