//! `flowarc verify` as a user runs it: on what the program writes, and on each kind of damage.

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

#[test]
fn what_the_program_writes_is_sound() {
    let bench = Bench::of("netblock", &["--anonymize.ip=netblock"]);
    let out = bench.verify(&[]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(stdout(&out).ends_with("all sound\n"), "{out:?}");
    assert_eq!(bench.verify(&["--anonymize.ip=netblock"]).status.code(), Some(0));
    let json: Value = serde_json::from_str(&stdout(&bench.verify(&["--json"]))).unwrap();
    assert_eq!((json["sum"]["files"].as_u64(), json["sum"]["findings"].as_u64()), (Some(bench.files().len() as u64), Some(0)));
}

#[test]
fn an_archive_that_is_not_masked_does_not_pass_for_one() {
    let bench = Bench::of("v4", &[]);
    assert_eq!(bench.verify(&[]).status.code(), Some(0));
    let out = bench.verify(&["--anonymize.ip=netblock"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(stdout(&out).contains("neither address is masked"), "{out:?}");
    let local = bench.verify(&["--anonymize.ip=netblock", "--local.addr=192.0.2.10"]);
    assert!(stdout(&local).contains("address 203.0.113.45 is not masked"), "{local:?}");
}

#[test]
fn a_cut_file_a_flipped_bit_and_bytes_behind_the_end_are_found() {
    for (damage, word) in [
        ((|b: &mut Vec<u8>| b.truncate(b.len() - 1)) as fn(&mut Vec<u8>), "gzip"),
        (|b| b.truncate(70), "read"),
        (|b| *b.last_mut().unwrap() ^= 1, "gzip"),
        (|b| b.extend(*b"more"), "gzip"),
        (|b| b[44] += 1, "metadata"),
        (|b| b[17] = 0, "metadata"),
        (|b| b.clear(), "read"),
    ] {
        let bench = Bench::of("v4", &[]);
        let file = bench.files().into_iter().max_by_key(|f| fs::metadata(f).unwrap().len()).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        damage(&mut bytes);
        fs::write(&file, bytes).unwrap();
        let out = bench.verify(&["--json"]);
        assert_eq!(out.status.code(), Some(1), "{word}: {out:?}");
        let first: Value = serde_json::from_str(stdout(&out).lines().next().unwrap()).unwrap();
        assert_eq!(first["path"], file.to_str().unwrap());
        let checks: Vec<_> = first["findings"].as_array().unwrap().iter().map(|f| f["check"].as_str().unwrap()).collect();
        assert!(checks.contains(&word), "{word} in {checks:?}");
    }
}

#[test]
fn a_plain_capture_may_hold_payload_unless_it_is_held_to_headers() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let run = |file: &str, args: &[&str]| flowarc(&[&["verify", data.join(file).to_str().unwrap()], args].concat());
    assert_eq!(run("v4.pcap", &[]).status.code(), Some(0));
    assert!(stdout(&run("v6.pcap", &["--header-only"])).contains("bytes behind the headers"));
    let out = run("out-of-order.pcap", &[]);
    assert_eq!(out.status.code(), Some(1));
    assert!(stdout(&out).contains("order: packet "), "{out:?}");
}

#[test]
fn a_damaged_file_is_repaired_into_one_that_verifies_and_what_was_lost_is_said() {
    let bench = Bench::of("capture-window", &[]);
    let file = bench.files().into_iter().max_by_key(|f| fs::metadata(f).unwrap().len()).unwrap();
    let name = file.to_str().unwrap();
    let sound = flowarc(&["repair", name]);
    assert!(sound.status.success() && stdout(&sound).contains("is sound"), "{sound:?}");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 60]).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(bench.verify(&[]).status.code(), Some(1));
    let out = bench.dir.path().join("repaired.pcap.gz");
    let done = flowarc(&["repair", name, "-o", out.to_str().unwrap()]);
    assert!(done.status.success(), "{done:?}");
    assert!(stdout(&done).contains(" packets recovered into ") && stdout(&done).contains("lost: bytes "), "{done:?}");
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600, "for whom the damaged one was");
    let verified = flowarc(&["verify", out.to_str().unwrap()]);
    assert!(verified.status.success(), "{verified:?}");
    assert!(stdout(&flowarc(&["show", out.to_str().unwrap()])).contains("recovered after a crash"));
    let again = flowarc(&["repair", name, "-o", out.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(1), "what exists is not replaced");
    assert_eq!(fs::read(&file).unwrap().len(), bytes.len() - 60, "the damaged file stays as it was");
    // Within the archive it is no flow of its own until it is put in the damaged one's place.
    let flows = || {
        stdout(&flowarc(&["find", bench.dir.path().join("archive").to_str().unwrap()]))
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = flows();
    let beside = stdout(&flowarc(&["repair", name]));
    let order = beside.lines().last().unwrap().strip_prefix("to put it in the damaged one's place: mv ").unwrap();
    assert_eq!(flows(), before);
    let (repaired, target) = order.split_once(' ').unwrap();
    assert_eq!((repaired, target), (&*format!("{name}.repaired"), name));
    assert_eq!(fs::read(repaired).unwrap(), fs::read(&out).unwrap());
    fs::rename(repaired, target).unwrap();
    assert_eq!(flows(), before);
    assert!(bench.verify(&[]).status.success());
    fs::write(&file, "nothing").unwrap();
    assert_eq!(flowarc(&["repair", name]).status.code(), Some(1));
    assert_eq!(flowarc(&["repair", name, "-o", name]).status.code(), Some(1));
}

#[test]
fn a_bundle_is_verified_with_each_file_in_it_and_its_own_checksums() {
    let bench = Bench::of("reuse", &[]);
    let pack = || {
        let bundle = bench.dir.path().join("day.tgz");
        let packed =
            std::process::Command::new("tar").arg("czf").arg(&bundle).arg("-C").arg(bench.dir.path()).arg("archive").status();
        assert!(packed.unwrap().success());
        bundle
    };
    let bundle = pack();
    let sum = |out: &Output| -> Value { serde_json::from_str(stdout(out).lines().last().unwrap()).unwrap() };
    let plain = sum(&bench.verify(&["--json"]))["sum"].clone();
    let files = bench.files().len() as u64;
    assert_eq!(plain["files"], 2 * files, "the folder's and the bundle's");
    let out = flowarc(&["verify", bundle.to_str().unwrap(), "--json"]);
    assert_eq!((sum(&out)["sum"]["files"].as_u64(), out.status.code()), (Some(files), Some(0)), "{out:?}");
    assert!(!bench.dir.path().join("day.tgz.flowarc-index").exists(), "it needs no index");

    let damaged = bench.files().remove(0);
    let mut bytes = fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let out = flowarc(&["verify", pack().to_str().unwrap()]);
    let member = format!("day.tgz!archive/{}", damaged.strip_prefix(bench.dir.path().join("archive")).unwrap().display());
    assert_eq!(out.status.code(), Some(1));
    assert!(stdout(&out).contains(&format!("{member}: gzip: ")), "{out:?}");

    let whole = fs::read(&bundle).unwrap();
    let tar = |len: usize| {
        let tar = std::process::Command::new("gzip").arg("-dc").arg(&bundle).output().unwrap().stdout;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &tar[..len]).unwrap();
        packed.finish().unwrap()
    };
    let mut flipped = whole.clone();
    let at = whole.len() - 6;
    flipped[at] ^= 1;
    for bytes in [flipped, whole[..whole.len() / 2].to_vec(), b"\x1f\x8b garbage".to_vec(), tar(700)] {
        fs::write(&bundle, bytes).unwrap();
        let out = flowarc(&["verify", bundle.to_str().unwrap()]);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        assert!(stdout(&out).contains("day.tgz: bundle: "), "{out:?}");
    }
}

