//! A lock server with the manners of the original, dflockd 1.10: see facts/dflockd.md.
//!
//! It knows no `info`, `ping` or `resume`; it cuts a connection that is idle, and a connection that is gone
//! loses its locks at once; a renewal without a lease resets it to the default.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part of the house")]

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::now;

const DEFAULT_LEASE: u64 = 33;

pub struct Original {
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    table: Mutex<Table>,
    changed: Condvar,
    idle_cut: Duration,
}

#[derive(Default)]
struct Table {
    keys: HashMap<String, Entry>,
    /// Places of `e`: by connection and key, the place in the queue.
    enqueued: HashMap<(u64, String), u64>,
    connections: u64,
    last: u64,
    /// Every line that came, for tests to look at.
    heard: Vec<String>,
}

#[derive(Default)]
struct Entry {
    limit: usize,
    holders: Vec<Holder>,
    queue: VecDeque<Waiter>,
}

struct Holder {
    conn: u64,
    place: u64,
    token: String,
    lease: u64,
    ends: Instant,
}

struct Waiter {
    conn: u64,
    place: u64,
    lease: u64,
}

impl Original {
    /// Cuts connections that are silent for `idle_cut`.
    pub fn start(idle_cut: Duration) -> Original {
        let listener = TcpListener::bind("127.0.0.1:0").expect("it listens");
        let address = listener.local_addr().expect("an address").to_string();
        let shared = Arc::new(Shared { table: Mutex::default(), changed: Condvar::new(), idle_cut });
        let of_listener = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = of_listener.clone();
                thread::spawn(move || shared.serve(&stream));
            }
        });
        Original { address, shared }
    }

    /// The commands that came so far, one string each: `l k 10 30`.
    pub fn heard(&self) -> Vec<String> {
        self.shared.table().heard.clone()
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("the table")
    }

    fn serve(&self, stream: &TcpStream) {
        let mut table = self.table();
        table.last += 1;
        table.connections += 1;
        let conn = table.last;
        drop(table);
        let (mut reader, mut writer) = (BufReader::new(stream), stream);
        let _ = stream.set_read_timeout(Some(self.idle_cut));
        loop {
            let mut lines: [String; 3] = Default::default();
            let read = lines.iter_mut().try_for_each(|line| match reader.read_line(line) {
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => Ok(()),
                Err(why) => Err(why),
            });
            if let Err(why) = read {
                if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                    let _ = writer.write_all(b"error\n");
                }
                break;
            }
            let [command, key, argument] = lines.map(|line| line.trim_end_matches(['\r', '\n']).to_owned());
            self.table().heard.push(format!("{command} {key} {argument}"));
            let answer = self.answer(conn, &command, &key, &argument);
            let answer = answer.unwrap_or_else(|| "error".to_owned());
            if writer.write_all(format!("{answer}\n").as_bytes()).is_err() {
                break;
            }
        }
        let mut table = self.table();
        table.connections -= 1;
        table.enqueued.retain(|(of, _), _| *of != conn);
        for entry in table.keys.values_mut() {
            entry.holders.retain(|holder| holder.conn != conn);
            entry.queue.retain(|waiter| waiter.conn != conn);
        }
        table.settle();
        self.changed.notify_all();
    }

    /// `None` is the `error` that gives no reason.
    fn answer(&self, conn: u64, command: &str, key: &str, argument: &str) -> Option<String> {
        let numbers: Option<Vec<u64>> = argument.split_whitespace().map(|word| word.parse().ok()).collect();
        let is_sem = command.starts_with('s');
        match command {
            "stats" => Some(self.table().stats()),
            _ if key.is_empty() || key.contains([' ', '\t']) => None,
            "l" | "sl" | "e" | "se" => {
                let mut numbers = numbers?.into_iter();
                let blocks = command.ends_with('l');
                let patience = if blocks { numbers.next()? } else { 0 };
                let limit = if is_sem { usize::try_from(numbers.next()?).ok()? } else { 1 };
                let lease = numbers.next().unwrap_or(DEFAULT_LEASE);
                let place = match self.table().join(conn, key, limit, lease, !blocks) {
                    Ok(place) => place,
                    Err(refusal) => return Some(refusal.to_owned()),
                };
                match (blocks, self.wait(key, place, Duration::from_secs(patience), blocks)) {
                    (true, Some((token, lease))) => Some(format!("ok {token} {lease}")),
                    (true, None) => Some("timeout".to_owned()),
                    (false, Some((token, lease))) => Some(format!("acquired {token} {lease}")),
                    (false, None) => Some("queued".to_owned()),
                }
            }
            "w" | "sw" => {
                let patience = Duration::from_secs(*numbers?.first()?);
                let Some(place) = self.table().enqueued.remove(&(conn, key.to_owned())) else {
                    return Some("error_not_enqueued".to_owned());
                };
                let granted = self.wait(key, place, patience, true);
                Some(granted.map_or("timeout".to_owned(), |(token, lease)| format!("ok {token} {lease}")))
            }
            "r" | "sr" => {
                let mut table = self.table();
                table.settle();
                let holders = &mut table.keys.get_mut(key)?.holders;
                let at = holders.iter().position(|holder| holder.token == argument)?;
                holders.remove(at);
                table.settle();
                self.changed.notify_all();
                Some("ok".to_owned())
            }
            "n" | "sn" => {
                let mut words = argument.split_whitespace();
                let (token, lease) = (words.next()?, words.next());
                let lease = lease.map_or(Some(DEFAULT_LEASE), |lease| lease.parse().ok())?;
                let mut table = self.table();
                table.settle();
                let holder = table.keys.get_mut(key)?.holders.iter_mut().find(|holder| holder.token == token)?;
                holder.ends = now() + Duration::from_secs(lease);
                Some(format!("ok {lease}"))
            }
            // `auth` without a secret, and everything that it does not know.
            _ => None,
        }
    }

    /// Waits for the grant of a place; gives the place up if it does not come and `leaves`.
    fn wait(&self, key: &str, place: u64, patience: Duration, leaves: bool) -> Option<(String, u64)> {
        let until = now() + patience.min(Duration::from_secs(1_000_000));
        let mut table = self.table();
        loop {
            table.settle();
            self.changed.notify_all();
            let entry = table.keys.get_mut(key)?;
            if let Some(holder) = entry.holders.iter().find(|holder| holder.place == place) {
                return Some((holder.token.clone(), holder.lease));
            }
            let left = until.saturating_duration_since(now());
            if left.is_zero() || !entry.queue.iter().any(|waiter| waiter.place == place) {
                if leaves {
                    entry.queue.retain(|waiter| waiter.place != place);
                }
                return None;
            }
            // Leases end without a word: they are looked at now and then.
            table = self.changed.wait_timeout(table, left.min(Duration::from_millis(50))).expect("the table").0;
        }
    }
}

