//! Durations as people write them: `30` (seconds), `1.5s`, `250ms`, `5m`, `1h`, `2d`.

use std::time::Duration;

const UNITS: [(&str, u64); 5] = [
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// The most there may be: a bit under 300 years, as on the wire.
const MAX: u64 = crate::wire::MAX_SECONDS * 1_000_000_000;

/// Reads a duration; the error says what one looks like.
pub fn parse(text: &str) -> Result<Duration, String> {
    read(text)
        .ok_or_else(|| format!("{text:?} is no duration: write seconds (30, 1.5) or a number with ms, s, m, h or d"))
}

/// Reads a duration, or `forever`: then `None`.
pub fn parse_or_forever(text: &str) -> Result<Option<Duration>, String> {
    if text == "forever" { Ok(None) } else { parse(text).map(Some) }
}

/// Reads a duration of whole seconds, at least one.
pub fn parse_whole_seconds(text: &str) -> Result<u64, String> {
    let duration = parse(text)?;
    if duration.subsec_nanos() > 0 || duration.is_zero() {
        return Err(format!("{text:?} must be a whole number of seconds, at least 1"));
    }
    Ok(duration.as_secs())
}

/// Reads a lease: a shorter one would be over before anybody could use it.
pub fn parse_lease(text: &str) -> Result<Duration, String> {
    let lease = parse(text)?;
    if lease < Duration::from_secs(1) { Err("a lease must be at least 1s".to_owned()) } else { Ok(lease) }
}

/// Reads a duration that is not zero.
pub fn parse_above_zero(text: &str) -> Result<Duration, String> {
    let duration = parse(text)?;
    if duration.is_zero() { Err("it must be more than 0".to_owned()) } else { Ok(duration) }
}

fn read(text: &str) -> Option<Duration> {
    let number_end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let unit = if unit.is_empty() { "s" } else { unit };
    let nanos_per_unit = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(nanos_per_unit)?;
    let mut place = nanos_per_unit;
    for digit in fraction.chars() {
        place /= 10;
        nanos = nanos.checked_add(place.checked_mul(u64::from(digit.to_digit(10)?))?)?;
    }
    (nanos <= MAX).then(|| Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        let cases = [
            ("0", 0),
            ("30", 30_000),
            ("1.5s", 1_500),
            (".5", 500),
            ("250ms", 250),
            ("90s", 90_000),
            ("5m", 300_000),
            ("1.5m", 90_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
        ];
        for (text, millis) in cases {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", ".", "s", "-1", "+1", "1 s", "1x", "1.2.3", "1e3", "99999999999", "18446744073709551616", "٣"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse_whole_seconds("1.5").is_err());
        assert!(parse_whole_seconds("0").is_err());
        assert_eq!(parse_whole_seconds("2m"), Ok(120));
    }
}
