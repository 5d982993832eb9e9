//! Servers that misbehave as they are told.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::house::lasting_listener;
use crate::lines::{Lines, bound};

/// Proves nothing, but looks like a token.
pub const TOKEN: &str = "00112233445566778899aabbccddeeff";

/// A server that does what a test tells it, on a thread of its own for each connection.
pub struct Fake {
    pub address: String,
    pub connections: Arc<AtomicUsize>,
    /// Every request that a [`Peer`] read, its lines joined by spaces.
    pub heard: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
}

/// One connection to a fake server.
pub struct Peer {
    pub lines: Lines<TcpStream>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    pub fn start(script: impl Fn(Peer) + Send + Sync + 'static) -> Fake {
        Fake::on(TcpListener::bind("127.0.0.1:0").expect("a port"), script)
    }

    pub fn on(listener: TcpListener, script: impl Fn(Peer) + Send + Sync + 'static) -> Fake {
        let address = listener.local_addr().expect("an address").to_string();
        let fake = Fake { address, connections: Arc::default(), heard: Arc::default(), is_over: Arc::default() };
        let (connections, heard, is_over) = (fake.connections.clone(), fake.heard.clone(), fake.is_over.clone());
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::Acquire) {
                    return;
                }
                connections.fetch_add(1, Ordering::AcqRel);
                bound(&stream);
                let (script, heard) = (script.clone(), heard.clone());
                std::thread::spawn(move || script(Peer { lines: Lines::new(stream), heard }));
            }
        });
        fake
    }

    /// Greets as the original does, and gives one answer to everything else.
    pub fn answering(answer: &'static str) -> Fake {
        Fake::start(move |mut peer| {
            while peer.command().is_some() {
                peer.say(answer);
            }
        })
    }

    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("the list").clone()
    }

    pub fn count(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // Wakes it up.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Peer {
    /// A request of three lines; `None` at the end of the connection.
    pub fn request(&mut self) -> Option<[String; 3]> {
        let request = [self.lines.try_line()?, self.lines.try_line()?, self.lines.try_line()?];
        self.heard.lock().expect("the list").push(request.join(" "));
        Some(request)
    }

    /// The next request that is no greeting; those are answered as by the original without a secret.
    pub fn command(&mut self) -> Option<[String; 3]> {
        loop {
            let request = self.request()?;
            match request[0].as_str() {
                "auth" | "stable-ref" => self.say("ok\n"),
                "info" => self.say("error\n"),
                _ => return Some(request),
            }
        }
    }

    /// The client may be gone.
    pub fn say(&mut self, text: &str) {
        let _ = self.lines.stream().write_all(text.as_bytes());
    }

    /// Says nothing more until the client goes.
    pub fn stay(mut self) {
        let _ = std::io::copy(self.lines.stream(), &mut std::io::sink());
    }
}

/// A port where nobody listens.
pub fn closed_port() -> String {
    lasting_listener().local_addr().expect("an address").to_string()
}
