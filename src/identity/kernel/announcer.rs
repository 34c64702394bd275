//! What is told of the sockets that the kernel shows: which name is opened, which is closed, and when.
//!
//! The three ways to see a socket overlap, lose and repeat: a lookup finds it alive or as the remainder that TIME_WAIT leaves,
//! a dump lists it, a message tells that it was destroyed, or is lost. Here it is settled that each connection has one name,
//! is opened before it is closed, and is closed once.

use super::aborts::{Aborts, Judged};
use super::source::KernelEvent;
use super::{Answer, Destroyed, Socket, TcpInfo};
use crate::identity::prefix::Prefix;
use crate::identity::{Opened, UuidSource};
use crate::key::{Endpoint, FlowKey, Name};
use crate::time::{CivilDate, Timestamp};
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time, on two clocks: one for the events, one that cannot be set for the waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Now {
    pub(super) at: Timestamp,
    pub(super) tick: Instant,
}

/// Why a socket is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shown {
    /// Somebody asked for its connection and wants an answer.
    Asked,
    /// It is in the list of all.
    Listed,
}

/// Keeps book of the sockets that were announced.
#[derive(Debug)]
pub(super) struct Announcer {
    prefix: Prefix,
    /// Announced and not gone, by cookie.
    live: HashMap<u64, Live, RandomState>,
    /// Remainders that were never announced, by their ends. The message that tells of their sockets' end may still come, and
    /// has the name that counts: cookies are given when they are asked for, and the remainder may have got its own.
    remainders: HashMap<Ends, Seen, RandomState>,
    /// Until when the last word on a socket that is gone is waited for.
    last_words: VecDeque<(Instant, Ends, u64)>,
    /// Closed a short while ago, by their ends: what TIME_WAIT leaves of them is no news.
    ended: HashMap<Ends, u64, RandomState>,
    /// The same, and those whose ends were used again since: no last word on them is news either.
    closed: HashSet<u64, RandomState>,
    ended_until: VecDeque<(Instant, Ends, u64)>,
    aborts: Aborts,
    aborted: Aborted,
    /// The number of the list that is being made or was made last.
    list: u32,
}

/// Sockets that were aborted before anybody could ask for them, since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Aborted {
    /// Those whose connection was found out.
    pub(super) named: u64,
    /// Those that would fit to more than one connection.
    pub(super) ambiguous: u64,
}

/// A socket's cookie, and the interface that it is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) cookie: u64,
    pub(super) interface: u32,
}

#[derive(Debug)]
struct Live {
    ends: Ends,
    /// The list it was seen in, or that was the last when it was seen otherwise.
    list: u32,
    /// Whether it is gone, and only its last word is missing.
    gone: bool,
}

/// How an announcement comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// For the first time.
    Alive,
    /// Once more, to who asks again.
    Again,
    /// For the first time, at its end.
    AtItsEnd,
}

/// The local and the remote end.
pub(super) type Ends = (Endpoint, Endpoint);

