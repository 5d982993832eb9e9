//! Pure: how keys, tokens and values look in etcd.
//!
//! Whoever wants a lock has a key of his own, `dflock/<kind>/<key>/<lease>`, with `lock` or `sem` as the kind;
//! they are in the order of their create revisions, and the first ones hold it. In `<key>` a `/` is written
//! `%2F` and a `%` as `%25`, so that nobody's range contains another lock's keys.
//!
//! With a prefix of the user's own (`--etcd-prefix P`) a lock is what `etcdctl lock P<key>` makes of it:
//! `P<key>/<lease>`, the lease in hexadecimal without zeros before it. There the key stands as it is, and one
//! with a `/` in it is refused: for etcdctl it would wait in the queue of the lock that the part before the
//! `/` names. Semaphores, which etcdctl does not know, are at `P` + `dflock-semaphores/<key>/<lease>`, so that
//! a lock of the name `dflock-semaphores` is refused too.

use serde::{Deserialize, Serialize};

use crate::lock::{Key, Space, Token};

const OWN: &str = "dflock/";
const SEMAPHORES: &str = "dflock-semaphores";

/// Where the keys of a user of etcd are.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    prefix: Option<String>,
}

/// Where everybody's keys for one lock are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    folder: Vec<u8>,
    /// As etcdctl writes them.
    unpadded: bool,
}

impl Layout {
    pub fn new(prefix: Option<String>) -> Layout {
        Layout { prefix: prefix.filter(|prefix| !prefix.is_empty()) }
    }

    /// The error says why this key cannot be used here.
    pub fn queue(&self, key: &Key, space: Space) -> Result<Queue, String> {
        let Some(prefix) = &self.prefix else {
            return Ok(Queue {
                folder: [self.kind(space), escape(key.as_bytes()), b"/".to_vec()].concat(),
                unpadded: false,
            });
        };
        match space {
            Space::Semaphores => Ok(Queue {
                folder: [self.kind(space), escape(key.as_bytes()), b"/".to_vec()].concat(),
                unpadded: false,
            }),
            Space::Locks if key.as_bytes().contains(&b'/') => Err(format!(
                "{key} cannot be used with --etcd-prefix: with a / in it, it would reach into another lock"
            )),
            Space::Locks if key.as_bytes() == SEMAPHORES.as_bytes() => {
                Err(format!("{key} cannot be used with --etcd-prefix: semaphores are kept there"))
            }
            Space::Locks => Ok(Queue { folder: [prefix.as_bytes(), key.as_bytes(), b"/"].concat(), unpadded: true }),
        }
    }

    /// What all keys of a kind begin with.
    pub fn kind(&self, space: Space) -> Vec<u8> {
        match (&self.prefix, space) {
            (None, Space::Locks) => format!("{OWN}lock/").into_bytes(),
            (None, Space::Semaphores) => format!("{OWN}sem/").into_bytes(),
            (Some(prefix), Space::Locks) => prefix.clone().into_bytes(),
            (Some(prefix), Space::Semaphores) => format!("{prefix}{SEMAPHORES}/").into_bytes(),
        }
    }

    /// What keys of a kind begin with whose locks' names begin with `start`.
    pub fn narrowed(&self, space: Space, start: &[u8]) -> Vec<u8> {
        let verbatim = self.prefix.is_some() && space == Space::Locks;
        [self.kind(space), if verbatim { start.to_vec() } else { escape(start) }].concat()
    }

    /// The lock's name in one of its keys; `None` for keys of something else.
    pub fn name_of(&self, space: Space, key: &[u8]) -> Option<Vec<u8>> {
        let rest = key.strip_prefix(self.kind(space).as_slice())?;
        let slash = rest.iter().rposition(|byte| *byte == b'/')?;
        let (name, lease) = (&rest[..slash], &rest[slash + 1..]);
        let is_lease = !lease.is_empty() && lease.len() <= 16 && lease.iter().all(u8::is_ascii_hexdigit);
        let verbatim = self.prefix.is_some() && space == Space::Locks;
        match (is_lease, verbatim) {
            (false, _) => None,
            // Some other program's, or a semaphore's.
            (true, true) if name.contains(&b'/') || name.is_empty() => None,
            (true, true) => Some(name.to_vec()),
            (true, false) => unescape(name),
        }
    }
}

impl Queue {
    /// What all keys in it begin with.
    pub fn folder(&self) -> &[u8] {
        &self.folder
    }

    /// The key of one who came with this lease.
    pub fn key(&self, lease: i64) -> Vec<u8> {
        let name = if self.unpadded { format!("{lease:x}") } else { format!("{lease:016x}") };
        [self.folder.as_slice(), name.as_bytes()].concat()
    }
}

/// The first key that does not begin with `start`; `\0` where there is no such key, as etcd has it.
pub fn end_of(start: &[u8]) -> Vec<u8> {
    let mut end = start.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn escape(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'/' => escaped.extend(b"%2F"),
            b'%' => escaped.extend(b"%25"),
            other => escaped.push(*other),
        }
    }
    escaped
}

fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        match first {
            b'/' => return None,
            b'%' => {
                plain.push(match rest.get(..2)? {
                    b"2F" => b'/',
                    b"25" => b'%',
                    _ => return None,
                });
                rest = &rest[2..];
            }
            other => plain.push(*other),
        }
    }
    Some(plain)
}

/// What a token says: enough to find the key from anywhere, and to see whether it is still the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    pub created: i64,
    pub lease: i64,
}

