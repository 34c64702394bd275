//! Which interfaces and addresses this host has, and what changes.
//!
//! [`Monitor`] asks the kernel by rtnetlink and hears of changes; [`Snapshot`] is what it found; [`Snapshot::select`] says
//! which interfaces are to be captured. What is done with that is for the caller. All of it is about one network
//! namespace: that of the thread which started the monitor.

use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::MulticastGroup;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// An interface.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Link {
    /// The kernel's number for it. An interface that is removed and made again under its name has another; one that is
    /// renamed keeps it. A capture belongs to the pair of both: whichever changes, the old interface is gone and a new
    /// one is there.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it was set up (IFF_UP), with a carrier or without.
    pub up: bool,
    /// Whether it is a loopback interface.
    pub loopback: bool,
}

/// The interfaces and addresses at one time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// All interfaces, by index.
    pub links: Vec<Link>,
    /// All addresses of all interfaces, those of loopback and link-local ones included.
    pub addresses: BTreeSet<IpAddr>,
}

/// What to capture of what was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    /// The interfaces to capture: there, up, and asked for; by index.
    pub capture: Vec<Link>,
    /// The names that were asked for and are missing or down, in the order of asking.
    pub waiting: Vec<String>,
}

impl Snapshot {
    /// Chooses the interfaces to capture: those of the given names, or all if none is given. A name that is given twice
    /// is one interface.
    pub fn select(&self, names: &[String]) -> Selection {
        let up = |name: &str| self.links.iter().any(|link| link.up && link.name == name);
        let wanted = |link: &&Link| link.up && (names.is_empty() || names.contains(&link.name));
        let mut waiting: Vec<String> = Vec::new();
        for name in names {
            if !up(name) && !waiting.contains(name) {
                waiting.push(name.clone());
            }
        }
        Selection { capture: self.links.iter().filter(wanted).cloned().collect(), waiting }
    }
}

/// Why the interfaces are not known.
#[derive(Debug, thiserror::Error)]
pub enum InterfacesError {
    /// No netlink socket.
    #[error("open netlink socket for interfaces: {0} (the kernel or a seccomp profile must allow AF_NETLINK)")]
    Open(#[source] io::Error),
    /// The kernel refused to list links or addresses, or broke off.
    #[error("list interfaces and addresses: {0} (start the monitor again)")]
    List(#[source] rtnetlink::Error),
    /// The netlink socket failed.
    #[error("watch interfaces: the netlink socket was closed (start the monitor again)")]
    Closed,
}

/// Keeps a [`Snapshot`] true.
///
/// Notifications only say that something changed: after each, everything is listed again. So nothing has to be guessed
/// when the kernel drops notifications for want of room (ENOBUFS), which is just another reason to list.
#[derive(Debug)]
pub struct Monitor {
    current: Snapshot,
    // A list was begun for a change, and its result was not yet taken over.
    stale: bool,
    lists: rtnetlink::Handle,
    changes: mpsc::Receiver<()>,
    // They end with the monitor.
    tasks: JoinSet<()>,
}

impl Monitor {
    /// Subscribes to changes and lists what there is. Must be called in a tokio runtime with I/O.
    ///
    /// # Errors
    /// Fails without a netlink socket and where the lists cannot be had.
    pub async fn start() -> Result<Self, InterfacesError> {
        // Two sockets: where notifications overflow one, the end of a list must not be among what is lost.
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (notified, _, mut messages) = rtnetlink::new_multicast_connection(&groups).map_err(InterfacesError::Open)?;
        let (listed, lists, _) = rtnetlink::new_connection().map_err(InterfacesError::Open)?;
        let (changed, changes) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(notified);
        tasks.spawn(listed);
        tasks.spawn(async move {
            while messages.recv().await.is_ok() {
                // A change that is waiting to be seen stands for this one too.
                let _ = changed.try_send(());
            }
        });
        let current = list(&lists).await?;
        Ok(Self { current, stale: false, lists, changes, tasks })
    }

    /// Waits until interfaces or addresses have changed and returns them. Several changes in short order may be one.
    /// A call that is given up before it returns loses nothing.
    ///
    /// # Errors
    /// Fails when the netlink socket does; the monitor must then be started again.
    pub async fn changed(&mut self) -> Result<&Snapshot, InterfacesError> {
        loop {
            if !self.stale {
                self.changes.recv().await.ok_or(InterfacesError::Closed)?;
                self.stale = true;
            }
            let found = list(&self.lists).await?;
            // A list ends early, and without an error, where its socket fails.
            if self.tasks.try_join_next().is_some() {
                return Err(InterfacesError::Closed);
            }
            self.stale = false;
            if found != self.current {
                self.current = found;
                return Ok(&self.current);
            }
        }
    }

    /// What is known now.
    pub fn snapshot(&self) -> &Snapshot {
        &self.current
    }
}

async fn list(kernel: &rtnetlink::Handle) -> Result<Snapshot, InterfacesError> {
    let mut snapshot = Snapshot::default();
    let mut links = pin!(kernel.link().get().execute());
    while let Some(message) = links.try_next().await.map_err(InterfacesError::List)? {
        snapshot.links.extend(link(&message));
    }
    snapshot.links.sort();
    let mut addresses = pin!(kernel.address().get().execute());
    while let Some(message) = addresses.try_next().await.map_err(InterfacesError::List)? {
        snapshot.addresses.extend(address(&message));
    }
    Ok(snapshot)
}

/// The interface that a message tells of; `None` for one without a name, which the kernel does not send.
fn link(message: &LinkMessage) -> Option<Link> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let flags = message.header.flags;
    let (up, loopback) = (flags.contains(LinkFlags::Up), flags.contains(LinkFlags::Loopback));
    Some(Link { index: message.header.index, name, up, loopback })
}

/// The address that this host has by a message. IFA_LOCAL if there is one: on a point-to-point link, IFA_ADDRESS is the
/// other end's (include/uapi/linux/if_addr.h).
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_names_every_interface_that_is_up_is_captured() {
        let selection = host().select(&[]);
        assert_eq!(selection.capture, [lo(), eth0()]);
        assert!(selection.waiting.is_empty());
    }