impl Announcer {
    /// An announcer that has seen nothing.
    pub(super) fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            live: HashMap::default(),
            remainders: HashMap::default(),
            last_words: VecDeque::new(),
            ended: HashMap::default(),
            closed: HashSet::default(),
            ended_until: VecDeque::new(),
            aborts: Aborts::default(),
            aborted: Aborted::default(),
            list: 0,
        }
    }

    /// Takes the last answer to a question.
    pub(super) fn handle_answer(&mut self, key: &FlowKey, answer: &Answer, now: Now, sink: &impl Fn(KernelEvent)) {
        for socket in answer.sockets() {
            self.handle_socket(socket, Shown::Asked, now, sink);
        }
        let is_news = || ![(key.lo(), key.hi()), (key.hi(), key.lo())].iter().any(|ends| self.ended.contains_key(ends));
        if matches!(answer, Answer::Nothing | Answer::ListenOnly) && is_news() {
            self.aborts.handle_question(key, now);
            sink(KernelEvent::Unknown(*key));
        }
    }

    /// Takes a socket that a lookup or the list has shown.
    pub(super) fn handle_socket(&mut self, socket: &Socket, shown: Shown, now: Now, sink: &impl Fn(KernelEvent)) {
        let (ends, cookie) = ((socket.local, socket.remote), socket.cookie);
        self.aborts.handle_known(ends);
        let seen = Seen { cookie, interface: socket.interface };
        let is_known = self.live.contains_key(&cookie);
        if is_known && shown == Shown::Asked {
            self.tell(seen, ends, Told::Again, now, sink);
        } else if !is_known && !socket.remainder {
            self.tell(seen, ends, Told::Alive, now, sink);
        }
        if !socket.remainder {
            self.live.insert(cookie, Live { ends, list: self.list, gone: false });
        } else if is_known {
            self.await_last_word(cookie, now);
        } else if !self.ended.contains_key(&ends) && !self.remainders.contains_key(&ends) {
            self.remainders.insert(ends, seen);
            self.last_words.push_back((now.tick + LAST_WORD_WAIT, ends, cookie));
        }
    }

    /// Takes the kernel's last word on a socket. Of two connections with the same ends, the second's can come first: the
    /// kernel tells on all processors at once.
    pub(super) fn handle_destroyed(&mut self, destroyed: Destroyed, now: Now, sink: &impl Fn(KernelEvent)) {
        let Destroyed { socket, tcp_info } = destroyed;
        if socket.remote.port == 0 {
            // Disconnected: the kernel has forgotten the remote port and the sums, and knows the cookie.
            let seen = Seen { cookie: socket.cookie, interface: socket.interface };
            match self.live.remove(&socket.cookie) {
                Some(Live { ends, .. }) => self.close(socket.cookie, ends, None, now, sink),
                None if self.closed.contains(&socket.cookie) => {}
                None => self.aborts.handle_gone(seen, (socket.local.port, socket.remote.addr), now),
            }
            return;
        }
        let ends = (socket.local, socket.remote);
        self.aborts.handle_known(ends);
        self.remainders.remove(&ends);
        if self.live.remove(&socket.cookie).is_none() {
            if self.closed.contains(&socket.cookie) {
                return;
            }
            let seen = Seen { cookie: socket.cookie, interface: socket.interface };
            self.tell(seen, ends, Told::AtItsEnd, now, sink);
        }
        self.close(socket.cookie, ends, tcp_info, now, sink);
    }

    /// Notes that last words were lost.
    pub(super) fn handle_overflow(&mut self) {
        self.aborts.clear();
    }

    /// Notes that a list of all sockets begins.
    pub(super) fn begin_list(&mut self) {
        self.list = self.list.wrapping_add(1);
    }

    /// The cookies and keys of those that were announced before the list began and are not in it. Each is to be looked up,
    /// since a list is no snapshot.
    pub(super) fn finish_list(&self) -> Vec<(u64, FlowKey)> {
        let missing = self.live.iter().filter(|(_, live)| live.list != self.list);
        let mut missing: Vec<_> = missing.map(|(&cookie, live)| (cookie, FlowKey::new(live.ends.0, live.ends.1).0)).collect();
        missing.sort_unstable();
        missing
    }

    /// Takes the answer to the lookup of one that was missing in the list.
    pub(super) fn handle_missing(&mut self, cookie: u64, answer: &Answer, now: Now) {
        let is_alive = answer.sockets().iter().any(|socket| socket.cookie == cookie && !socket.remainder);
        if is_alive || matches!(answer, Answer::Failed(_)) {
            if let Some(live) = self.live.get_mut(&cookie) {
                live.list = self.list;
            }
        } else {
            self.await_last_word(cookie, now);
        }
    }

    /// Closes what has waited long enough for its last word.
    pub(super) fn advance(&mut self, now: Now, sink: &impl Fn(KernelEvent)) {
        while let Some((_, ends, cookie)) = pop_due(&mut self.last_words, now.tick, usize::MAX) {
            if self.live.get(&cookie).is_some_and(|live| live.gone) {
                self.live.remove(&cookie);
                self.close(cookie, ends, None, now, sink);
            } else if let Some(&seen) = self.remainders.get(&ends)
                && seen.cookie == cookie
            {
                self.remainders.remove(&ends);
                self.tell(seen, ends, Told::Alive, now, sink);
                self.close(cookie, ends, None, now, sink);
            }
        }
        while let Some(judged) = self.aborts.poll(now.tick) {
            match judged {
                Judged::Named(ends, seen, heard) => {
                    self.aborted.named += 1;
                    self.tell(seen, ends, Told::AtItsEnd, heard, sink);
                    self.close(seen.cookie, ends, None, now, sink);
                }
                Judged::Ambiguous(sockets) => self.aborted.ambiguous += sockets as u64,
            }
        }
        while let Some((_, ends, cookie)) = pop_due(&mut self.ended_until, now.tick, MAX_ENDED) {
            self.closed.remove(&cookie);
            if self.ended.get(&ends) == Some(&cookie) {
                self.ended.remove(&ends);
            }
        }
    }

    /// When [`Self::advance`] has something to tell, at the earliest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let last_word = self.last_words.front().map(|(until, ..)| *until);
        [last_word, self.aborts.next_deadline()].into_iter().flatten().min()
    }

    /// What came of sockets that were aborted unasked.
    pub(super) fn aborted(&self) -> Aborted {
        self.aborted
    }

    /// Sockets that were announced and are not gone.
    pub(super) fn live(&self) -> usize {
        self.live.len()
    }

    /// Begins to wait for the last word on a socket that was announced and is gone.
    fn await_last_word(&mut self, cookie: u64, now: Now) {
        if let Some(live) = self.live.get_mut(&cookie) {
            live.list = self.list;
            if !std::mem::replace(&mut live.gone, true) {
                self.last_words.push_back((now.tick + LAST_WORD_WAIT, live.ends, cookie));
            }
        }
    }

    fn tell(&self, seen: Seen, (local, remote): Ends, told: Told, now: Now, sink: &impl Fn(KernelEvent)) {
        let name = Name { date: CivilDate::from_utc(now.at), uuid: self.prefix.uuid(seen.cookie) };
        let gone = told == Told::AtItsEnd;
        let opened = Opened { name, at: now.at, local, remote, gone, source: UuidSource::Kernel };
        sink(KernelEvent::Open { opened, interface: seen.interface, again: told == Told::Again });
    }

    fn close(&mut self, cookie: u64, ends: Ends, tcp_info: Option<Box<TcpInfo>>, now: Now, sink: &impl Fn(KernelEvent)) {
        self.ended.insert(ends, cookie);
        self.closed.insert(cookie);
        self.ended_until.push_back((now.tick + MEMORY, ends, cookie));
        sink(KernelEvent::Closed { uuid: self.prefix.uuid(cookie), local: ends.0, remote: ends.1, tcp_info });
    }
}

