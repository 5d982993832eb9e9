//! A wire between a client and a server that a test can cut, refuse or make swallow everything.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part of the house")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

/// Listens on loopback and passes on to one server.
pub struct Proxy {
    pub address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Connections are accepted and closed at once.
    refuses: AtomicBool,
    /// Nothing comes through, but nothing is closed either; later it all does, as TCP would.
    swallows: AtomicBool,
    /// How many milliseconds everything takes to come through.
    delay: AtomicU64,
    over: AtomicBool,
    server: Mutex<String>,
    /// Connections that were passed on.
    passed: AtomicUsize,
    /// What went through.
    heard: Mutex<Vec<Heard>>,
    open: Mutex<Vec<TcpStream>>,
}

/// Some bytes that came over the wire at once.
#[derive(Clone, Debug)]
pub struct Heard {
    /// When they came in.
    pub at: SystemTime,
    pub from_client: bool,
    pub text: String,
}

impl Proxy {
    pub fn to(server: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the proxy listens");
        let address = listener.local_addr().expect("an address").to_string();
        let shared = Arc::new(Shared::default());
        *shared.server.lock().expect("the server") = server.to_owned();
        let of_listener = shared.clone();
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if of_listener.over.load(Ordering::SeqCst) {
                    return;
                }
                if !of_listener.refuses.load(Ordering::SeqCst) {
                    of_listener.pass(near);
                }
            }
        });
        Proxy { address, shared }
    }

    /// Breaks every connection there is; new ones are passed on.
    pub fn cut(&self) {
        for stream in self.shared.open.lock().expect("the list").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Passes new connections on to another server.
    pub fn point_to(&self, server: &str) {
        *self.shared.server.lock().expect("the server") = server.to_owned();
    }

    pub fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::SeqCst);
    }

    pub fn swallow(&self, swallows: bool) {
        self.shared.swallows.store(swallows, Ordering::SeqCst);
    }

    /// From now on everything takes so much longer each way.
    pub fn delay(&self, by: Duration) {
        self.shared.delay.store(by.as_millis() as u64, Ordering::SeqCst);
    }

    /// All that was let through so far.
    pub fn heard(&self) -> Vec<Heard> {
        let mut heard = self.shared.heard.lock().expect("the list").clone();
        heard.sort_by_key(|heard| heard.at);
        heard
    }

    /// How many connections were passed on so far.
    pub fn passed(&self) -> usize {
        self.shared.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the listener.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn pass(self: &Arc<Shared>, near: TcpStream) {
        let server = self.server.lock().expect("the server").clone();
        let Ok(far) = TcpStream::connect(server) else { return };
        let copy = |stream: &TcpStream| stream.try_clone().expect("a second handle");
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        self.open.lock().expect("the list").extend([copy(&near), copy(&far)]);
        self.passed.fetch_add(1, Ordering::SeqCst);
        self.pump(copy(&near), copy(&far), true);
        self.pump(far, near, false);
    }

    #[expect(clippy::disallowed_methods, reason = "tests stand outside the house's clock")]
    fn pump(self: &Arc<Shared>, mut from: TcpStream, mut to: TcpStream, from_client: bool) {
        let shared = self.clone();
        thread::spawn(move || {
            let mut bytes = [0; 16 * 1024];
            loop {
                let read = from.read(&mut bytes).unwrap_or(0);
                let at = SystemTime::now();
                let delay = Duration::from_millis(shared.delay.load(Ordering::SeqCst));
                if !delay.is_zero() {
                    thread::park_timeout(delay);
                }
                while shared.swallows.load(Ordering::SeqCst) && !shared.over.load(Ordering::SeqCst) {
                    thread::park_timeout(Duration::from_millis(2));
                }
                if read == 0 || to.write_all(&bytes[..read]).is_err() {
                    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    return;
                }
                let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                shared.heard.lock().expect("the list").push(Heard { at, from_client, text });
            }
        });
    }
}
