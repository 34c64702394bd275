//! Connections that their program aborted before the kernel could be asked for them.
//!
//! An abort (SO_LINGER of 0) disconnects a socket before it destroys it (tcp_disconnect in net/ipv4/tcp.c): its last word has its
//! cookie, its port and the other host's address, and no remote port. The question for the connection was in vain by then.
//! Where one such question and one such last word fit together and no other does, they are of one connection. Where more do, none
//! gets a name: which is whose is not known.

use super::announcer::{Ends, Now, Seen};
use crate::key::{Address, FlowKey};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Brings questions in vain and last words without a remote port together.
#[derive(Debug, Default)]
pub(super) struct Aborts {
    halves: HashMap<Half, Fitting, RandomState>,
    /// When last words are judged, in order.
    judged_at: VecDeque<(Instant, Half, u64)>,
    /// When questions are forgotten, in order.
    forgotten_at: VecDeque<(Instant, Ends)>,
}

/// What is left of a connection's ends: the port here, and the address there.
type Half = (u16, Address);

/// What fits together.
#[derive(Debug, Default)]
struct Fitting {
    asked: Vec<Ends>,
    gone: Vec<(Seen, Now)>,
    /// Whether there were more questions than are kept: one that is left over is not the only one then.
    is_crowded: bool,
}

/// What came of last words without a remote port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Judged {
    /// It is this connection's, and was heard at that time.
    Named(Ends, Seen, Now),
    /// So many of them fit to more than one connection, or more than one to a connection.
    Ambiguous(usize),
}

impl Aborts {
    /// Notes that a connection was asked for and is not known. Which end would be here is not known either.
    pub(super) fn handle_question(&mut self, key: &FlowKey, now: Now) {
        if self.forgotten_at.len() >= MAX {
            self.clear();
        }
        for ends in both_ways(key) {
            let fitting = self.halves.entry(half(ends)).or_default();
            if fitting.asked.contains(&ends) {
                continue;
            }
            if fitting.asked.len() >= MAX_FITTING {
                fitting.is_crowded = true;
                continue;
            }
            fitting.asked.push(ends);
            self.forgotten_at.push_back((now.tick + KEPT, ends));
        }
    }

    /// Notes that a socket is gone of which no more than this is known. One that never was connected is nobody's.
    pub(super) fn handle_gone(&mut self, seen: Seen, half: Half, now: Now) {
        if UNSPECIFIED.contains(&half.1) || self.judged_at.len() >= MAX {
            return;
        }
        self.halves.entry(half).or_default().gone.push((seen, now));
        self.judged_at.push_back((now.tick + SETTLED, half, seen.cookie));
    }

    /// Notes that a connection is known: there is nothing to find out about it.
    pub(super) fn handle_known(&mut self, ends: Ends) {
        for ends in [ends, (ends.1, ends.0)] {
            self.change(half(ends), |fitting| fitting.asked.retain(|asked| *asked != ends));
        }
    }

    /// Forgets all: something was lost, and what is left over alone is not alone for sure.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next judgement whose time has come.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Judged> {
        while self.judged_at.front().is_some_and(|(at, ..)| *at <= now)
            && let Some((_, half, cookie)) = self.judged_at.pop_front()
        {
            let mut judged = None;
            self.change(half, |fitting| {
                let Some(place) = fitting.gone.iter().position(|(seen, _)| seen.cookie == cookie) else { return };
                judged = match (&fitting.asked[..], &fitting.gone[..]) {
                    ([], _) => None,
                    ([ends], [(seen, at)]) if !fitting.is_crowded => Some(Judged::Named(*ends, *seen, *at)),
                    (_, gone) => Some(Judged::Ambiguous(gone.len())),
                };
                match judged {
                    // What is left over must not pass for the only one.
                    Some(Judged::Ambiguous(_)) => (fitting.gone, fitting.is_crowded) = (Vec::new(), true),
                    _ => drop(fitting.gone.swap_remove(place)),
                }
            });
            if let Some(Judged::Named(ends, ..)) = judged {
                self.handle_known(ends);
            }
            if judged.is_some() {
                return judged;
            }
        }
        while self.forgotten_at.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, ends)) = self.forgotten_at.pop_front()
        {
            self.change(half(ends), |fitting| fitting.asked.retain(|asked| *asked != ends));
        }
        None
    }

    /// When [`Self::poll`] has something to tell, at the earliest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.judged_at.front().map(|(at, ..)| *at)
    }

    /// Changes what fits to a half, and forgets it if nothing is left.
    fn change(&mut self, half: Half, change: impl FnOnce(&mut Fitting)) {
        if let Some(fitting) = self.halves.get_mut(&half) {
            change(fitting);
            if fitting.asked.is_empty() && fitting.gone.is_empty() {
                self.halves.remove(&half);
            }
        }
    }
}

