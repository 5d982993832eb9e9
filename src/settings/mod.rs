//! What the user set: flag, environment, user file, system file, default, in this order, and where each came from.

pub mod duration;
pub mod file;
pub mod secret;
pub mod servers;
mod variables;

pub use variables::{Environment, is_of_a_service};

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Failure;
use crate::net::Address;
use secret::Secret;
use servers::Servers;
use variables::Unknown;

/// One setting: its name in files and `dflock config`, its variable, and what it is if nobody sets it.
struct Known {
    name: &'static str,
    variable: &'static str,
    default: &'static str,
}

/// The variable that names the servers.
const SERVERS: &str = "DFLOCK_SERVERS";

const KNOWN: [Known; 18] = [
    known("servers", SERVERS, servers::DEFAULT),
    known("shard", "DFLOCK_SHARD", ""),
    known("tls", "DFLOCK_TLS", "false"),
    known("tls_ca", "DFLOCK_TLS_CA", ""),
    known("tls_cert", "DFLOCK_TLS_CERT", ""),
    known("tls_key", "DFLOCK_TLS_KEY", ""),
    known("tls_name", "DFLOCK_TLS_NAME", ""),
    known("auth_token_file", "DFLOCK_AUTH_TOKEN_FILE", ""),
    known("allow_plaintext_token", "DFLOCK_ALLOW_PLAINTEXT_TOKEN", "false"),
    known("etcd_prefix", "DFLOCK_ETCD_PREFIX", ""),
    known("etcd_user", "DFLOCK_ETCD_USER", ""),
    known("etcd_password_file", "DFLOCK_ETCD_PASSWORD_FILE", ""),
    known("connect_timeout", "DFLOCK_CONNECT_TIMEOUT", "5s"),
    known("connect_retry", "DFLOCK_CONNECT_RETRY", "5s"),
    known("timeout", "DFLOCK_TIMEOUT", "10s"),
    // DFLOCK_LEASE tells a job of the lease of its own lock.
    known("lease", "DFLOCK_DEFAULT_LEASE", ""),
    known("kill_after", "DFLOCK_KILL_AFTER", "5s"),
    known("autostart", "DFLOCK_AUTOSTART", "true"),
];

const fn known(name: &'static str, variable: &'static str, default: &'static str) -> Known {
    Known { name, variable, default }
}

/// Name, variable and default of every setting: for the manual.
pub fn known_settings() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    KNOWN.iter().map(|known| (known.name, known.variable, known.default))
}

/// A secret: the setting that names a file with it, the variable that may hold it itself, and what it is.
struct Hidden {
    name: &'static str,
    file: &'static str,
    variable: &'static str,
    what: &'static str,
}

const AUTH_TOKEN: Hidden =
    Hidden { name: "auth_token", file: "auth_token_file", variable: "DFLOCK_AUTH_TOKEN", what: "auth token" };
const ETCD_PASSWORD: Hidden = Hidden {
    name: "etcd_password",
    file: "etcd_password_file",
    variable: "DFLOCK_ETCD_PASSWORD",
    what: "etcd password",
};

/// Variables that hold secrets themselves: no command needs them that was not told to.
pub const SECRET_VARIABLES: [&str; 3] = [AUTH_TOKEN.variable, ETCD_PASSWORD.variable, "DFLOCKD_AUTH_TOKEN"];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Flag,
    Environment(&'static str),
    File(PathBuf),
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => out.write_str("flag"),
            Source::Environment(variable) => write!(out, "environment {variable}"),
            Source::File(path) => write!(out, "{}", path.display()),
            Source::Default => out.write_str("default"),
        }
    }
}

/// A setting in force.
#[derive(Clone, Debug)]
pub struct Found {
    pub name: &'static str,
    pub value: String,
    pub source: Source,
}

