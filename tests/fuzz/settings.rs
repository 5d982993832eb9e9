//! What people write: addresses, lists of servers, durations, and files of settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dflock::net::Address;
use dflock::settings::servers::Servers;
use dflock::settings::{Environment, Settings, duration, file};
use dflock::wire::MAX_SECONDS;

use crate::choices::Choices;
use crate::harness::{Target, fuzz, modest};
use crate::mutate;
use crate::random::Random;

const ADDRESSES: [&str; 22] = [
    "a",
    "lock1.example",
    "127.0.0.1",
    "::1",
    "[::1]",
    "[",
    "]",
    ":",
    ":6388",
    ":0",
    ":65535",
    ":65536",
    ",",
    "unix:",
    "unix://",
    "/",
    "/run/x.sock",
    "dflockd://",
    "etcd://",
    "tls://",
    "%",
    "fe80::1%eth0",
];

#[test]
fn addresses() {
    fuzz(&Target { name: "address", inputs: 20_000, make: make_address, check: check_address, memory: modest });
}

fn make_address(random: &mut Random) -> Vec<u8> {
    let mut list = String::new();
    for at in 0..=random.below(3) {
        list.push_str(if at == 0 { "" } else { mutate::one_of(random, &[",", ",", ", ", ",,"]) });
        list.push_str(mutate::one_of(random, &["", "", "", "unix:", "unix://", "dflockd://", "etcd://", "tls://"]));
        list.push_str(mutate::one_of(random, &["a", "[::1]", "::1", "10.0.0.1", "/x", "//x", ""]));
        list.push_str(&mutate::text(random, 4, &ADDRESSES));
    }
    list.into_bytes()
}

fn check_address(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(address) = Address::parse(text, 6388) {
        check_one(&address);
        // Whatever else it is, it is not a place for commands of a terminal, or for another address.
        let bare = !text.contains("unix:");
        assert!(!bare || !text.chars().any(|letter| letter.is_control() || " ,/".contains(letter)), "{address:?}");
    }
    if let Ok(servers) = Servers::parse(text) {
        assert!(!servers.shards.is_empty());
        for members in &servers.shards {
            assert!(!members.is_empty());
            members.iter().for_each(check_one);
        }
        let members: usize = servers.shards.iter().map(Vec::len).sum();
        assert_eq!(members, text.split(',').count(), "every address is somewhere");
    }
}

/// Shown, it is read back.
fn check_one(address: &Address) {
    let shown = address.to_string();
    assert_eq!(Address::parse(&shown, 1).as_ref(), Ok(address), "shown as {shown}");
    match address {
        Address::Tcp { host, port } => assert!(*port > 0 && !host.is_empty()),
        Address::Unix(path) => assert!(path.is_absolute() && address.is_local()),
    }
}

const DURATIONS: [&str; 24] = [
    "ms",
    "s",
    "m",
    "h",
    "d",
    "w",
    ".",
    "1",
    "0",
    "30",
    "1.5",
    "250ms",
    "forever",
    "+",
    "-",
    "e3",
    " ",
    "9223372036",
    "1h30m",
    "90sec",
    "week",
    "hours",
    "M",
    "1d",
];

#[test]
fn durations() {
    fuzz(&Target { name: "duration", inputs: 20_000, make, check, memory: modest });

    fn make(random: &mut Random) -> Vec<u8> {
        mutate::text(random, 5, &DURATIONS).into_bytes()
    }

    /// Every one that is understood is what its digits say, to the microsecond.
    fn check(input: &[u8]) {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let expected = seconds_of(text);
        let Ok(read) = duration::parse(text) else {
            assert!(expected.is_none_or(|seconds| seconds > (MAX_SECONDS - 1) as f64), "{text:?} is a duration");
            assert!(duration::parse_lease(text).is_err() && duration::parse_above_zero(text).is_err());
            assert_eq!(duration::parse_or_forever(text).is_ok(), text == "forever");
            return;
        };
        assert!(read <= Duration::from_secs(MAX_SECONDS));
        let Some(expected) = expected else { panic!("{text:?} is no duration, and is read as {read:?}") };
        let near = 1e-6 + expected * 1e-12;
        assert!((read.as_secs_f64() - expected).abs() <= near, "{text:?} is read as {read:?}");
        assert_eq!(duration::parse_or_forever(text), Ok(Some(read)));
        assert_eq!(duration::parse_lease(text).is_ok(), read >= Duration::from_secs(1));
        assert_eq!(duration::parse_above_zero(text).is_ok(), !read.is_zero());
        assert_eq!(duration::parse_whole_seconds(text).is_ok(), read.subsec_nanos() == 0 && !read.is_zero());
    }

    /// By words: numbers with units, the larger ones first, or one number alone.
    fn seconds_of(text: &str) -> Option<f64> {
        let alone = !text.contains(char::is_alphabetic);
        let mut rest = text;
        let mut last = f64::INFINITY;
        let mut sum = 0.0;
        while !rest.is_empty() {
            let digits =
                rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.').len();
            let (number, behind) = rest.split_at(digits);
            let letters = behind.len() - behind.trim_start_matches(char::is_alphabetic).len();
            let (unit, behind) = behind.split_at(letters);
            let unit = match unit {
                "" if alone => 1.0,
                "ms" | "msec" | "millis" => 0.001,
                "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
                "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
                "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
                "d" | "day" | "days" => 86_400.0,
                "w" | "week" | "weeks" => 604_800.0,
                _ => return None,
            };
            let is_number = number.contains(|letter: char| letter.is_ascii_digit()) && number.matches('.').count() < 2;
            if !is_number || unit >= last {
                return None;
            }
            sum += format!("0{number}0").parse::<f64>().ok()? * unit / if number.contains('.') { 1.0 } else { 10.0 };
            (last, rest) = (unit, behind);
        }
        (!text.is_empty()).then_some(sum)
    }
}