fn both_ways(key: &FlowKey) -> [Ends; 2] {
    [(key.lo(), key.hi()), (key.hi(), key.lo())]
}

fn half((local, remote): Ends) -> Half {
    (local.port, remote.addr)
}

/// From a last word to its judgement. The questions and last words of other connections that might fit have come by then: rings
/// hand frames over late, and so does the kernel's thread the ends. A name is in time for five seconds by default (`-uuidwaitduration`).
const SETTLED: Duration = Duration::from_secs(2);

/// How long a question is kept.
const KEPT: Duration = Duration::from_secs(4);

/// Most questions that are kept for one port and address.
const MAX_FITTING: usize = 16;

/// Most questions, and last words, that are kept: some 8 MB in all.
const MAX: usize = 1 << 14;

/// What sockets that were never connected have.
const UNSPECIFIED: [Address; 2] = [Address([0; 16]), Address::v4([0; 4])];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Endpoint;
    use crate::time::Timestamp;

    #[test]
    fn a_question_in_vain_and_the_only_last_word_that_fits_are_one_connection_in_either_order() {
        for question_first in [true, false] {
            for local in [SERVER, client(1)] {
                let mut host = Host::default();
                let remote = if local == SERVER { client(1) } else { SERVER };
                if question_first {
                    host.ask(1);
                }
                host.gone(7, (local.port, remote.addr));
                if !question_first {
                    host.ask(1);
                }
                assert_eq!(host.wait(SETTLED - Duration::from_nanos(1)), []);
                assert_eq!(host.wait(Duration::from_nanos(1)), [Ok((local, remote, 7))]);
                assert_eq!(host.wait(KEPT), []);
                assert!(host.aborts.halves.is_empty() && host.aborts.forgotten_at.is_empty());
            }
        }
    }

    #[test]
    fn what_fits_to_more_than_one_gets_no_name() {
        let half = (SERVER.port, client(1).addr);
        for (questions, gone) in [(2, 1), (1, 2), (2, 2), (40, 1)] {
            let mut host = Host::default();
            (1..=questions).for_each(|n| host.ask(n));
            (0..gone).for_each(|n| host.gone(n, half));
            assert_eq!(host.wait(SETTLED), [Err(gone as usize)], "{questions} questions, {gone} sockets");
            host.gone(99, half);
            // The questions are as unsure as before.
            assert_eq!(host.wait(SETTLED - Duration::from_millis(1)), []);
        }
    }

    #[test]
    fn who_is_known_otherwise_leaves_the_name_to_the_other() {
        let mut host = Host::default();
        host.ask(1);
        host.ask(2);
        host.gone(7, (SERVER.port, client(1).addr));
        host.aborts.handle_known((SERVER, client(1)));
        assert_eq!(host.wait(SETTLED), [Ok((SERVER, client(2), 7))]);
    }

    #[test]
    fn nothing_fits_after_a_loss_or_too_late_or_to_a_socket_that_was_never_connected() {
        let half = (SERVER.port, client(1).addr);
        let mut host = Host::default();
        host.ask(1);
        host.gone(7, half);
        host.aborts.clear();
        assert_eq!(host.wait(SETTLED), []);
        host.ask(1);
        host.wait(KEPT);
        host.gone(7, half);
        assert_eq!(host.wait(SETTLED), []);
        host.gone(8, (SERVER.port, UNSPECIFIED[0]));
        assert_eq!(host.aborts.next_deadline(), None);
        assert!(host.aborts.halves.is_empty());
    }

    struct Host {
        aborts: Aborts,
        now: Now,
    }

    impl Default for Host {
        fn default() -> Self {
            Self { aborts: Aborts::default(), now: Now { at: Timestamp::from_parts(1_795_218_624, 0), tick: Instant::now() } }
        }
    }

    impl Host {
        fn ask(&mut self, n: u16) {
            self.aborts.handle_question(&FlowKey::new(SERVER, client(n)).0, self.now);
        }

        fn gone(&mut self, cookie: u64, half: Half) {
            self.aborts.handle_gone(Seen { cookie, interface: 0 }, half, self.now);
        }

        /// Local and remote end and cookie of who gets a name, or how many do not.
        fn wait(&mut self, duration: Duration) -> Vec<Result<(Endpoint, Endpoint, u64), usize>> {
            self.now.tick += duration;
            std::iter::from_fn(|| self.aborts.poll(self.now.tick))
                .map(|judged| match judged {
                    Judged::Named((local, remote), seen, _) => Ok((local, remote, seen.cookie)),
                    Judged::Ambiguous(n) => Err(n),
                })
                .collect()
        }
    }

    const SERVER: Endpoint = Endpoint { addr: Address::v4([192, 0, 2, 1]), port: 443 };

    fn client(n: u16) -> Endpoint {
        Endpoint { addr: Address::v4([198, 51, 100, 7]), port: 50_000 + n }
    }
}