impl Proof {
    /// The create revision first: it is the fence, and stands where other servers' tokens have theirs.
    pub fn token(self) -> Result<Token, String> {
        Token::new(&format!("{:016x}{:016x}", self.created, self.lease))
    }

    pub fn of(token: &Token) -> Option<Proof> {
        let text = token.as_str();
        let number = |part: Option<&str>| {
            let part = part.filter(|part| part.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
            i64::from_str_radix(part, 16).ok().filter(|number| *number > 0)
        };
        let proof = Proof { created: number(text.get(..16))?, lease: number(text.get(16..))? };
        (text.len() == 32).then_some(proof)
    }
}

/// The value of a key: who came, for which limit, and whether he was told that he holds it. Other programs
/// write what they like; of theirs nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    pub limit: Option<u64>,
    pub host: Option<String>,
    pub pid: Option<u32>,
    pub holds: bool,
}

impl About {
    pub fn read(value: &[u8]) -> About {
        if value.starts_with(b"{") { serde_json::from_slice(value).unwrap_or_default() } else { About::default() }
    }

    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &[u8]) -> Key {
        Key::new(name).unwrap()
    }

    #[test]
    fn a_key_for_each_who_wants_the_lock() {
        let layout = Layout::default();
        let queue = layout.queue(&key(b"jobs/a%b"), Space::Locks).unwrap();
        assert_eq!(queue.folder(), b"dflock/lock/jobs%2Fa%25b/");
        assert_eq!(queue.key(0x1f), b"dflock/lock/jobs%2Fa%25b/000000000000001f");
        let queue = layout.queue(&key(b"a"), Space::Semaphores).unwrap();
        assert_eq!(queue.key(1), b"dflock/sem/a/0000000000000001");
        let layout = Layout::new(Some("my/locks/".to_owned()));
        assert_eq!(layout.queue(&key(b"a%"), Space::Locks).unwrap().key(0x694d), b"my/locks/a%/694d");
        let queue = layout.queue(&key(b"a"), Space::Semaphores).unwrap();
        assert_eq!(queue.folder(), b"my/locks/dflock-semaphores/a/");
    }

    #[test]
    fn no_range_contains_the_keys_of_another_lock() {
        let names: [&[u8]; 9] = [b"a", b"a/b", b"a%2Fb", b"a/", b"/a", b"%", b"lock", b"\xff", b"a/b/c"];
        for layout in [Layout::default(), Layout::new(Some("p/".to_owned())), Layout::new(Some("p".to_owned()))] {
            let mut all = Vec::new();
            for name in names {
                for space in [Space::Locks, Space::Semaphores] {
                    all.extend(layout.queue(&key(name), space).map(|queue| (name, space, queue)));
                }
            }
            for (name, space, queue) in &all {
                let inside = all.iter().filter(|(_, _, other)| {
                    let key = other.key(7);
                    key.as_slice() >= queue.folder() && key < end_of(queue.folder())
                });
                assert_eq!(inside.count(), 1, "{layout:?} {:?}", String::from_utf8_lossy(name));
                assert_eq!(layout.name_of(*space, &queue.key(7)).as_deref(), Some(*name));
            }
        }
    }

    #[test]
    fn with_a_prefix_what_would_reach_into_another_lock_is_refused() {
        let layout = Layout::new(Some("p/".to_owned()));
        assert!(layout.queue(&key(b"a/b"), Space::Locks).unwrap_err().contains("would reach into another lock"));
        assert!(layout.queue(&key(b"dflock-semaphores"), Space::Locks).is_err());
        assert!(layout.queue(&key(b"a/b"), Space::Semaphores).is_ok());
    }

    #[test]
    fn keys_of_something_else_have_no_name() {
        let layout = Layout::new(Some("p/".to_owned()));
        for other in ["p/a", "p/a/b/1", "p/a/xyz", "p//1", "q/a/1", "p/a/", "p/dflock-semaphores/a/1"] {
            assert_eq!(layout.name_of(Space::Locks, other.as_bytes()), None, "{other}");
        }
        let layout = Layout::default();
        for other in ["dflock/lock/a%2/1", "dflock/lock/a/b/1", "dflock/sem/a/1"] {
            assert_eq!(layout.name_of(Space::Locks, other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn ends_of_ranges() {
        assert_eq!(end_of(b"a/"), b"a0");
        assert_eq!(end_of(b"a\xff"), b"b");
        assert_eq!(end_of(b"\xff"), b"\0");
        assert_eq!(end_of(b""), b"\0");
    }

    #[test]
    fn a_token_is_read_back() {
        let proof = Proof { created: 42, lease: 0x694d_7a1b_0000_0001 };
        assert_eq!(Proof::of(&proof.token().unwrap()), Some(proof));
        for text in ["x", "0", &"0".repeat(32), &"g".repeat(32), &"f".repeat(32), &"1".repeat(33), &"+".repeat(32)] {
            assert_eq!(Proof::of(&Token::new(text).unwrap()), None, "{text}");
        }
    }

    #[test]
    fn values_of_others_are_tolerated() {
        for value in [&b""[..], b"x", b"[1]", b"\xff", b"7"] {
            assert_eq!(About::read(value), About::default());
        }
        let about = About { limit: Some(3), host: Some("h".to_owned()), pid: Some(1), holds: true };
        assert_eq!(About::read(&about.write()), about);
    }
}