const WORDS: [&str; 37] = [
    "servers",
    "shard",
    "tls",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "tls_name",
    "allow_plaintext_token",
    "etcd_prefix",
    "connect_timeout",
    "timeout",
    "autostart",
    " = ",
    " = \"",
    "\"\n",
    "\n",
    "true",
    "1.5",
    "\"5s\"",
    "[\"a:1\", \"b\"]",
    "[",
    "]",
    "{",
    "}",
    "[[",
    "]]",
    "'''",
    "\"\"\"",
    "#",
    "auth_token",
    "= {a = 1}",
    "1979-05-27",
    "nan",
    "inf",
    ".",
    "\\u0000",
    "0xff",
];

/// A file of settings, and what is made of the values in it.
#[test]
fn files_of_settings() {
    fuzz(&Target { name: "settings", inputs: 4_000, make, check, memory: |length| 256 * 1024 + 1024 * length });

    fn make(random: &mut Random) -> Vec<u8> {
        if random.chance(3) {
            // As deep as it goes.
            let open = *random.pick(&["[", "{a=", "a.", "[["]);
            return format!("tls = {}", open.repeat(random.below(3000) as usize)).into_bytes();
        }
        let mut text = String::new();
        for _ in 0..random.below(6) {
            match random.below(4) {
                0 => text.push_str(&mutate::text(random, 12, &WORDS)),
                1 => text.push_str(&format!("{} = {}\n", random.pick(&WORDS[..12]), random.pick(&WORDS[16..20]))),
                2 => {
                    let words: &[&str] = if random.chance(50) { &ADDRESSES } else { &DURATIONS };
                    let value = mutate::text(random, 4, words);
                    text.push_str(&format!("{} = {value:?}\n", random.pick(&WORDS[..12])));
                }
                _ => text.push_str(&format!("{} = {}\n", random.pick(&WORDS[..12]), mutate::number(random))),
            }
        }
        text.into_bytes()
    }

    fn check(input: &[u8]) {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let known: Vec<&str> = dflock::settings::known_settings().map(|(name, ..)| name).collect();
        let values = match file::parse(text, Path::new("config.toml"), &known) {
            Ok(values) => values,
            Err(failure) => return check_failure(&failure.to_string()),
        };
        assert!(values.keys().all(|name| known.contains(&name.as_str())));
        // No file named in it is read: that is tried elsewhere.
        let is_file = |name: &str| name.ends_with("_file");
        let values = values.into_iter().filter(|(name, _)| !is_file(name)).collect();
        match Settings::from(Vec::new(), &Environment::new(), vec![(PathBuf::from("config.toml"), values)]) {
            Ok(settings) => {
                assert!(!settings.servers.shards.is_empty());
                assert!(settings.shard.is_none_or(|shard| shard < settings.servers.shards.len()));
                assert!(!settings.connect_timeout.is_zero());
                assert_eq!(settings.tls_cert.is_some(), settings.tls_key.is_some());
            }
            Err(failure) => check_failure(&failure.to_string()),
        }
    }

    fn check_failure(said: &str) {
        assert!(said.contains("config.toml") || said.contains("need") || said.contains("no user"), "{said}");
    }
}

/// The same from variables, which need not be TOML first.
#[test]
fn values_of_settings() {
    fuzz(&Target { name: "values", inputs: 6_000, make, check, memory: |length| 256 * 1024 + 1024 * length });

    fn make(random: &mut Random) -> Vec<u8> {
        let mut input = vec![random.next() as u8];
        for _ in 0..=random.below(3) {
            let words: &[&str] = match random.below(3) {
                0 => &ADDRESSES,
                1 => &DURATIONS,
                _ => &["true", "on", "0", "1", "no", "", "TRUE"],
            };
            input.extend(mutate::text(random, 4, words).into_bytes());
            input.push(0);
        }
        input
    }

    fn check(input: &[u8]) {
        let mut choices = Choices::new(input);
        let known: Vec<_> = dflock::settings::known_settings().filter(|(name, ..)| !name.ends_with("_file")).collect();
        let first = choices.below(known.len());
        let rest = choices.take(usize::MAX);
        let values: Vec<String> =
            rest.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into()).collect();
        let names = known.iter().cycle().skip(first).take(known.len()).map(|(_, variable, _)| (*variable).to_owned());
        match Settings::from(Vec::new(), &names.zip(values).collect(), Vec::new()) {
            Ok(settings) => assert!(settings.shard.is_none_or(|shard| shard < settings.servers.shards.len())),
            Err(failure) => assert!(!failure.to_string().is_empty()),
        }
    }
}
