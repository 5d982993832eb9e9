//! Whose a socket of this machine is: the kernel is asked for one connection, however many there are.

use std::net::{IpAddr, SocketAddr};

/// The user of the process that has the socket at `local` that is connected to `remote`. `None`: it is not of
/// this machine, or the system does not tell.
#[cfg(target_os = "linux")]
pub(super) fn owner_of(local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let found = diagnose(local, remote)?;
    // A connection that its server has not accepted yet has no owner, but then whoever listens is still there.
    // One that was accepted may be of somebody who does not listen any more, so it is asked for first.
    let found = if found.inode == 0 && found.state != LISTENS {
        diagnose(local, SocketAddr::new(unspecified(local.ip()), 0)).filter(|found| found.state == LISTENS)?
    } else {
        found
    };
    Some(found.user)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn owner_of(_local: SocketAddr, _remote: SocketAddr) -> Option<u32> {
    None
}

#[cfg(target_os = "linux")]
const LISTENS: u8 = 10;

/// A socket as the kernel describes it.
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq, Eq)]
struct Described {
    state: u8,
    user: u32,
    /// 0 while no process has it.
    inode: u32,
}

#[cfg(target_os = "linux")]
fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

/// Asks for the socket of these two addresses, or who listens at the first.
#[cfg(target_os = "linux")]
fn diagnose(local: SocketAddr, remote: SocketAddr) -> Option<Described> {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
    };

    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag).ok()?;
    // It answers before it returns.
    sendto(kernel.as_raw_fd(), &question(local, remote), &NetlinkAddr::new(0, 0), MsgFlags::empty()).ok()?;
    let mut answer = [0; 1024];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).ok()?;
    understand(&answer[..length])
}

/// Kind of message, for question and answer (`SOCK_DIAG_BY_FAMILY`).
#[cfg(target_os = "linux")]
const BY_FAMILY: u16 = 20;

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
#[cfg(target_os = "linux")]
fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    const LENGTH: u32 = 16 + 56;
    const REQUEST: u16 = 1;
    const TCP: u8 = 6;
    let family = u8::try_from(if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or_default();
    let mut bytes = Vec::with_capacity(LENGTH as usize);
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    // A number and a sender, which are not needed.
    bytes.extend([0; 8]);
    bytes.extend([family, TCP, 0, 0]);
    // In any state.
    bytes.extend([0xff; 4]);
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    for ip in [local.ip(), remote.ip()] {
        let mut room = [0; 16];
        match ip {
            IpAddr::V4(ip) => room[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => room.copy_from_slice(&ip.octets()),
        }
        bytes.extend(room);
    }
    // Through any interface, with any cookie.
    bytes.extend([0; 4]);
    bytes.extend([0xff; 8]);
    bytes
}

/// `struct nlmsghdr` and `struct inet_diag_msg`; anything else is no answer.
#[cfg(target_os = "linux")]
fn understand(bytes: &[u8]) -> Option<Described> {
    const STATE: usize = 16 + 1;
    const USER: usize = 16 + 64;
    const INODE: usize = 16 + 68;
    let number = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    if kind != BY_FAMILY {
        return None;
    }
    Some(Described { state: *bytes.get(STATE)?, user: number(USER)?, inode: number(INODE)? })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn mine() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn tells_the_owner_before_and_after_it_is_accepted() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let ours = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let ask = || owner_of(ours.peer_addr().unwrap(), ours.local_addr().unwrap());
            assert_eq!(ask(), Some(mine()), "{address}, in the backlog");
            let (theirs, _) = listener.accept().unwrap();
            assert_eq!(ask(), Some(mine()), "{address}, accepted");
            drop(listener);
            assert_eq!(ask(), Some(mine()), "{address}, nobody listens any more");
            drop(theirs);
        }
    }

    #[test]
    fn what_is_no_answer_tells_nothing() {
        assert_eq!(understand(&[]), None);
        assert_eq!(understand(&[0; 20]), None);
        let nowhere = "127.0.0.1:1".parse().unwrap();
        assert_eq!(owner_of(nowhere, nowhere), None);
    }
}
