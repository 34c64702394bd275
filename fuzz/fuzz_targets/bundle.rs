//! A bundle of any bytes gives members or an error, and so does a sound bundle with an index of any bytes beside it. The
//! input's first byte says which of both.

#![no_main]

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::LazyLock;

use flowarc::archive::gzip::Encoder;
use flowarc::query::bundle::{Bundle, stream};
use flowarc::query::filter::Filter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((0, bytes)) => {
            // As it is, and as the content of a member, where the fuzzer need not find a checksum.
            let _ = stream(Cursor::new(bytes), &mut |_, _| ());
            let _ = stream(Cursor::new(Encoder::new().member(None, &[bytes])), &mut |_, _| ());
        }
        Some((_, bytes)) => beside(bytes),
        None => {}
    }
});

/// Asks the sound bundle with these bytes as the part of its index behind what names the bundle.
fn beside(bytes: &[u8]) {
    let index = [&BUNDLE.head, bytes].concat();
    fs::write(&BUNDLE.index, index).expect("a folder for temporary files");
    let Ok(mut bundle) = Bundle::open(&BUNDLE.path, &|| ()) else { return };
    let _ = bundle.rows(&Filter::default());
    for path in bundle.members().into_iter().flatten().take(4).chain([MEMBER.to_owned()]) {
        let _ = bundle.read(&path);
    }
}

/// A bundle of one member on the disk.
struct Sound {
    path: PathBuf,
    index: PathBuf,
    /// What every index of it begins with: a magic number, and the bundle's length and time of change.
    head: Vec<u8>,
}

static BUNDLE: LazyLock<Sound> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("flowarc-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for temporary files");
    let path = folder.join("bundle.tgz");
    fs::write(&path, Encoder::new().member(None, &[&tar(MEMBER, &[7; 3000])])).expect("a place for the bundle");
    // Opening makes the index.
    Bundle::open(&path, &|| ()).expect("a sound bundle");
    let index = folder.join("bundle.tgz.flowarc-index");
    let made = fs::read(&index).expect("its index");
    let stamp = fs::metadata(&path).expect("the bundle").len().to_le_bytes();
    let head = made.windows(stamp.len()).position(|w| w == stamp).expect("the bundle's length") + 16;
    Sound { path, index, head: made[..head].to_vec() }
});

/// A tar archive (POSIX.1-1988, ustar) of one file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut tar = [&header, content].concat();
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

const MEMBER: &str = "2026/11/21/member.pcap.gz";
