//! flowarc archives the packet headers of TCP connections, one small pcap per connection, named by its UUID.
//!
//! ```text
//! capture -> packet -> scrub -> flow (one shard, one thread) -> archive (a pool of writers)
//!                                ^
//!                            identity (who is this connection?)
//! ```
//!
//! Data goes down and never comes back; docs/ARCHITECTURE.md has the whole picture. A module uses only those before
//! it in this order: `time key metrics sandbox`, `capture packet`, `scrub`, `flow`, `identity`, `analysis`, `shard`,
//! `archive spool`, `query`, `admin cli`, `daemon`.

pub mod admin;
pub mod analysis;
pub mod archive;
pub mod capture;
pub mod cli;
pub mod daemon;
pub mod flow;
pub mod identity;
pub mod key;
pub mod metrics;
pub mod packet;
pub mod query;
pub mod sandbox;
pub mod scrub;
pub mod shard;
pub mod spool;
pub mod time;
