//! Looks up names, each on a thread of its own: the system's way of doing that waits. Where no thread can be had, that is
//! an error as others are.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use tokio::sync::oneshot;

pub(super) async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (tell, told) = oneshot::channel();
    let host = host.to_owned();
    let look = move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // Whoever asked may have gone on without it.
        drop(tell.send(found));
    };
    std::thread::Builder::new().spawn(look)?;
    told.await.unwrap_or_else(|_| Err(io::Error::other("the look-up failed inside dflock")))
}
