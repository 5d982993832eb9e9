//! `config.toml`: the user's, then the system's. One that is there and cannot be read is an error, for a host that
//! passes over its settings asks another server than the others do.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::error::Failure;

const SYSTEM: &str = "/etc/dflock/config.toml";

/// Who owns what belongs to nobody in here.
const NO_OWNER: u32 = 65_534;

/// Nobody has written so many settings.
const MAX_FILE: u64 = 1024 * 1024;

/// Names and values of a file, all as text.
pub type Values = BTreeMap<String, String>;

/// The files that are there, in the order in which they count.
pub(super) fn read_all(known: &[&str]) -> Result<Vec<(PathBuf, Values)>, Failure> {
    let user = variable("XDG_CONFIG_HOME")
        .or_else(|| home().map(|home| home.join(".config")))
        .map(|home| home.join("dflock/config.toml"));
    let mut files = Vec::new();
    for path in user.into_iter().chain([PathBuf::from(SYSTEM)]) {
        if let Some(text) = read(&path)? {
            let values = parse(&text, &path, known)?;
            files.push((path, values));
        }
    }
    Ok(files)
}

/// Where nobody has set `HOME`, it is that of the account: whoever cleans the environment has the same settings.
fn home() -> Option<PathBuf> {
    let account = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.dir);
    variable("HOME").or_else(account)
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// `None`: there is no such file.
fn read(path: &Path) -> Result<Option<String>, Failure> {
    let unreadable = |path: &Path, why: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot read the settings in {}: {why}", path.display()))
            .hint("they must be in a file that you may read, or not be there at all")
    };
    // Opening a FIFO would wait for whoever writes to it.
    let opened = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return match why_not_found(path) {
                Some((place, why)) => Err(unreadable(place, &why)),
                None => Ok(None),
            };
        }
        Err(why) => return Err(unreadable(path, &why)),
    };
    let about = file.metadata().map_err(|why| unreadable(path, &why))?;
    if about.is_dir() {
        return Err(unreadable(path, &"it is a directory"));
    }
    if !about.is_file() {
        return Err(unreadable(path, &"it is not a regular file"));
    }
    if let Some((why, hint)) = whose_word(path, &about) {
        return Err(unreadable(path, &why).hint(hint));
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|why| unreadable(path, &why))?;
    if text.len() as u64 > MAX_FILE {
        return Err(unreadable(path, &format!("it is larger than {MAX_FILE} bytes")));
    }
    Ok(Some(text))
}

/// Whoever writes the settings says where secrets go and who grants the locks.
fn whose_word(path: &Path, about: &Metadata) -> Option<(String, String)> {
    let me = nix::unistd::geteuid().as_raw();
    let owner = about.uid();
    // In a container whose root is somebody else outside, what is root's out there has no owner.
    let is_roots = owner == 0 || (path == Path::new(SYSTEM) && owner == NO_OWNER && !are_users_as_outside());
    if owner != me && !is_roots {
        let why = format!("it belongs to another user (uid {owner}), and we are uid {me}");
        return Some((
            why,
            "HOME or XDG_CONFIG_HOME may be somebody else's: sudo -H sets HOME; or chown it".to_owned(),
        ));
    }
    if about.mode() & 0o002 != 0 {
        let why = format!("everybody may write to it (mode {:03o})", about.mode() & 0o777);
        return Some((why, format!("chmod o-w {}", path.display())));
    }
    None
}

/// Whether every user has the same number in here as outside.
fn are_users_as_outside() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Somebody has put something there, or in the place of a directory above, that leads nowhere.
fn why_not_found(path: &Path) -> Option<(&Path, &'static str)> {
    let from_the_top = path.ancestors().collect::<Vec<_>>().into_iter().rev();
    for place in from_the_top {
        match std::fs::metadata(place) {
            Ok(about) if about.is_file() && place != path => {
                return Some((place, "it is a file, and not the directory that they are in"));
            }
            Ok(_) => {}
            Err(_) if place.is_symlink() => return Some((place, "it is a link to what is not there")),
            Err(_) => return None,
        }
    }
    None
}

/// What a file says; `path` is only shown.
pub fn parse(text: &str, path: &Path, known: &[&str]) -> Result<Values, Failure> {
    let shown = path.display();
    let table: toml::Table = text
        .parse()
        .map_err(|why: toml::de::Error| Failure::usage(format!("{shown} is not TOML: {}", why.message())))?;
    let mut values = Values::new();
    for (name, value) in table {
        if name == "auth_token" || name == "etcd_password" {
            return Err(Failure::usage(format!("{shown}: {name} itself does not belong here"))
                .hint(format!("write it to a file of mode 600 and name that: {name}_file = \"…\"")));
        }
        if !known.contains(&name.as_str()) {
            return Err(Failure::usage(format!("{shown}: there is no setting {name:?}"))
                .hint(format!("the settings are {}", known.join(", "))));
        }
        let text = as_text(&value).ok_or_else(|| {
            Failure::usage(format!("{shown}: {name} must be a text, a number, true or false, or a list of texts"))
        })?;
        values.insert(name, text);
    }
    Ok(values)
}

fn as_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Array(list) => {
            let texts: Option<Vec<String>> = list.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind_of_value_and_refuses_the_rest() {
        let known = ["servers", "tls", "timeout", "connect_timeout"];
        let text = "servers = [\"a:1\", \"b:2\"]\ntls = true\ntimeout = 5\nconnect_timeout = 1.5\n";
        let values = parse(text, Path::new("x"), &known).unwrap();
        assert_eq!(values["servers"], "a:1,b:2");
        assert_eq!((values["tls"].as_str(), values["timeout"].as_str()), ("true", "5"));
        for (text, part) in [
            ("nonsense", "is not TOML"),
            ("colour = 1", "no setting \"colour\""),
            ("auth_token = \"x\"", "does not belong here"),
            ("tls = { a = 1 }", "must be"),
        ] {
            let failure = parse(text, Path::new("x"), &known).unwrap_err();
            assert!(failure.message.contains(part), "{failure}");
        }
    }
}
