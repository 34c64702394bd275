//! The state of connections: records, timers, the bytes held for them, and their exact count.
//!
//! No I/O, no clock, no thread. What happens to a frame or a UUID is [`crate::shard`]'s business.

pub mod fragments;
pub mod ledger;
pub mod outcome;
pub mod segment;
pub mod state;
pub mod table;
pub mod wheel;