/// Values that were given as flags, by the names of the settings.
pub type Flags = Vec<(&'static str, String)>;

/// Everything that says where the servers are and how to speak to them.
#[derive(Clone, Debug)]
pub struct Settings {
    pub servers: Servers,
    /// Nobody named a server.
    pub servers_are_default: bool,
    pub shard: Option<usize>,
    pub tls: bool,
    pub tls_ca: Option<PathBuf>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_name: Option<String>,
    pub secret: Option<Secret>,
    pub allow_plaintext_token: bool,
    /// Where locks are in etcd, as `etcdctl lock` has them.
    pub etcd_prefix: Option<String>,
    pub etcd_login: Option<(String, Secret)>,
    pub connect_timeout: Duration,
    connect_retry: Duration,
    /// How long to wait for a lock; `None` for ever.
    pub timeout: Option<Duration>,
    /// `None`: the server's.
    pub lease: Option<Duration>,
    pub kill_after: Duration,
    /// Somebody chose it.
    pub kill_after_given: bool,
    pub autostart: bool,
    /// What somebody should know of them.
    pub remarks: Vec<String>,
    /// As they were found, for `dflock config`.
    pub found: Vec<Found>,
}

impl Settings {
    pub fn load(flags: Flags) -> Result<Settings, Failure> {
        let files = file::read_all(&KNOWN.each_ref().map(|known| known.name))?;
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Settings::from(flags, &environment, files)
    }

    /// How long a server that cannot be reached is tried again by what waits for a lock: not at all by what does
    /// not wait, unless that was said in the same breath.
    pub fn connect_retry_while_waiting(&self) -> Duration {
        match self.source_of("connect_retry") {
            Some(Source::Flag) => self.connect_retry,
            _ => self.connect_retry.min(self.timeout.unwrap_or(Duration::MAX)),
        }
    }

    /// The same by everything else: only if it was asked for.
    pub fn connect_retry_otherwise(&self) -> Duration {
        match self.source_of("connect_retry") {
            Some(Source::Default) | None => Duration::ZERO,
            Some(_) => self.connect_retry,
        }
    }

    fn source_of(&self, name: &str) -> Option<&Source> {
        self.found.iter().find(|found| found.name == name).map(|found| &found.source)
    }

    /// `files` are in the order in which they count.
    pub fn from(
        flags: Flags,
        environment: &Environment,
        files: Vec<(PathBuf, BTreeMap<String, String>)>,
    ) -> Result<Settings, Failure> {
        let flags: BTreeMap<_, _> = flags.into_iter().collect();
        let find = |known: &Known| {
            let found = |value: &str, source| Found { name: known.name, value: value.to_owned(), source };
            if let Some(value) = flags.get(known.name) {
                return found(value, Source::Flag);
            }
            // An empty variable is how a script unsets one.
            if let Some(value) = environment.get(known.variable).filter(|value| !value.is_empty()) {
                return found(value, Source::Environment(known.variable));
            }
            let in_file = files.iter().find_map(|(path, values)| Some((path, values.get(known.name)?)));
            match in_file {
                Some((path, value)) => found(value, Source::File(path.clone())),
                None => found(known.default, Source::Default),
            }
        };
        let mut found: Vec<Found> = KNOWN.iter().map(find).collect();
        let mut hidden = |hidden: &Hidden| {
            let secret = find_secret(hidden, &found, environment)?;
            if let Some((_, source)) = &secret {
                found.push(Found { name: hidden.name, value: "(redacted)".to_owned(), source: source.clone() });
            }
            Ok::<_, Failure>(secret.map(|(secret, _)| secret))
        };
        let (secret, password) = (hidden(&AUTH_TOKEN)?, hidden(&ETCD_PASSWORD)?);
        let get =
            |name: &str| found.iter().find(|found| found.name == name).unwrap_or_else(|| panic!("setting {name}"));
        let text = |name: &str| Some(get(name).value.clone()).filter(|value| !value.is_empty());
        let path = |name: &str| text(name).map(PathBuf::from);
        let list = get("servers");
        let unknown = variables::unknown(environment, &known_variables());
        refuse_hidden_servers(&unknown, list)?;
        let servers = Servers::parse(&list.value).map_err(|why| wrong(list, &why))?;
        let shard = text("shard").map(|value| {
            let shard = value.parse().ok().filter(|shard| *shard < servers.shards.len());
            let count = servers.shards.len();
            shard.ok_or_else(|| wrong(get("shard"), &format!("it must be below {count}, the number of shards")))
        });
        let (tls_cert, tls_key) = (path("tls_cert"), path("tls_key"));
        if tls_cert.is_some() != tls_key.is_some() {
            return Err(Failure::usage("a client certificate needs both --tls-cert and --tls-key")
                .hint("so do the settings tls_cert and tls_key"));
        }
        let etcd_login = match (text("etcd_user"), password) {
            (None, None) => None,
            (Some(user), Some(password)) => Some((user, password)),
            (Some(_), None) => {
                return Err(Failure::usage("--etcd-user needs a password")
                    .hint("give it with --etcd-password-file or DFLOCK_ETCD_PASSWORD"));
            }
            (None, Some(_)) => {
                return Err(Failure::usage("there is a password for etcd, but no user").hint("give --etcd-user"));
            }
        };
        let timeout = get("timeout");
        let (lease, kill_after) = (get("lease"), get("kill_after"));
        let lease_time = text("lease").map(|text| duration::parse_lease(&text));
        let tls = tls_of(&found, &servers, &files)?;
        let service = (list.source == Source::Default).then(|| variables::service_remark(environment)).flatten();
        Ok(Settings {
            servers_are_default: list.source == Source::Default,
            shard: shard.transpose()?,
            tls: tls.is_some(),
            servers,
            tls_ca: path("tls_ca"),
            tls_cert,
            tls_key,
            tls_name: text("tls_name"),
            secret,
            allow_plaintext_token: flag(get("allow_plaintext_token"))?,
            etcd_prefix: text("etcd_prefix"),
            etcd_login,
            connect_timeout: duration::parse_above_zero(&get("connect_timeout").value)
                .map_err(|why| wrong(get("connect_timeout"), &why))?,
            connect_retry: duration::parse(&get("connect_retry").value)
                .map_err(|why| wrong(get("connect_retry"), &why))?,
            timeout: duration::parse_or_forever(&timeout.value).map_err(|why| wrong(timeout, &why))?,
            lease: lease_time.transpose().map_err(|why| wrong(lease, &why))?,
            kill_after: duration::parse(&kill_after.value).map_err(|why| wrong(kill_after, &why))?,
            kill_after_given: kill_after.source != Source::Default,
            autostart: flag(get("autostart"))?,
            remarks: unknown.iter().map(Unknown::remark).chain(service).collect(),
            found: match tls {
                Some(source) => with_tls(found, source),
                None => found,
            },
        })
    }

    /// As the user set it: `--tls-ca`, `DFLOCK_TLS_CA`, or `tls_ca` in a file.
    pub fn set_by(&self, name: &str) -> String {
        self.found.iter().find(|found| found.name == name).map(set_by).unwrap_or_default()
    }
}

fn set_by(found: &Found) -> String {
    let name = found.name;
    match &found.source {
        // The one that has a flag by another name.
        Source::Flag if name == "autostart" => "--require-server".to_owned(),
        Source::Flag => format!("--{}", name.replace('_', "-")),
        Source::Environment(variable) => (*variable).to_owned(),
        Source::File(path) => format!("{name} in {}", path.display()),
        Source::Default => name.to_owned(),
    }
}

/// Every variable that somebody reads.
fn known_variables() -> Vec<&'static str> {
    KNOWN.iter().map(|known| known.variable).chain(SECRET_VARIABLES).collect()
}

