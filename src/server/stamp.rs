//! A token or a ticket in the server's hands: a number that grows, and 64 random bits.

use std::fmt;

use subtle::ConstantTimeEq;

/// 16 hex digits of `number` and 16 of `salt` on the wire.
#[derive(Clone, Copy)]
pub struct Stamp {
    /// Of a token: its fence. Of a ticket: its place in the queue.
    pub number: u64,
    pub salt: u64,
}

impl Stamp {
    /// What clients see.
    pub fn hex(self) -> Hex {
        let mut digits = [0; 32];
        for (at, digit) in digits.iter_mut().enumerate() {
            let word = if at < 16 { self.number } else { self.salt };
            let nibble = (word >> (60 - 4 * (at % 16))) & 0xf;
            *digit = b"0123456789abcdef"[nibble as usize];
        }
        Hex(digits)
    }

    /// Reads exactly what [`Stamp::hex`] writes.
    pub fn parse(text: &[u8]) -> Option<Stamp> {
        let text: &[u8; 32] = text.try_into().ok()?;
        let mut words = [0u64; 2];
        for (at, digit) in text.iter().enumerate() {
            let nibble = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            words[at / 16] = words[at / 16] << 4 | u64::from(nibble);
        }
        Some(Stamp { number: words[0], salt: words[1] })
    }

    /// Compares in constant time.
    pub fn is(self, other: Stamp) -> bool {
        (self.number.ct_eq(&other.number) & self.salt.ct_eq(&other.salt)).into()
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Stamp({}, redacted)", self.number)
    }
}

/// The 32 digits of a stamp.
pub struct Hex([u8; 32]);

impl Hex {
    pub fn as_str(&self) -> &str {
        // Hex digits are always UTF-8.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let stamp = Stamp { number: 0x0123_4567_89ab_cdef, salt: u64::MAX - 1 };
        assert_eq!(stamp.hex().as_str(), "0123456789abcdeffffffffffffffffe");
        assert!(Stamp::parse(stamp.hex().as_str().as_bytes()).unwrap().is(stamp));
    }

    #[test]
    fn reads_nothing_else() {
        for text in ["", "0123", "0123456789ABCDEF0123456789abcdef", "g123456789abcdef0123456789abcdef"] {
            assert!(Stamp::parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", Stamp { number: 1, salt: 0xdead_beef });
        assert!(!shown.contains("dead") && !shown.contains(&0xdead_beef_u64.to_string()), "{shown}");
    }
}
