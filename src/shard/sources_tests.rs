//! Two sources that name one connection, and what the kernel says at its end.

use super::sim::*;
use super::*;
use crate::identity::kernel::TcpInfo;
use crate::identity::{EventOutcome, UuidEvent, UuidSource};
use crate::key::{Endpoint, FlowUuid};
use UuidSource::{EventSocket, Kernel};

/// Names of socket 4, and of the socket after it, by the right prefix and by another.
const OURS: &str = "host_1_0000000000000004";
const THEIRS: &str = "host_2_0000000000000004";
const OUR_NEXT: &str = "host_1_0000000000000005";
const THEIR_NEXT: &str = "host_2_0000000000000005";

/// The resolution of timers.
const SLOT: Duration = Duration::from_millis(16);

fn both() -> Sim {
    Sim::with(|config| (config.ask, config.compare) = (true, true))
}

impl Sim {
    fn told_by(&mut self, source: UuidSource, now: u64, name: &str) {
        self.told_of(source, now, name, SERVER, CLIENT);
    }

    fn told_of(&mut self, source: UuidSource, now: u64, name: &str, local: Endpoint, remote: Endpoint) {
        self.source = source;
        self.announce(at(now), name, local, remote);
    }

    /// The kernel closes a socket and tells how many bytes were acknowledged.
    fn last_word(&mut self, now: u64, name: &str, bytes_acked: u64) {
        let uuid = FlowUuid::parse(name).unwrap();
        let cookie = crate::identity::prefix::cookie_of(&uuid).unwrap();
        let tcp_info = TcpInfo { bytes_acked, ..TcpInfo::default() };
        self.event(at(now), UuidEvent::Close { uuid, at: at(now), last_word: Some(Arc::new(LastWord { cookie, tcp_info })) });
    }

    /// The flow's name and why it ended, and what the kernel said last.
    fn only_file(&mut self) -> (String, EndReason, Option<(u64, u64)>) {
        let [file] = self.files().try_into().expect("one file");
        let word = file.summary.last_word.map(|word| (word.cookie, word.tcp_info.bytes_acked));
        (file.name, file.summary.end, word)
    }

    /// Names told: agreed, disagreed, by the event socket only, by the kernel only.
    fn told(&mut self) -> [u64; 4] {
        [Told::Agreed, Told::Disagreed, Told::EventSocketOnly, Told::KernelOnly].map(|told| self.shard.stats().names_told(told))
    }
}

#[test]
fn sources_that_agree_name_a_connection_once_whoever_is_first() {
    for (first, second) in [(Kernel, EventSocket), (EventSocket, Kernel)] {
        let mut sim = both();
        sim.connection(at(0), 100);
        sim.told_by(first, 60, OURS);
        sim.told_by(second, 70, OURS);
        sim.told_by(first, 80, OURS);
        assert_eq!(sim.told(), [1, 0, 0, 0], "{first:?} first");
        sim.pass(at(20_000));
        assert_eq!(sim.only_file(), (OURS.into(), EndReason::Fin, None));
        assert_eq!((sim.told(), sim.shard.poll_disagreement()), ([1, 0, 0, 0], None));
        assert_eq!((sim.events(EventOutcome::Claimed), sim.events(EventOutcome::Duplicate)), (1, 2));
        sim.check_conservation();
    }
}

#[test]
fn the_event_sockets_name_counts_whoever_is_first() {
    for (first, second) in [((Kernel, OURS), (EventSocket, THEIRS)), ((EventSocket, THEIRS), (Kernel, OURS))] {
        // Of one socket by its cookie, and of an open connection even without.
        for (closed, theirs) in [(true, THEIRS), (false, THEIRS), (false, "another")] {
            let mut sim = both();
            if closed {
                sim.connection(at(0), 100)
            } else {
                sim.handshake(at(0), 100)
            }
            for (n, (source, name)) in [first, second, first].into_iter().enumerate() {
                let name = if source == Kernel { name } else { theirs };
                sim.told_by(source, 60 + n as u64, name);
            }
            let expected =
                Disagreement { event_socket: FlowUuid::parse(theirs).unwrap(), kernel: FlowUuid::parse(OURS).unwrap() };
            assert_eq!((sim.shard.poll_disagreement(), sim.shard.poll_disagreement()), (Some(expected), None));
            sim.pass(at(60_000));
            assert_eq!(sim.only_file().0, theirs, "{first:?} first");
            assert_eq!(sim.told(), [0, 1, 0, 0]);
            assert_eq!((sim.events(EventOutcome::Disagreed), sim.events(EventOutcome::Duplicate)), (1, 1));
            sim.check_conservation();
        }
    }
}

#[test]
fn a_name_that_comes_when_the_file_is_there_is_a_disagreement_all_the_same() {
    let mut sim = both();
    sim.connection(at(0), 100);
    sim.told_by(Kernel, 60, OURS);
    sim.pass(at(2_000));
    sim.told_by(EventSocket, 2_100, THEIRS);
    sim.pass(at(60_000));
    assert_eq!((sim.only_file().0, sim.told()), (OURS.into(), [0, 1, 0, 0]));
}

