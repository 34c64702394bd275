//! Readers: what is in a file and how far to trust it. They never touch the way that packets take into the archive.
//!
//! [`survey`] reads any capture file and analyses each connection in it; [`show`] says it on one screen or as JSON, [`trust`]
//! in what way it is complete, [`plot`] draws it. [`verify`] checks files against what the archive promises, [`repair`]
//! recovers what is whole of a damaged one.

pub mod locate;
pub mod plot;
pub mod repair;
pub mod show;
pub mod survey;
pub mod text;
pub mod trust;
pub mod verify;
