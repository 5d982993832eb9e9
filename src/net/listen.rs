//! Where a server listens: TCP addresses and Unix sockets behind one type.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::names::look_up;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 4096;

/// When a silent peer is first asked whether it is still there, how often then, and how many times.
const KEEPALIVE_AFTER_S: u32 = 20;
const KEEPALIVE_EVERY_S: u32 = 5;
const KEEPALIVE_TRIES: u32 = 4;

pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A socket file of our own.
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// A connection that was made, and from where.
pub enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    /// Listens on every address that `host` stands for; `unix:/path` is a socket file.
    pub async fn bind(host: &str, port: u16) -> io::Result<Vec<Listener>> {
        if let Some(path) = host.strip_prefix("unix:") {
            return Ok(vec![bind_unix(Path::new(path)).await?]);
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
            Listener::Unix(_, file) => write!(out, "unix:{}", file.path.display()),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nobody can connect to it any more; the next server would only find it stale. But it may have been
        // replaced by another server's.
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|about| about.dev() == self.device && about.ino() == self.inode);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Accepted {
    /// The address that connections are counted by; none for a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Accepted::Tcp(_, peer) => Some(peer.ip().to_canonical()),
            Accepted::Unix(_) => None,
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
    socket.bind(address)?;
    socket.listen(BACKLOG).map(Listener::Tcp)
}

async fn bind_unix(path: &Path) -> io::Result<Listener> {
    if path.as_os_str().is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket needs a path: unix:/path"));
    }
    // Of servers that start together one clears away and binds at a time.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(folder)?;
    folder.lock()?;
    let bound = match UnixListener::bind(path) {
        Err(why) if why.kind() == io::ErrorKind::AddrInUse && is_stale(path).await => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    };
    let listener = bound?;
    let about = std::fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), device: about.dev(), inode: about.ino() };
    Ok(Listener::Unix(listener, file))
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