#[test]
fn what_one_source_alone_tells_is_counted_when_the_flow_is_gone() {
    for (source, expected) in [(EventSocket, [0, 0, 1, 0]), (Kernel, [0, 0, 0, 1])] {
        let mut sim = both();
        sim.connection(at(0), 100);
        sim.told_by(source, 60, OURS);
        sim.pass(at(2_000));
        assert_eq!((sim.only_file().0, sim.told()), (OURS.into(), [0; 4]));
        sim.pass(at(20_000));
        assert_eq!(sim.told(), expected, "{source:?}");
    }
}

#[test]
fn names_told_before_the_first_packet_are_compared_too() {
    for first in [Kernel, EventSocket] {
        for (theirs, told) in [(OURS, [1, 0, 0, 0]), (THEIRS, [0, 1, 0, 0]), ("another", [0, 1, 0, 0])] {
            let mut sim = both();
            for n in 0..2 {
                let source = if (n == 0) == (first == Kernel) { Kernel } else { EventSocket };
                sim.told_by(source, n, if source == Kernel { OURS } else { theirs });
            }
            sim.connection(at(10), 100);
            sim.pass(at(60_000));
            assert_eq!((sim.only_file().0.as_str(), sim.told()), (theirs, told), "{first:?} first");
            assert_eq!(sim.events(EventOutcome::Expired), 0);
        }
    }
}

#[test]
fn names_of_the_next_connection_are_no_disagreement() {
    // The event socket missed the first of two connections on the same ends, and names the second under another prefix or not.
    for (theirs, told) in [(OUR_NEXT, [1, 0, 0, 1]), (THEIR_NEXT, [0, 1, 0, 1])] {
        let mut sim = both();
        sim.connection(at(0), 100);
        sim.told_by(Kernel, 60, OURS);
        sim.connection(at(500), 9_000);
        sim.told_by(Kernel, 560, OUR_NEXT);
        sim.told_by(EventSocket, 570, theirs);
        sim.pass(at(60_000));
        let names: Vec<_> = sim.files().into_iter().map(|file| file.name).collect();
        assert_eq!((names, sim.told()), (vec![OURS.into(), theirs.into()], told));

        // The same, all told before the ring hands over the first packets.
        let mut sim = both();
        for (source, noticed, name) in [(Kernel, 60, OURS), (Kernel, 560, OUR_NEXT), (EventSocket, 570, theirs)] {
            sim.source = source;
            sim.announce_at(at(600), at(noticed), name, SERVER, CLIENT);
        }
        sim.connection(at(0), 100);
        sim.connection(at(500), 9_000);
        sim.pass(at(60_000));
        let names: Vec<_> = sim.files().into_iter().map(|file| file.name).collect();
        assert_eq!((names, sim.told()), (vec![OURS.into(), theirs.into()], told));
    }
    // The first one is over, and another socket is named before its packets come.
    let mut sim = both();
    sim.connection(at(0), 100);
    sim.told_by(Kernel, 60, OURS);
    sim.told_by(EventSocket, 300, OUR_NEXT);
    sim.connection(at(310), 9_000);
    sim.told_by(Kernel, 400, OUR_NEXT);
    sim.pass(at(60_000));
    let names: Vec<_> = sim.files().into_iter().map(|file| file.name).collect();
    assert_eq!((names, sim.told()), (vec![OURS.into(), OUR_NEXT.into()], [1, 0, 0, 1]));
}

#[test]
fn both_ends_here_are_compared_each_for_itself() {
    let mut sim = both();
    sim.connection(at(0), 100);
    sim.told_of(Kernel, 60, OURS, SERVER, CLIENT);
    sim.told_of(Kernel, 61, OUR_NEXT, CLIENT, SERVER);
    sim.told_of(EventSocket, 70, THEIR_NEXT, CLIENT, SERVER);
    sim.told_of(EventSocket, 71, OURS, SERVER, CLIENT);
    sim.pass(at(60_000));
    let [file] = sim.files().try_into().expect("one file");
    assert_eq!(file.summary.names.iter().map(|n| n.uuid.as_str()).collect::<Vec<_>>(), [OURS, THEIR_NEXT]);
    assert_eq!(sim.told(), [1, 1, 0, 0]);
}

#[test]
fn either_source_closes_a_connection_by_its_own_name() {
    for name in [OURS, THEIRS] {
        for (first, second) in [((Kernel, OURS), (EventSocket, THEIRS)), ((EventSocket, THEIRS), (Kernel, OURS))] {
            let mut sim = both();
            sim.handshake(at(0), 100);
            sim.told_by(first.0, 60, first.1);
            sim.told_by(second.0, 70, second.1);
            sim.close(at(1_000), name);
            sim.pass(at(2_000) + SLOT);
            assert_eq!(sim.only_file(), (THEIRS.into(), EndReason::Closed, None), "closed as {name}");
            assert_eq!((sim.events(EventOutcome::Closed), sim.events(EventOutcome::CloseUnknown)), (1, 0));
        }
    }
}

