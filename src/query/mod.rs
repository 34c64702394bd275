//! Readers: which flows an archive has, what is in a file and how far to trust it. They never touch the way that packets
//! take into the archive.
//!
//! [`archive`] opens a folder, a bundle (`.tgz`) or an object store ([`store`]). [`filter`] says which flows are wanted, [`catalogue`] asks the catalogue
//! for them, [`bundle`] reads one file out of a bundle. [`get`] hands flows out, [`export`] makes tables of them,
//! [`mod@anonymize`] masks them anew, [`rebuild`] makes a catalogue.
//!
//! [`survey`] reads any capture file and analyses each connection in it; [`show`] says it on one screen or as JSON, [`trust`]
//! in what way it is complete, [`plot`] draws it. [`verify`] checks files against what the archive promises, [`repair`]
//! recovers what is whole of a damaged one.

pub mod anonymize;
pub mod archive;
pub mod bundle;
pub mod catalogue;
pub mod export;
pub mod filter;
pub mod get;
pub mod lines;
pub mod packets;
pub mod parallel;
pub mod plot;
pub mod rebuild;
mod remote;
pub mod repair;
pub mod show;
pub mod store;
pub mod survey;
pub mod text;
pub mod trust;
pub mod verify;