#[test]
fn what_is_not_there_cannot_be_verified() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    std::os::unix::fs::symlink(dir.path(), dir.path().join("again")).unwrap();
    fs::create_dir(dir.path().join("folder.pcap")).unwrap();
    fs::write(dir.path().join(".hidden.pcap"), "").unwrap();
    let out = flowarc(&["verify", folder]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("nothing to check"), "{out:?}");
    assert_eq!(flowarc(&["verify", &format!("{folder}/x.pcap")]).status.code(), Some(1));
    assert_eq!(flowarc(&["verify"]).status.code(), Some(2));
}

/// An archive made of a scenario.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn of(scenario: &str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        let path = |suffix: &str| data.join(format!("{scenario}.{suffix}")).display().to_string();
        let (read, events, archive) = (path("pcap"), path("events.jsonl"), dir.path().join("archive"));
        let args = ["headers", "--read", &read, "--events", &events, "--datadir", archive.to_str().unwrap()];
        let out = flowarc(&[&args, flags].concat());
        assert!(out.status.success(), "{out:?}");
        Self { dir }
    }

    fn verify(&self, args: &[&str]) -> Output {
        flowarc(&[&["verify", self.dir.path().to_str().unwrap()], args].concat())
    }

    fn files(&self) -> Vec<PathBuf> {
        let (mut files, mut folders) = (Vec::new(), vec![self.dir.path().join("archive")]);
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }
}

fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn flowarc(args: &[&str]) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("flowarc")).env_clear().args(args).output().unwrap()
}
