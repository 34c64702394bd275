//! The questions that wait for the kernel source.

use super::source::Stats;
use crate::key::FlowKey;
use foldhash::fast::RandomState;
use hashbrown::HashSet;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Asks the kernel source for the UUIDs of connections.
///
/// A handle for any thread, shards included. The lock behind it is taken once for a new flow and not for a packet, and held
/// for one hash at each side: the source takes the whole queue away in one move.
#[derive(Clone, Debug)]
pub struct Requests(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: EventFd,
    stopped: AtomicBool,
    stats: Arc<Stats>,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order of asking.
    keys: Vec<FlowKey>,
    /// The same keys; flows are chosen by strangers, so the hash is keyed.
    queued: HashSet<FlowKey, RandomState>,
}

/// Most questions that wait; more are dropped and counted. The ends of connections still tell their names.
const MAX_QUEUED: usize = 1 << 16;

impl Requests {
    /// A queue without a source.
    pub(super) fn new(stats: Arc<Stats>) -> Result<Self, Errno> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(Arc::new(Shared { queue: Mutex::default(), wake, stopped: AtomicBool::new(false), stats })))
    }

    /// Asks for a connection's UUIDs; they come as events. Never blocks. A question that waits already is not asked twice,
    /// and one that finds 65,536 before it is dropped.
    pub fn ask(&self, key: FlowKey) {
        let mut queue = self.lock();
        if queue.keys.len() >= MAX_QUEUED {
            drop(queue);
            self.0.stats.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if !queue.queued.insert(key) {
            return;
        }
        queue.keys.push(key);
        let first = queue.keys.len() == 1;
        drop(queue);
        if first {
            self.wake();
        }
    }

    /// Moves all questions to the end of `keys`.
    pub(super) fn take(&self, keys: &mut Vec<FlowKey>) {
        // First the wake and then the queue: who asks in between wakes once more. It fails where nobody has asked.
        let _ = self.0.wake.read();
        let mut queue = self.lock();
        keys.append(&mut queue.keys);
        queue.queued.clear();
    }

    /// Tells the source to end.
    pub(super) fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    fn wake(&self) {
        // It fails only where so many wakes wait that one more says nothing.
        let _ = self.0.wake.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Requests {
    /// Readable while questions wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Address, Endpoint};

    #[test]
    fn a_question_that_waits_is_not_asked_twice() {
        let requests = Requests::new(Arc::default()).unwrap();
        for n in [1, 2, 1, 1] {
            requests.ask(key(n));
        }
        assert_eq!(taken(&requests), [key(1), key(2)]);
        requests.ask(key(1));
        assert_eq!(taken(&requests), [key(1)]);
        assert_eq!(requests.0.stats.dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let requests = Requests::new(Arc::default()).unwrap();
        (0..MAX_QUEUED as u32 + 3).for_each(|n| requests.ask(key(n)));
        assert_eq!(requests.0.stats.dropped.load(Ordering::Relaxed), 3);
        assert_eq!(taken(&requests).len(), MAX_QUEUED);
        requests.ask(key(0));
        assert_eq!(taken(&requests).len(), 1);
    }

    #[test]
    fn the_source_is_woken_by_the_first_question_after_it_took_all() {
        let requests = Requests::new(Arc::default()).unwrap();
        let is_awake = || requests.0.wake.read().is_ok();
        requests.ask(key(1));
        assert!(is_awake());
        requests.ask(key(2));
        assert!(!is_awake());
        taken(&requests);
        requests.ask(key(3));
        assert!(is_awake());
        requests.stop();
        assert!(is_awake() && requests.stopped());
    }

    fn taken(requests: &Requests) -> Vec<FlowKey> {
        let mut keys = Vec::new();
        requests.take(&mut keys);
        keys
    }

    fn key(n: u32) -> FlowKey {
        let [_, b, c, d] = n.to_be_bytes();
        let server = Endpoint { addr: Address::v4([192, 0, 2, 1]), port: 443 };
        FlowKey::new(server, Endpoint { addr: Address::v4([198, b, c, d]), port: 50_000 }).0
    }
}
