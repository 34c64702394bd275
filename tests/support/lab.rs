//! Network namespaces without names: they are gone with the last thread, process or socket in them, however a test ends.

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, mpsc};

/// Whether the tests may make namespaces. Says so where they may not, and fails where CI=true promised it.
pub fn privileged(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    let may = root && std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok()).join().unwrap();
    if !may {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must run {test} as root");
        eprintln!("SKIPPED: {test}: needs root for network namespaces");
    }
    may
}

/// A network namespace.
#[derive(Clone)]
pub struct Namespace(Arc<Anchor>);

struct Anchor {
    file: File,
    /// The thread that `ip` knows the namespace by; it ends when the other end of this channel goes.
    thread: i32,
    _stay: mpsc::Sender<()>,
}

impl Namespace {
    pub fn new() -> Self {
        let (stay, leave) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send((File::open("/proc/thread-self/ns/net").unwrap(), nix::unistd::gettid().as_raw())).unwrap();
            let _ = leave.recv();
        });
        let (file, thread) = told.recv().unwrap();
        let namespace = Self(Arc::new(Anchor { file, thread, _stay: stay }));
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs something in the namespace; sockets and processes made there stay in it.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0.file, CloneFlags::CLONE_NEWNET).unwrap();
                body()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    #[track_caller]
    pub fn ip(&self, arguments: &str) {
        let out = self.run(|| Command::new("ip").args(arguments.split(' ')).output().unwrap());
        assert!(out.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Joins two namespaces by a veth pair; both ends are up.
    pub fn join(&self, name: &str, other: &Self, other_name: &str) {
        self.ip(&format!("link add {name} type veth peer name {other_name} netns {}", other.0.thread));
        for (namespace, name) in [(self, name), (other, other_name)] {
            namespace.ip(&format!("link set {name} up"));
        }
    }

    pub fn listen(&self, address: &str) -> TcpListener {
        self.run(|| TcpListener::bind(address).unwrap())
    }

    pub fn connect(&self, address: SocketAddr) -> TcpStream {
        self.run(|| TcpStream::connect(address).unwrap())
    }

    /// A socket on an interface that sends whole frames.
    pub fn wire(&self, interface: &str) -> Wire {
        let (socket, index) = self.run(|| {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
            (socket, nix::net::if_::if_nametoindex(interface).unwrap())
        });
        Wire { socket, index }
    }
}

/// Sends whole frames out of an interface.
pub struct Wire {
    socket: OwnedFd,
    index: u32,
}

impl Wire {
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: an address family of all zeroes is a valid sockaddr_ll (packet(7)).
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = self.index as i32;
        let len = size_of_val(&to) as u32;
        // SAFETY: both pointers are to live values of the lengths given, and the call keeps neither.
        let sent =
            unsafe { libc::sendto(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const to).cast(), len) };
        assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
    }
}

/// Two namespaces: `near`, where the program runs, and `far`. Addresses: 192.0.2.1 and .2, 2001:db8::1 and ::2.
pub struct Lab {
    pub near: Namespace,
    pub far: Namespace,
}

impl Lab {
    pub fn new() -> Self {
        let (near, far) = (Namespace::new(), Namespace::new());
        near.join("near", &far, "far");
        for (namespace, interface, host) in [(&near, "near", 1), (&far, "far", 2)] {
            namespace.ip(&format!("address add 192.0.2.{host}/24 dev {interface}"));
            namespace.ip(&format!("address add 2001:db8::{host}/64 dev {interface} nodad"));
        }
        Self { near, far }
    }

    /// A connection from far to this address of near.
    pub fn connect(&self, address: &str) -> Conversation {
        let listener = self.near.listen(&(if address.contains(':') { format!("[{address}]:0") } else { format!("{address}:0") }));
        Conversation::new(self.far.connect(listener.local_addr().unwrap()), listener.accept().unwrap().0)
    }

    /// So many connections from far to near's first address, all to one port.
    pub fn connect_many(&self, count: usize) -> Vec<Conversation> {
        let listener = self.near.listen("192.0.2.1:0");
        let address = listener.local_addr().unwrap();
        self.far.run(|| {
            (0..count).map(|_| Conversation::new(TcpStream::connect(address).unwrap(), listener.accept().unwrap().0)).collect()
        })
    }
}

/// Both ends of a connection.
pub struct Conversation {
    pub client: TcpStream,
    pub server: TcpStream,
    /// The server's end and the client's: ours and theirs, as tcp-info tells them.
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl Conversation {
    pub fn new(client: TcpStream, server: TcpStream) -> Self {
        let (local, remote) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
        Self { client, server, local, remote }
    }

    /// A little payload each way.
    pub fn talk(&mut self) {
        let message = [super::MARKER, b" "].concat();
        let mut heard = vec![0; message.len()];
        self.client.write_all(&message).unwrap();
        self.server.read_exact(&mut heard).unwrap();
        self.server.write_all(&message).unwrap();
        self.client.read_exact(&mut heard).unwrap();
    }

    /// Ends it, with a FIN from both sides that both have seen.
    pub fn close(mut self) {
        self.client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(self.server.read(&mut [0]).unwrap(), 0);
        drop(self.server);
        assert_eq!(self.client.read(&mut [0]).unwrap(), 0);
    }
}