    #[test]
    fn named_interfaces_that_are_down_or_missing_are_waited_for() {
        let selection = host().select(&names(&["eth9", "eth1", "eth0"]));
        assert_eq!(selection.capture, [eth0()]);
        assert_eq!(selection.waiting, ["eth9", "eth1"]);
    }

    #[test]
    fn a_name_given_twice_is_one_interface() {
        let selection = host().select(&names(&["eth0", "eth1", "eth0", "eth1"]));
        assert_eq!(selection.capture, [eth0()]);
        assert_eq!(selection.waiting, ["eth1"]);
    }

    #[test]
    fn an_interface_made_again_is_another_one() {
        let before = host().select(&names(&["eth0"]));
        let again = Snapshot { links: vec![Link { index: 7, ..eth0() }], ..Snapshot::default() };
        assert_ne!(again.select(&names(&["eth0"])).capture, before.capture);
    }

    #[test]
    fn a_renamed_interface_is_waited_for_under_its_old_name_and_found_under_the_new() {
        let renamed = Snapshot { links: vec![Link { name: "wan0".into(), ..eth0() }], ..Snapshot::default() };
        assert_eq!(renamed.select(&names(&["eth0"])).waiting, ["eth0"]);
        assert_eq!(renamed.select(&names(&["wan0"])).capture[0].index, eth0().index);
        assert_ne!(renamed.select(&[]).capture[0], eth0());
    }

    #[test]
    fn a_link_message_gives_name_index_and_flags() {
        let mut message = LinkMessage::default();
        message.header.index = 2;
        message.header.flags = LinkFlags::Up | LinkFlags::Broadcast;
        message.attributes = vec![LinkAttribute::Mtu(1500), LinkAttribute::IfName("eth0".into())];
        assert_eq!(link(&message), Some(eth0()));
        message.attributes.clear();
        assert_eq!(link(&message), None);
    }

    #[test]
    fn on_a_point_to_point_link_the_local_end_is_ours() {
        let (ours, theirs) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut message = AddressMessage::default();
        message.attributes = vec![AddressAttribute::Address(theirs), AddressAttribute::Local(ours)];
        assert_eq!(address(&message), Some(ours));
        message.attributes.pop();
        assert_eq!(address(&message), Some(theirs));
    }

    fn host() -> Snapshot {
        let eth1 = Link { index: 3, name: "eth1".into(), up: false, loopback: false };
        Snapshot { links: vec![lo(), eth0(), eth1], addresses: BTreeSet::new() }
    }

    fn lo() -> Link {
        Link { index: 1, name: "lo".into(), up: true, loopback: true }
    }

    fn eth0() -> Link {
        Link { index: 2, name: "eth0".into(), up: true, loopback: false }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }
}
