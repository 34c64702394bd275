//! A file of any bytes in an archive's place is read as far as it goes; what was read is written and read back the same, and
//! joining it with itself changes nothing more.

#![no_main]

use flowarc::archive::file::ArchiveFile;
use flowarc::archive::gzip::Encoder;
use flowarc::archive::merge::union;
use flowarc::archive::pcap;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // As it is, and as the content of a member, where the fuzzer need not find a checksum.
    read(data);
    read(&Encoder::new().member(None, &[data]));
});

fn read(bytes: &[u8]) {
    let Ok(file) = ArchiveFile::parse(bytes) else { return };
    let again = ArchiveFile::parse(&file.encode(&mut Encoder::new())).expect("a written file is a file");
    assert_eq!((again.records.len(), again.link, again.whole), (file.records.len(), file.link, true));
    assert_eq!(again.records, file.records);
    let joined = union(&file, &again);
    assert!(pcap::records(&joined.records).is_sorted_by_key(|r| r.ts()));
    assert_eq!(union(&joined, &file).records, joined.records);
}