/// A variable that was to name the servers must not mean those of somebody else, least of all this machine's.
fn refuse_hidden_servers(unknown: &[Unknown], list: &Found) -> Result<(), Failure> {
    let hides = |unknown: &&Unknown| match list.source {
        Source::Flag | Source::Environment(_) => false,
        Source::File(_) => unknown.hides_servers() && unknown.is_in_our_name(),
        Source::Default => unknown.hides_servers(),
    };
    let Some(Unknown { name, value, .. }) = unknown.iter().find(hides) else { return Ok(()) };
    Err(Failure::usage(format!("{name} does not name the servers: the variable is {SERVERS}"))
        .hint(format!("write {SERVERS}={value}, or unset {name}")))
}

/// How near to the user something was set: what is nearer counts.
fn distance(source: &Source, files: &[(PathBuf, BTreeMap<String, String>)]) -> usize {
    match source {
        Source::Flag => 0,
        Source::Environment(_) => 1,
        Source::File(path) => 2 + files.iter().position(|(file, _)| file == path).unwrap_or(0),
        Source::Default => usize::MAX,
    }
}

/// Where TLS comes from, if there is to be any. Whoever names an authority, a certificate or a name to expect means
/// TLS; to speak in clear text then would be the opposite of what was asked for.
fn tls_of(
    found: &[Found],
    servers: &Servers,
    files: &[(PathBuf, BTreeMap<String, String>)],
) -> Result<Option<Source>, Failure> {
    let get = |name: &str| found.iter().find(|found| found.name == name);
    let (Some(tls), Some(list)) = (get("tls"), get("servers")) else { return Ok(None) };
    let distance = |found: &Found| distance(&found.source, files);
    let details = ["tls_ca", "tls_cert", "tls_name"].into_iter().filter_map(get);
    let detail = details.filter(|detail| !detail.value.is_empty()).min_by_key(|detail| distance(detail));
    let asked_by = match (flag(tls)?, detail) {
        _ if servers.tls => list,
        (true, _) => tls,
        (false, None) => return Ok(None),
        (false, Some(detail)) if distance(tls) < distance(detail) => return Ok(None),
        (false, Some(detail)) if distance(tls) == distance(detail) => {
            return Err(Failure::usage(format!(
                "{}: tls = false and {} contradict each other",
                set_by(tls),
                detail.name
            ))
            .hint("leave one of them out"));
        }
        (false, Some(detail)) => detail,
    };
    let is_file = |address: &&Address| matches!(address, Address::Unix(_));
    match servers.shards.iter().flatten().find(is_file) {
        Some(_) if distance(list) < distance(asked_by) => Ok(None),
        Some(address) => Err(Failure::usage(format!("{address} cannot have TLS, which {} asks for", set_by(asked_by)))
            .hint("a socket file is on this machine: leave TLS out, or name a host and port")),
        None => Ok(Some(asked_by.source.clone())),
    }
}

