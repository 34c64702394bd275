//! Announcements as tcp-info makes them, and a server for them.

use super::{until, until_within};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The line that announces a connection between a local and a remote end.
pub fn open_line(uuid: &str, at: &str, local: SocketAddr, remote: SocketAddr) -> String {
    let (src, dst) = (local.ip(), remote.ip());
    let id = format!(
        r#"{{"SPort":{},"DPort":{},"SrcIP":"{src}","DstIP":"{dst}","Interface":0,"Cookie":1}}"#,
        local.port(),
        remote.port()
    );
    format!("{{\"Event\":0,\"Timestamp\":\"{at}\",\"UUID\":\"{uuid}\",\"ID\":{id}}}\n")
}

/// The line that tells of a connection's end.
pub fn close_line(uuid: &str, at: &str) -> String {
    format!("{{\"Event\":1,\"Timestamp\":\"{at}\",\"UUID\":\"{uuid}\",\"ID\":null}}\n")
}

/// The present time as tcp-info writes it.
pub fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let (days, second) = ((since.as_secs() / 86_400) as i64, since.as_secs() % 86_400);
    // Days to a civil date: Howard Hinnant's algorithm, with years that begin in March.
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:09}Z", since.subsec_nanos())
}

/// An event socket with one listener at a time.
pub struct EventServer {
    path: PathBuf,
    listener: Option<UnixListener>,
    client: Option<UnixStream>,
}

impl EventServer {
    pub fn new(path: &Path) -> Self {
        let mut server = Self { path: path.to_owned(), listener: None, client: None };
        server.start();
        server
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub fn start(&mut self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.listener = Some(listener);
    }

    /// Ends the server and its connection, and removes the path, as when tcp-info ends.
    pub fn stop(&mut self) {
        (self.client, self.listener) = (None, None);
        std::fs::remove_file(&self.path).unwrap();
    }

    /// Waits for the program to connect; the time that it took.
    #[track_caller]
    pub fn accept(&mut self) -> Duration {
        until("the program connects to the event socket", || self.try_accept())
    }

    #[track_caller]
    pub fn accept_within(&mut self, patience: Duration) -> Duration {
        until_within(patience, "the program connects to the event socket", || self.try_accept())
    }

    fn try_accept(&mut self) -> bool {
        match self.listener.as_ref().expect("the server is started").accept() {
            Ok((client, _)) => {
                client.set_nonblocking(false).unwrap();
                self.client = Some(client);
                true
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            Err(e) => panic!("{e}"),
        }
    }

    /// Says something, as it is.
    #[track_caller]
    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.client.as_mut().expect("the program is connected").write_all(bytes.as_ref()).unwrap();
    }

    /// Announces a connection, now.
    #[track_caller]
    pub fn open(&mut self, uuid: &str, local: SocketAddr, remote: SocketAddr) {
        self.say(open_line(uuid, &now(), local, remote));
    }

    #[track_caller]
    pub fn close(&mut self, uuid: &str) {
        self.say(close_line(uuid, &now()));
    }
}
