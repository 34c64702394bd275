//! Who a connection is: UUIDs and the sources that tell them.

pub mod eventsocket;
pub mod generated;

use crate::key::Endpoint;
use crate::time::{CivilDate, Timestamp};
use std::fmt;
use std::sync::Arc;

/// A connection's name, safe as a file name: 1 to 200 of `A-Z a-z 0-9 . _ : -`, not starting with a dot, no `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowUuid(Arc<str>);

impl FlowUuid {
    /// Longest name taken, in bytes: with date, suffix and temporary parts it stays below NAME_MAX.
    pub const MAX_LEN: usize = 200;

    /// Takes a name if it is safe in a path.
    ///
    /// # Errors
    /// Says what makes it unsafe; never holds the name itself.
    pub fn parse(name: &str) -> Result<Self, BadUuid> {
        if name.is_empty() {
            return Err(BadUuid::Empty);
        }
        if name.len() > Self::MAX_LEN {
            return Err(BadUuid::TooLong);
        }
        if name.starts_with('.') || name.contains("..") {
            return Err(BadUuid::Dots);
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-')) {
            return Err(BadUuid::Alphabet);
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FlowUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FlowUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name cannot be a file name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadUuid {
    /// No name at all.
    #[error("empty UUID")]
    Empty,
    /// Longer than [`FlowUuid::MAX_LEN`].
    #[error("UUID longer than {} bytes", FlowUuid::MAX_LEN)]
    TooLong,
    /// Starts with a dot or holds two in a row.
    #[error("UUID with a leading dot or '..'")]
    Dots,
    /// Holds a byte outside the alphabet.
    #[error("UUID with a character other than A-Z a-z 0-9 . _ : -")]
    Alphabet,
}

/// A file's name below the data folder: the day and the UUID.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Name {
    /// The folder: the event timestamp's day in the event's own UTC offset.
    pub date: CivilDate,
    /// The file name without `.pcap.gz`.
    pub uuid: FlowUuid,
}

/// What a UUID source says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UuidEvent {
    /// A connection has this name.
    Open(Opened),
    /// The connection of this name has ended.
    Close {
        /// Its name.
        uuid: FlowUuid,
        /// When the source noticed.
        at: Timestamp,
    },
}

/// A connection's announcement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Its name and day.
    pub name: Name,
    /// When the source noticed it: later than the first packet by up to its polling period.
    pub at: Timestamp,
    /// The end that is a socket of this host.
    pub local: Endpoint,
    /// The other end; a socket of this host too where both ends are.
    pub remote: Endpoint,
}