/// The first entry whose time has come or that is one too many.
fn pop_due(queue: &mut VecDeque<(Instant, Ends, u64)>, now: Instant, most: usize) -> Option<(Instant, Ends, u64)> {
    let &(until, ..) = queue.front()?;
    (until <= now || queue.len() > most).then(|| queue.pop_front()).flatten()
}

/// How long the message that tells of a socket's end may be on its way. A kernel thread sends it: on a host with ten times
/// the load that it can bear, a second was seen.
const LAST_WORD_WAIT: Duration = Duration::from_secs(3);

/// How long an ended connection is remembered: as long as TIME_WAIT lasts (TCP_TIMEWAIT_LEN in include/net/tcp.h).
const MEMORY: Duration = Duration::from_secs(60);

/// Most ended connections that are remembered: some 20 MB.
const MAX_ENDED: usize = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::kernel::TcpState;
    use crate::key::Address;
    use std::cell::RefCell;

    #[test]
    fn a_connection_that_is_asked_for_is_opened_and_closed_when_it_is_destroyed() {
        let mut host = Host::new();
        host.answer(&Answer::Found(alive(4)));
        host.destroy(4, Some(info(7)));
        assert_eq!(host.told(), ["open 4", "close 4 acked 7"]);
    }

    #[test]
    fn whoever_asks_again_is_answered_again() {
        let mut host = Host::new();
        host.answer(&Answer::Found(alive(4)));
        host.answer(&Answer::Found(alive(4)));
        host.show(&alive(4), Shown::Listed);
        host.destroy(4, None);
        assert_eq!(host.told(), ["open 4", "again 4", "close 4"]);
    }

    #[test]
    fn a_connection_that_nobody_asked_for_is_opened_and_closed_at_its_end() {
        let mut host = Host::new();
        host.destroy(4, Some(info(7)));
        assert_eq!(host.told(), ["open 4", "close 4 acked 7"]);
        // It is too late to ask, and no news.
        host.answer(&Answer::Found(remainder(4)));
        host.answer(&Answer::Nothing);
        host.destroy(4, Some(info(7)));
        assert!(host.told().is_empty());
    }

    #[test]
    fn a_socket_that_was_disconnected_is_closed_if_it_was_announced() {
        let mut host = Host::new();
        let nobody = Socket { remote: Endpoint { port: 0, ..B }, state: TcpState::CLOSE, ..alive(4) };
        let destroyed = Destroyed { socket: nobody, tcp_info: Some(info(0)) };
        host.answer(&Answer::Found(alive(4)));
        for _ in 0..2 {
            host.announcer.handle_destroyed(destroyed.clone(), host.now, &|event| note(&host.told, &event));
        }
        assert_eq!(host.told(), ["open 4", "close 4"]);
    }

    #[test]
    fn a_socket_that_was_aborted_before_the_question_is_opened_and_closed_a_little_later() {
        let mut host = Host::new();
        host.answer(&Answer::Nothing);
        let nobody = Socket { remote: Endpoint { port: 0, ..B }, state: TcpState::CLOSE, ..alive(4) };
        host.announcer
            .handle_destroyed(Destroyed { socket: nobody, tcp_info: None }, host.now, &|event| note(&host.told, &event));
        assert_eq!(host.told(), ["unknown"]);
        host.wait(host.announcer.next_deadline().unwrap() - host.now.tick);
        assert_eq!(host.told(), ["open 4", "close 4"]);
        assert_eq!(host.announcer.aborted(), Aborted { named: 1, ambiguous: 0 });
    }

    #[test]
    fn what_nobody_holds_is_unknown() {
        let mut host = Host::new();
        host.answer(&Answer::Nothing);
        host.answer(&Answer::ListenOnly);
        host.answer(&Answer::Failed(12));
        assert_eq!(host.told(), ["unknown", "unknown"]);
    }

    #[test]
    fn a_remainder_has_the_name_that_the_late_last_word_gives_it() {
        for cookie in [4, 5] {
            let mut host = Host::new();
            host.answer(&Answer::Found(remainder(5)));
            assert!(host.told().is_empty());
            host.destroy(cookie, Some(info(7)));
            host.wait(LAST_WORD_WAIT);
            assert_eq!(host.told(), [format!("open {cookie}"), format!("close {cookie} acked 7")]);
        }
    }

    #[test]
    fn a_remainder_without_a_last_word_is_told_after_a_while() {
        let mut host = Host::new();
        host.answer(&Answer::Found(remainder(5)));
        host.show(&remainder(5), Shown::Listed);
        host.wait(LAST_WORD_WAIT - Duration::from_nanos(1));
        assert!(host.told().is_empty());
        host.wait(Duration::from_nanos(1));
        assert_eq!(host.told(), ["open 5", "close 5"]);
        assert_eq!(host.announcer.next_deadline(), None);
    }

    #[test]
    fn the_remainder_of_a_known_connection_is_closed_once() {
        for last_word in [true, false] {
            let mut host = Host::new();
            host.answer(&Answer::Found(alive(5)));
            host.show(&remainder(5), Shown::Listed);
            host.answer(&Answer::Found(remainder(5)));
            if last_word {
                host.destroy(5, None);
            }
            host.wait(LAST_WORD_WAIT);
            assert_eq!(host.told(), ["open 5", "again 5", "close 5"]);
        }
    }

    #[test]
    fn a_port_used_again_gives_the_second_connection_its_own_name() {
        let mut host = Host::new();
        host.destroy(4, None);
        host.answer(&Answer::Found(alive(6)));
        host.destroy(6, None);
        host.destroy(8, None);
        assert_eq!(host.told(), ["open 4", "close 4", "open 6", "close 6", "open 8", "close 8"]);
        // The first is asked for when it is over, and the last words come in the wrong order.
        let mut host = Host::new();
        host.answer(&Answer::Found(remainder(4)));
        host.destroy(6, None);
        host.destroy(4, None);
        host.wait(LAST_WORD_WAIT);
        assert_eq!(host.told(), ["open 6", "close 6", "open 4", "close 4"]);
    }

    #[test]
    fn both_ends_here_are_two_names() {
        let mut host = Host::new();
        let (one, mut other) = (alive(4), alive(5));
        (other.local, other.remote) = (one.remote, one.local);
        host.answer(&Answer::FoundBoth([one, other]));
        host.destroy(4, None);
        assert_eq!(host.told(), ["open 4", "open 5", "close 4"]);
        assert_eq!(host.announcer.live(), 1);
    }

    #[test]
    fn after_lost_messages_the_list_closes_what_is_gone_and_opens_what_is_new() {
        let mut host = Host::new();
        host.answer(&Answer::Found(alive(4)));
        host.announcer.begin_list();
        host.show(&Socket { local: Endpoint { port: 80, ..A }, ..alive(6) }, Shown::Listed);
        assert_eq!(host.announcer.finish_list(), [(4, alive(4).key())]);
        host.announcer.handle_missing(4, &Answer::Nothing, host.now);
        host.wait(LAST_WORD_WAIT);
        assert_eq!(host.told(), ["open 4", "open 6", "close 4"]);
        assert!(host.announcer.finish_list().is_empty());
    }

    #[test]
    fn who_is_missing_in_the_list_but_alive_stays() {
        for answer in [Answer::Found(alive(4)), Answer::Failed(12)] {
            let mut host = Host::new();
            host.answer(&Answer::Found(alive(4)));
            host.announcer.begin_list();
            host.announcer.handle_missing(4, &answer, host.now);
            host.wait(LAST_WORD_WAIT);
            assert_eq!(host.told(), ["open 4"]);
            assert!(host.announcer.finish_list().is_empty());
        }
    }

    #[test]
    fn nothing_is_remembered_for_ever() {
        let mut host = Host::new();
        host.destroy(4, None);
        host.answer(&Answer::Found(alive(6)));
        host.destroy(6, None);
        host.wait(MEMORY);
        let announcer = &host.announcer;
        assert!(
            announcer.live.is_empty()
                && announcer.remainders.is_empty()
                && announcer.ended.is_empty()
                && announcer.closed.is_empty()
        );
        assert!(announcer.last_words.is_empty() && announcer.ended_until.is_empty());
    }

    struct Host {
        announcer: Announcer,
        now: Now,
        told: RefCell<Vec<String>>,
    }

    impl Host {
        fn new() -> Self {
            let now = Now { at: Timestamp::from_parts(1_795_218_624, 0), tick: Instant::now() };
            Self { announcer: Announcer::new(Prefix::parse("x").unwrap()), now, told: RefCell::default() }
        }

        fn answer(&mut self, answer: &Answer) {
            self.announcer.handle_answer(&alive(0).key(), answer, self.now, &|event| note(&self.told, &event));
        }

        fn show(&mut self, socket: &Socket, shown: Shown) {
            self.announcer.handle_socket(socket, shown, self.now, &|event| note(&self.told, &event));
        }

        fn destroy(&mut self, cookie: u64, tcp_info: Option<Box<TcpInfo>>) {
            let destroyed = Destroyed { socket: Socket { state: TcpState::CLOSE, ..alive(cookie) }, tcp_info };
            self.announcer.handle_destroyed(destroyed, self.now, &|event| note(&self.told, &event));
        }

        fn wait(&mut self, duration: Duration) {
            self.now.tick += duration;
            self.announcer.advance(self.now, &|event| note(&self.told, &event));
        }

        fn told(&self) -> Vec<String> {
            self.told.take()
        }
    }

    fn note(told: &RefCell<Vec<String>>, event: &KernelEvent) {
        let number = |uuid: &crate::key::FlowUuid| crate::identity::prefix::cookie_of(uuid).unwrap();
        told.borrow_mut().push(match event {
            KernelEvent::Open { opened, again: false, .. } => format!("open {}", number(&opened.name.uuid)),
            KernelEvent::Open { opened, again: true, .. } => format!("again {}", number(&opened.name.uuid)),
            KernelEvent::Closed { uuid, tcp_info: Some(info), .. } => {
                format!("close {} acked {}", number(uuid), info.bytes_acked)
            }
            KernelEvent::Closed { uuid, .. } => format!("close {}", number(uuid)),
            KernelEvent::Unknown(_) => "unknown".into(),
        });
    }

    fn alive(cookie: u64) -> Socket {
        let state = TcpState::ESTABLISHED;
        Socket { local: A, remote: B, interface: 0, cookie, state, remainder: false, tcp_info: None }
    }

    fn remainder(cookie: u64) -> Socket {
        Socket { state: TcpState::TIME_WAIT, remainder: true, ..alive(cookie) }
    }

    fn info(bytes_acked: u64) -> Box<TcpInfo> {
        Box::new(TcpInfo { bytes_acked, ..TcpInfo::default() })
    }

    const A: Endpoint = Endpoint { addr: Address::v4([192, 0, 2, 1]), port: 443 };
    const B: Endpoint = Endpoint { addr: Address::v4([198, 51, 100, 7]), port: 50_000 };
}