/// As `dflock config` shows it.
fn with_tls(mut found: Vec<Found>, source: Source) -> Vec<Found> {
    for tls in found.iter_mut().filter(|found| found.name == "tls") {
        tls.value = "true".to_owned();
        tls.source = source.clone();
    }
    found
}

/// A file that a flag or a variable names beats the variable with the secret itself; one that a settings
/// file names does not.
fn find_secret(
    hidden: &Hidden,
    found: &[Found],
    environment: &Environment,
) -> Result<Option<(Secret, Source)>, Failure> {
    let file = found.iter().find(|found| found.name == hidden.file && !found.value.is_empty());
    let text = environment.get(hidden.variable).filter(|value| !value.is_empty());
    match (file, text) {
        (Some(Found { source: Source::File(_), .. }) | None, Some(text)) => {
            let secret = Secret::new(text.as_bytes(), hidden.what, hidden.variable)?;
            Ok(Some((secret, Source::Environment(hidden.variable))))
        }
        (Some(file), _) => {
            let path = PathBuf::from(&file.value);
            Ok(Some((Secret::read(&path, hidden.what)?, Source::File(path))))
        }
        (None, None) => Ok(None),
    }
}

/// As people write a yes or a no.
fn flag(found: &Found) -> Result<bool, Failure> {
    match found.value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(wrong(found, "write true or false")),
    }
}

