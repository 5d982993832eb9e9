//! What the user set: flag, environment, user file, system file, default, in this order, and where each came from.

pub mod duration;
pub mod file;
pub mod secret;
pub mod servers;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Failure;
use secret::Secret;
use servers::Servers;

/// One setting: its name in files and `dflock config`, its variable, and what it is if nobody sets it.
struct Known {
    name: &'static str,
    variable: &'static str,
    default: &'static str,
}

const KNOWN: [Known; 16] = [
    known("servers", "DFLOCK_SERVERS", servers::DEFAULT),
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
    pub autostart: bool,
    /// As they were found, for `dflock config`.
    pub found: Vec<Found>,
}

impl Settings {
    pub fn load(flags: Flags) -> Result<Settings, Failure> {
        let files = file::read_all(&KNOWN.each_ref().map(|known| known.name))?;
        Settings::from(
            flags,
            &|variable| std::env::var_os(variable).map(|value| value.to_string_lossy().into_owned()),
            files,
        )
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

    /// `variables` looks up the environment, `files` are in the order in which they count.
    pub fn from(
        flags: Flags,
        variables: &dyn Fn(&str) -> Option<String>,
        files: Vec<(PathBuf, BTreeMap<String, String>)>,
    ) -> Result<Settings, Failure> {
        let flags: BTreeMap<_, _> = flags.into_iter().collect();
        let find = |known: &Known| {
            let found = |value: &str, source| Found { name: known.name, value: value.to_owned(), source };
            if let Some(value) = flags.get(known.name) {
                return found(value, Source::Flag);
            }
            // An empty variable is how a script unsets one.
            if let Some(value) = variables(known.variable).filter(|value| !value.is_empty()) {
                return found(&value, Source::Environment(known.variable));
            }
            let in_file = files.iter().find_map(|(path, values)| Some((path, values.get(known.name)?)));
            match in_file {
                Some((path, value)) => found(value, Source::File(path.clone())),
                None => found(known.default, Source::Default),
            }
        };
        let mut found: Vec<Found> = KNOWN.iter().map(find).collect();
        let mut hidden = |hidden: &Hidden| {
            let secret = find_secret(hidden, &found, variables)?;
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
        Ok(Settings {
            servers_are_default: list.source == Source::Default,
            shard: shard.transpose()?,
            tls: servers.tls || flag(get("tls"))?,
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
            autostart: flag(get("autostart"))?,
            found,
        })
    }
}

/// A file that a flag or a variable names beats the variable with the secret itself; one that a settings
/// file names does not.
fn find_secret(
    hidden: &Hidden,
    found: &[Found],
    variables: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<(Secret, Source)>, Failure> {
    let file = found.iter().find(|found| found.name == hidden.file && !found.value.is_empty());
    let text = variables(hidden.variable).filter(|value| !value.is_empty());
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
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let owned =
            |values: Values<'_>| values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let files = files.iter().map(|(path, values)| (PathBuf::from(path), owned(values))).collect();
        Settings::from(flags, &variable, files)
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
