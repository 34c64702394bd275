//! Finds flows in archives and hands them out: readers only, which never touch the way of the data.
//!
//! [`archive`] opens a folder, a bundle (`.tgz`) or an object store. [`filter`] says which flows are wanted, [`catalogue`]
//! asks the catalogue for
//! them, [`bundle`] reads one file out of a bundle. [`get`] hands flows out, [`export`] makes tables of them, [`mod@anonymize`] masks them anew, [`rebuild`] makes a catalogue.

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
pub mod rebuild;