impl Table {
    fn join(&mut self, conn: u64, key: &str, limit: usize, lease: u64, keeps: bool) -> Result<u64, &'static str> {
        self.settle();
        if keeps && self.enqueued.contains_key(&(conn, key.to_owned())) {
            return Err("error_already_enqueued");
        }
        let entry = self.keys.entry(key.to_owned()).or_insert_with(|| Entry { limit, ..Entry::default() });
        if entry.limit != limit {
            return Err("error_limit_mismatch");
        }
        self.last += 1;
        let place = self.last;
        entry.queue.push_back(Waiter { conn, place, lease });
        if keeps {
            self.enqueued.insert((conn, key.to_owned()), place);
        }
        Ok(place)
    }

    /// Ends leases and grants what is free, first come, first served.
    fn settle(&mut self) {
        for entry in self.keys.values_mut() {
            entry.holders.retain(|holder| holder.ends > now());
            while entry.holders.len() < entry.limit
                && let Some(Waiter { conn, place, lease }) = entry.queue.pop_front()
            {
                let random = || getrandom::u64().expect("randomness");
                let token = format!("{:016x}{:016x}", random(), random());
                let ends = now() + Duration::from_secs(lease);
                entry.holders.push(Holder { conn, place, token, lease, ends });
            }
        }
    }

    fn stats(&mut self) -> String {
        self.settle();
        let (mut locks, mut semaphores) = (String::new(), String::new());
        for (key, entry) in &self.keys {
            let (held, waiters) = (entry.holders.len(), entry.queue.len());
            if held + waiters > 0 && entry.limit == 1 {
                let (conn, left) =
                    entry.holders.first().map_or((0, 0.0), |holder| (holder.conn, (holder.ends - now()).as_secs_f64()));
                let comma = if locks.is_empty() { "" } else { "," };
                let _ = write!(
                    locks,
                    r#"{comma}{{"key":"{key}","owner_conn_id":{conn},"lease_expires_in_s":{left},"waiters":{waiters}}}"#
                );
            } else if held + waiters > 0 {
                let (comma, limit) = (if semaphores.is_empty() { "" } else { "," }, entry.limit);
                let _ = write!(
                    semaphores,
                    r#"{comma}{{"key":"{key}","limit":{limit},"holders":{held},"waiters":{waiters}}}"#
                );
            }
        }
        let connections = self.connections;
        format!(
            r#"ok {{"connections":{connections},"locks":[{locks}],"semaphores":[{semaphores}],"idle_locks":[],"idle_semaphores":[]}}"#
        )
    }
}