fn wrong(found: &Found, why: &str) -> Failure {
    let Found { name, value, source } = found;
    let is_plain = !value.contains(|letter: char| letter.is_whitespace() || letter.is_control());
    let value = if is_plain { value.clone() } else { format!("{value:?}") };
    let set = match source {
        Source::Flag => format!("--{} {value}", name.replace('_', "-")),
        Source::Environment(variable) => format!("{variable}={value}"),
        Source::File(path) => format!("{}: {name} = {value}", path.display()),
        Source::Default => format!("{name} = {value}"),
    };
    Failure::usage(format!("{set}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Values<'a> = &'a [(&'a str, &'a str)];

    fn load(flags: Values<'static>, variables: Values<'_>, files: &[(&str, Values<'_>)]) -> Result<Settings, Failure> {
        let flags = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let owned =
            |values: Values<'_>| values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let files = files.iter().map(|(path, values)| (PathBuf::from(path), owned(values))).collect();
        Settings::from(flags, &owned(variables), files)
    }

    #[test]
    fn the_nearest_wins() {
        let files: &[(&str, Values<'_>)] =
            &[("user", &[("timeout", "3s")]), ("system", &[("timeout", "4s"), ("tls", "true")])];
        let from = |settings: &Settings, name: &str| {
            settings.found.iter().find(|found| found.name == name).map(|found| found.source.to_string()).unwrap()
        };
        let settings = load(&[("timeout", "1s")], &[("DFLOCK_TIMEOUT", "2s")], files).unwrap();
        assert_eq!((settings.timeout, from(&settings, "timeout").as_str()), (Some(Duration::from_secs(1)), "flag"));
        let settings = load(&[], &[("DFLOCK_TIMEOUT", "2s")], files).unwrap();
        assert_eq!(from(&settings, "timeout"), "environment DFLOCK_TIMEOUT");
        let settings = load(&[], &[("DFLOCK_TIMEOUT", "")], files).unwrap();
        assert_eq!((settings.timeout, from(&settings, "timeout").as_str()), (Some(Duration::from_secs(3)), "user"));
        assert_eq!((settings.tls, from(&settings, "tls").as_str()), (true, "system"));
        assert_eq!(from(&settings, "servers"), "default");
        assert!(settings.servers_are_default);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_source() {
        for (variables, part) in [
            ([("DFLOCK_SERVERS", "a b")], "DFLOCK_SERVERS=\"a b\": \"a b\" is not an address"),
            ([("DFLOCK_TLS", "maybe")], "DFLOCK_TLS=maybe: write true or false"),
            ([("DFLOCK_SHARD", "1")], "DFLOCK_SHARD=1: it must be below 1"),
            ([("DFLOCK_TIMEOUT", "soon")], "DFLOCK_TIMEOUT=soon: not a duration"),
            ([("DFLOCK_TLS_KEY", "k")], "needs both"),
            ([("DFLOCK_SERVER", "a:1")], "the variable is DFLOCK_SERVERS"),
        ] {
            let failure = load(&[], &variables, &[]).unwrap_err();
            assert!(failure.message.contains(part), "{failure}");
        }
        let failure = load(&[("connect_timeout", "soon")], &[], &[]).unwrap_err();
        assert!(failure.message.starts_with("--connect-timeout soon: not a duration"), "{failure}");
        let failure = load(&[], &[], &[("f.toml", &[("timeout", "soon")])]).unwrap_err();
        assert!(failure.message.starts_with("f.toml: timeout = soon: not a duration"), "{failure}");
    }
}
