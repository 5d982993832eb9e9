//! Durations as people write them: `30` (seconds), `1.5s`, `250ms`, `5m`, `5min`, `1h30m`, `2d`, `1w`.

use std::time::Duration;

/// The units, the longest first, in every spelling.
const UNITS: [(&[&str], u64); 6] = [
    (&["w", "week", "weeks"], 7 * 24 * 3600 * SECOND),
    (&["d", "day", "days"], 24 * 3600 * SECOND),
    (&["h", "hr", "hrs", "hour", "hours"], 3600 * SECOND),
    (&["m", "min", "mins", "minute", "minutes"], 60 * SECOND),
    (&["s", "sec", "secs", "second", "seconds"], SECOND),
    (&["ms", "msec", "millis"], SECOND / 1000),
];

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// The most there may be: a bit under 300 years, as on the wire.
const MAX: u64 = crate::wire::MAX_SECONDS * SECOND;

/// Reads a duration; the error says what one looks like, behind what was written.
pub fn parse(text: &str) -> Result<Duration, String> {
    let nanos = read(text).ok_or_else(|| {
        let is_negative = text.strip_prefix('-').and_then(read).is_some();
        let why = if is_negative { "a duration cannot be negative" } else { "not a duration" };
        format!("{why}; write 30 (seconds), 250ms, 1.5s, 5m, 1h30m, 2d or 1w")
    })?;
    if nanos > MAX { Err("longer than 292 years".to_owned()) } else { Ok(Duration::from_nanos(nanos)) }
}

/// Reads a duration, or `forever`: then `None`.
pub fn parse_or_forever(text: &str) -> Result<Option<Duration>, String> {
    if text == "forever" { Ok(None) } else { parse(text).map(Some).map_err(|why| format!("{why}, or forever")) }
}

/// Reads a duration of whole seconds, at least one.
pub fn parse_whole_seconds(text: &str) -> Result<u64, String> {
    let duration = parse(text)?;
    if duration.subsec_nanos() > 0 || duration.is_zero() {
        return Err("it must be a whole number of seconds, at least 1".to_owned());
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

/// What a server or a holder says of a time; less than nothing is nothing.
pub fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number.max(0.0)).unwrap_or(Duration::MAX)
}

/// A duration as people say it: `4.2s`, `1m30s`, `2h5m`, `3d4h`.
pub fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [(seconds / 86400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(parts.len());
    match parts.get(first..) {
        Some([(count, unit), (next, smaller), ..]) if *next > 0 => format!("{count}{unit}{next}{smaller}"),
        Some([(count, unit), _, ..]) => format!("{count}{unit}"),
        // Less than a minute.
        _ if time.subsec_nanos() == 0 => format!("{seconds}s"),
        _ => format!("{:.1}s", time.as_secs_f64()),
    }
}

/// Nanoseconds, of which there may be more than [`MAX`]. Each unit once, in the order of their lengths.
fn read(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut nanos: u64 = 0;
    loop {
        let number_end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(number_end);
        let unit_end = behind.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_end);
        // Only a number that stands alone is of seconds: 1m30 would be anybody's guess.
        let unit = if unit.is_empty() && number.len() == text.len() { "s" } else { unit };
        let (_, per_unit) = units.find(|(names, _)| names.contains(&unit))?;
        nanos = nanos.saturating_add(read_number(number, *per_unit)?);
        if behind.is_empty() {
            return Some(nanos);
        }
        rest = behind;
    }
}

fn read_number(number: &str, nanos_per_unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    // So many digits are more than the longest duration, whatever they are.
    let whole = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(u64::MAX) };
    let mut nanos: u64 = whole.saturating_mul(nanos_per_unit);
    let mut place = nanos_per_unit;
    for digit in fraction.bytes() {
        place /= 10;
        nanos = nanos.saturating_add(place * u64::from(digit - b'0'));
    }
    Some(nanos)
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
            ("5min", 300_000),
            ("90sec", 90_000),
            ("1week", 604_800_000),
            ("1w", 604_800_000),
            ("1h30m", 5_400_000),
            ("1d12h", 129_600_000),
            ("1m30.5s", 90_500),
            ("2h5ms", 7_200_005),
        ];
        for (text, millis) in cases {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn says_what_people_say() {
        let cases = [
            (0.0, "0s"),
            (7.0, "7s"),
            (4.25, "4.2s"),
            (59.9, "59.9s"),
            (60.0, "1m"),
            (90.9, "1m30s"),
            (5399.0, "1h29m"),
            (7200.0, "2h"),
            (273_600.0, "3d4h"),
        ];
        for (seconds, words) in cases {
            assert_eq!(in_words(Duration::from_secs_f64(seconds)), words);
        }
    }

    #[test]
    fn refuses_the_rest_with_the_right_words() {
        let words = "s ms m5 1x 1.2.3 1e3 1m30 30m1h 1h1h 1s500 1.5.s 5M 1_000 0x10 infinite forever 1,5 \u{663}";
        for text in words.split(' ').chain(["", ".", "1 s", " 1", "1h 30m", "--json"]) {
            let why = parse(text).unwrap_err();
            assert!(why.starts_with("not a duration; write 30 (seconds)"), "{text}: {why}");
        }
        for text in ["-1", "-0.5s", "-1h30m"] {
            assert!(parse(text).unwrap_err().starts_with("a duration cannot be negative; write"), "{text}");
        }
        for text in ["99999999999", "18446744073709551616", "99999999999999999999999s", "16000w", "9223372036.9d"] {
            assert_eq!(parse(text).unwrap_err(), "longer than 292 years", "{text}");
        }
        assert_eq!(parse_or_forever("forever"), Ok(None));
        assert!(parse_or_forever("ever").unwrap_err().ends_with("or forever"));
        assert!(parse_whole_seconds("1.5").is_err());
        assert!(parse_whole_seconds("0").is_err());
        assert_eq!(parse_whole_seconds("2m"), Ok(120));
    }
}
