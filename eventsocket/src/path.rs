//! Where a socket is: in the file system, or, written `@name`, in Linux's abstract name space.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A socket address that was checked: not empty, no NUL byte, short enough.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SocketPath {
    /// A path in the file system.
    File(PathBuf),
    /// An abstract name with the leading NUL that tokio knows it by.
    Abstract(PathBuf),
}

impl SocketPath {
    pub(crate) fn parse(path: &Path) -> io::Result<Self> {
        let bytes = path.as_os_str().as_bytes();
        let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("event socket {}: {why}", path.display()));
        if bytes.is_empty() {
            return Err(wrong("empty path"));
        }
        if bytes.contains(&0) {
            return Err(wrong("NUL byte in the path"));
        }
        if bytes.len() > MAX_LEN {
            return Err(wrong("longer than 107 bytes, which is what a socket address holds (use a shorter or relative path)"));
        }
        match bytes {
            [b'@'] => Err(wrong("no name after '@'")),
            [b'@', name @ ..] => Ok(Self::Abstract(OsString::from_vec([b"\0", name].concat()).into())),
            _ => Ok(Self::File(path.to_owned())),
        }
    }

    /// The path for tokio's `connect` and `bind`.
    pub(crate) fn as_path(&self) -> &Path {
        let (Self::File(path) | Self::Abstract(path)) = self;
        path
    }

    /// The path if it is one of the file system.
    pub(crate) fn as_file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Abstract(_) => None,
        }
    }
}

/// `sun_path` has 108 bytes, one of them for a NUL: unix(7).
const MAX_LEN: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_after_an_at_sign_is_abstract() {
        assert_eq!(SocketPath::parse(Path::new("@x")).unwrap(), SocketPath::Abstract("\0x".into()));
        assert_eq!(SocketPath::parse(Path::new("./@x")).unwrap(), SocketPath::File("./@x".into()));
    }

    #[test]
    fn what_cannot_be_an_address_is_refused() {
        for path in ["", "@", "a\0b", &"x".repeat(108)] {
            assert_eq!(SocketPath::parse(Path::new(path)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert!(SocketPath::parse(Path::new(&"x".repeat(107))).is_ok());
    }
}
