//! Numbers of the wire: decimal, with an optional sign and leading zeros, as Go's `Atoi` reads them.

use super::MAX_SECONDS;

/// A whole number that is not negative and fits 63 bits.
pub fn count(text: &str) -> Option<u64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    if value > i64::MAX as u64 || (negative && value != 0) {
        return None;
    }
    Some(value)
}

/// A number of seconds, zero allowed.
pub fn seconds(text: &str) -> Option<u64> {
    count(text).filter(|seconds| *seconds <= MAX_SECONDS)
}

/// A number of seconds above zero.
pub fn lease(text: &str) -> Option<u64> {
    seconds(text).filter(|seconds| *seconds > 0)
}

/// How many may hold a semaphore.
pub fn limit(text: &str) -> Option<u64> {
    count(text).filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_atoi_reads() {
        for (text, value) in [("5", 5), ("+5", 5), ("-0", 0), ("007", 7), ("9223372036854775807", i64::MAX as u64)] {
            assert_eq!(count(text), Some(value), "{text}");
        }
        for text in ["", "+", "-", "-1", "1.5", "1s", "0x5", "1_0", "1e3", "abc", "9223372036854775808", " 1", "٣"] {
            assert_eq!(count(text), None, "{text}");
        }
    }

    #[test]
    fn bounds_seconds_leases_and_limits() {
        assert_eq!(seconds("9223372036"), Some(MAX_SECONDS));
        assert_eq!(seconds("9223372037"), None);
        assert_eq!(lease("0"), None);
        assert_eq!(limit("0"), None);
        assert_eq!(limit("9223372036854775807"), Some(i64::MAX as u64));
    }
}
