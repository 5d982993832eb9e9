//! Where a server listens: TCP addresses and Unix sockets behind one type.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};

use super::names::look_up;
use super::socket_file::{SocketAccess, SocketFile};
use crate::sys;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 4096;

/// When a silent peer is first asked whether it is still there, how often then, and how many times.
const KEEPALIVE_AFTER_S: u32 = 20;
const KEEPALIVE_EVERY_S: u32 = 5;
const KEEPALIVE_TRIES: u32 = 4;

/// How long a server that starts may need to bind a socket. It asks the one that may be there already.
const TURN_WITHIN: Duration = Duration::from_secs(3);
const TURN_LOOK_EVERY: Duration = Duration::from_millis(5);

/// Bytes that the system may keep for each connection: come in and not read yet, and not sent yet.
const RECEIVED: u32 = 32 * 1024;
const UNSENT: u32 = 16 * 1024;

pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A connection that was made, and from where.
pub enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Who may be told from others at the far end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Address(IpAddr),
    /// Of this machine, on a Unix socket.
    User(u32),
}

impl Listener {
    /// Listens on every address that `host` stands for; `unix:/path` is a socket file.
    pub async fn bind(host: &str, port: u16, access: SocketAccess) -> io::Result<Vec<Listener>> {
        if let Some(path) = host.strip_prefix("unix:") {
            return Ok(vec![bind_unix(Path::new(path), access).await?]);
        }
        // An address in brackets is how IPv6 is written next to a port.
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let mut addresses = look_up(bare, port).await?;
        addresses.sort_unstable();
        addresses.dedup();
        addresses.into_iter().map(bind_tcp).collect()
    }

    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                prepare(&stream);
                Ok(Accepted::Tcp(stream, peer))
            }
            Listener::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }

    /// Whether others than this machine's own programs can reach it.
    pub fn is_open_to_others(&self) -> bool {
        match self {
            Listener::Tcp(listener) => {
                listener.local_addr().is_ok_and(|address| !address.ip().to_canonical().is_loopback())
            }
            Listener::Unix(..) => false,
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listener::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(out, "{address}"),
                Err(_) => out.write_str("tcp"),
            },
            Listener::Unix(_, file) => write!(out, "unix:{}", file.path().display()),
        }
    }
}

impl Accepted {
    pub fn origin(&self) -> Origin {
        match self {
            Accepted::Tcp(_, peer) => Origin::Address(peer.ip().to_canonical()),
            // One whom the system does not tell is counted as nobody.
            Accepted::Unix(stream) => Origin::User(stream.peer_cred().map_or(u32::MAX, |peer| peer.uid())),
        }
    }

    pub fn peer(&self) -> String {
        match self {
            Accepted::Tcp(_, peer) => peer.to_string(),
            Accepted::Unix(_) => "unix".to_owned(),
        }
    }

    /// Sends a line if it can go at once, and closes.
    pub fn turn_away(self, line: &[u8]) {
        // The peer is not waited for: whoever is turned away must cost nothing.
        let _ = match self {
            Accepted::Tcp(stream, _) => stream.try_write(line),
            Accepted::Unix(stream) => stream.try_write(line),
        };
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Listener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Requests are short; what is sent ahead may wait where it comes from.
    socket.set_recv_buffer_size(RECEIVED)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    sys::bound_unsent(listener.as_fd(), UNSENT);
    Ok(Listener::Tcp(listener))
}

async fn bind_unix(path: &Path, access: SocketAccess) -> io::Result<Listener> {
    if path.as_os_str().is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket needs a path: unix:/path"));
    }
    // Of servers that start together one clears away and binds at a time.
    let turn = SocketTurn::take(path).await?;
    let bound = match open_unix(path, access) {
        Err(why) if why.kind() == io::ErrorKind::AddrInUse && is_stale(path).await => {
            std::fs::remove_file(path)?;
            open_unix(path, access)
        }
        bound => bound,
    };
    drop(turn);
    bound
}

/// Nobody can connect before it is open to those whom it shall be open to, and to no others.
fn open_unix(path: &Path, access: SocketAccess) -> io::Result<Listener> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let file = SocketFile::new(path, access)?;
    Ok(Listener::Unix(socket.listen(BACKLOG)?, file))
}

/// The right to clear a socket's place and bind there: a locked file of our own beside it, gone when this is.
struct SocketTurn {
    path: PathBuf,
    _file: File,
}

impl SocketTurn {
    /// Others have it for milliseconds, so one that is not to be had is told, not waited for.
    async fn take(socket: &Path) -> io::Result<SocketTurn> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let mut tries = TURN_WITHIN.as_millis() / TURN_LOOK_EVERY.as_millis();
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
                .open(&path)
                .map_err(|why| io::Error::new(why.kind(), format!("{}: {why}", path.display())))?;
            let about = file.metadata()?;
            if !about.is_file() || about.uid() != nix::unistd::geteuid().as_raw() || about.mode() & 0o077 != 0 {
                let why = format!("{} is there, and is not a file that only we can use", path.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
            match file.try_lock() {
                // Whoever had it before has removed it meanwhile.
                Ok(()) if is_same_file(&path, &about) => return Ok(SocketTurn { path, _file: file }),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    tries = tries.saturating_sub(1);
                    if tries == 0 {
                        let why = format!("another server is starting there, and keeps {} locked", path.display());
                        return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
                    }
                    tokio::time::sleep(TURN_LOOK_EVERY).await;
                }
                Err(TryLockError::Error(why)) => return Err(why),
            }
        }
    }
}

impl Drop for SocketTurn {
    fn drop(&mut self) {
        // It is only ours while it is locked. One that stays is no obstacle.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_same_file(path: &Path, about: &Metadata) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (about.dev(), about.ino()))
}

/// A socket file that nobody listens on was left behind by a server that was killed.
async fn is_stale(path: &Path) -> bool {
    if !std::fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket()) {
        return false;
    }
    let connecting = tokio::time::timeout(Duration::from_secs(1), UnixStream::connect(path)).await;
    matches!(connecting, Ok(Err(why)) if why.kind() == io::ErrorKind::ConnectionRefused)
}

/// Small answers leave at once, and a peer that is gone without a word is noticed.
pub(super) fn prepare(stream: &TcpStream) {
    // Each is a help, none a need: a socket that refuses them still works.
    let _ = stream.set_nodelay(true);
    let socket = stream.as_fd();
    let _ = setsockopt(&socket, sockopt::KeepAlive, &true);
    #[cfg(target_os = "linux")]
    let _ = setsockopt(&socket, sockopt::TcpKeepIdle, &KEEPALIVE_AFTER_S);
    #[cfg(target_os = "macos")]
    let _ = setsockopt(&socket, sockopt::TcpKeepAlive, &KEEPALIVE_AFTER_S);
    let _ = setsockopt(&socket, sockopt::TcpKeepInterval, &KEEPALIVE_EVERY_S);
    let _ = setsockopt(&socket, sockopt::TcpKeepCount, &KEEPALIVE_TRIES);
}
