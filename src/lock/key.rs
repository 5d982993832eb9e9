//! What names a lock.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

/// Bytes of the longest key.
const MAX_KEY: usize = 256;

/// Not empty, at most 256 bytes, no white space and no NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>")]
pub struct Key(Vec<u8>);

impl Key {
    /// The error says what is wrong with it.
    pub fn new(bytes: &[u8]) -> Result<Key, String> {
        if bytes.is_empty() {
            return Err("a key must not be empty".to_owned());
        }
        if bytes.len() > MAX_KEY {
            return Err(format!("a key has at most {MAX_KEY} bytes, this one has {}", bytes.len()));
        }
        if bytes.contains(&0) {
            return Err("a key must not contain NUL".to_owned());
        }
        if bytes.iter().any(u8::is_ascii_whitespace) || String::from_utf8_lossy(bytes).contains(char::is_whitespace) {
            return Err("a key must not contain white space".to_owned());
        }
        Ok(Key(bytes.to_vec()))
    }

    pub fn from_argument(argument: &OsStr) -> Result<Key, String> {
        Key::new(argument.as_bytes())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for Key {
    type Error = String;

    fn try_from(bytes: Vec<u8>) -> Result<Key, String> {
        Key::new(&bytes)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_keys_and_refuses_what_is_none() {
        for key in ["k", "a/b:c", "é", "\u{1b}[0m", &"k".repeat(256)] {
            assert!(Key::new(key.as_bytes()).is_ok(), "{key:?}");
        }
        assert!(Key::new(b"\xff").is_ok());
        assert_eq!(serde_json::from_str::<Key>("[255]").unwrap(), Key::new(b"\xff").unwrap());
        for key in ["", "a b", "a\tb", "a\nb", "a\u{a0}b", "a\0b", &"k".repeat(257)] {
            assert!(Key::new(key.as_bytes()).is_err(), "{key:?}");
            // Nor by way of a message between two processes.
            let json = serde_json::to_string(key.as_bytes()).unwrap();
            assert!(serde_json::from_str::<Key>(&json).is_err(), "{json}");
        }
    }
}