#[test]
fn the_kernel_is_asked_about_what_only_the_event_socket_has_named() {
    let mut sim = both();
    sim.told_by(EventSocket, 0, OURS);
    sim.handshake(at(1), 100);
    assert!(sim.shard.poll_question().is_some());
    let mut sim = both();
    sim.told_by(Kernel, 0, OURS);
    sim.handshake(at(1), 100);
    assert_eq!(sim.shard.poll_question(), None);
}

#[test]
fn the_kernels_last_word_goes_with_the_flow_if_it_comes_before_its_end() {
    let mut sim = Sim::new();
    sim.connection(at(0), 100);
    sim.told_by(Kernel, 60, OURS);
    sim.last_word(70, OURS, 7);
    sim.pass(at(2_000));
    assert_eq!(sim.only_file(), (OURS.into(), EndReason::Fin, Some((4, 7))));
    sim.pass(at(20_000));
    assert_eq!(sim.ledger.held(), 0);

    let mut sim = Sim::new();
    sim.connection(at(0), 100);
    sim.told_by(Kernel, 60, OURS);
    sim.pass(at(2_000));
    sim.last_word(2_100, OURS, 7);
    assert_eq!(sim.only_file().2, None);
    sim.pass(at(20_000));
    assert_eq!(sim.ledger.held(), 0);
}

#[test]
fn a_connection_that_only_the_kernel_saw_end_has_its_file_after_the_linger() {
    let mut sim = Sim::new();
    sim.handshake(at(0), 100);
    sim.told_by(Kernel, 60, OURS);
    sim.last_word(10_000, OURS, 7);
    sim.pass(at(10_999));
    assert!(sim.files().is_empty());
    sim.pass(at(11_000) + SLOT);
    assert_eq!(sim.only_file(), (OURS.into(), EndReason::Closed, Some((4, 7))));
}

#[test]
fn of_two_ends_here_the_last_word_on_the_first_name_is_kept() {
    for (order, expected) in [([OURS, OUR_NEXT], (4, 7)), ([OUR_NEXT, OURS], (4, 7)), ([OUR_NEXT, OUR_NEXT], (5, 7))] {
        let mut sim = Sim::new();
        sim.connection(at(0), 100);
        sim.told_of(Kernel, 60, OURS, SERVER, CLIENT);
        sim.told_of(Kernel, 61, OUR_NEXT, CLIENT, SERVER);
        order.iter().for_each(|name| sim.last_word(70, name, 7));
        sim.pass(at(2_000));
        assert_eq!(sim.only_file().2, Some(expected), "{order:?}");
    }
}

#[test]
fn a_name_told_twice_does_not_go_to_the_next_connection_on_the_same_ends() {
    let mut sim = Sim::with(|config| config.ask = true);
    sim.source = Kernel;
    let told = |sim: &mut Sim, now, n: u64, noticed| {
        sim.announce_at(at(now), at(noticed), &format!("x_{n:016X}"), SERVER, CLIENT);
    };
    for n in 0..200u64 {
        let start = n * 100;
        sim.connection(at(start), 100 + 1_000 * n as u32);
        if n > 0 {
            told(&mut sim, start + 51, n - 1, start - 40);
        }
        told(&mut sim, start + 52, n, start + 1);
    }
    sim.pass(at(60_000));
    let mut files = sim.files();
    files.sort_by_key(|file| file.summary.first);
    let names: Vec<_> = files.iter().map(|file| file.name.clone()).collect();
    assert_eq!(names, (0..200).map(|n| format!("x_{n:016X}")).collect::<Vec<_>>());
    assert!(files.iter().all(|file| file.packets == 7));
    sim.check_conservation();
}

#[test]
fn what_was_gone_before_the_first_packet_names_no_flow_and_ends_none() {
    for (told_first, named) in [(true, false), (false, false), (false, true)] {
        let mut sim = Sim::new();
        let old = |sim: &mut Sim| {
            (sim.source, sim.gone) = (Kernel, true);
            sim.announce_at(at(600), at(400), OURS, SERVER, CLIENT);
        };
        if told_first {
            old(&mut sim);
        }
        sim.handshake(at(500), 100);
        sim.gone = false;
        if named {
            sim.told_by(Kernel, 510, OUR_NEXT);
        }
        if !told_first {
            old(&mut sim);
        }
        sim.told_by(Kernel, 610, OUR_NEXT);
        sim.gone = false;
        sim.send(at(620), CLIENT, SERVER, ACK, 101, 501, 10);
        sim.pass(at(60_000));
        let [file] = sim.files().try_into().expect("one file");
        assert_eq!((file.name.as_str(), file.packets), (OUR_NEXT, 4), "told first: {told_first}, named: {named}");
    }
}
