//! `config.toml`: the user's, then the system's.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::Failure;

const SYSTEM: &str = "/etc/dflock/config.toml";

/// Names and values of a file, all as text.
pub type Values = BTreeMap<String, String>;

/// The files that are there, in the order in which they count.
pub(super) fn read_all(known: &[&str]) -> Result<Vec<(PathBuf, Values)>, Failure> {
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|home| home.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))
        .map(|home| home.join("dflock/config.toml"));
    let mut files = Vec::new();
    for path in user.into_iter().chain([PathBuf::from(SYSTEM)]) {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let values = parse(&text, &path, known)?;
                files.push((path, values));
            }
            Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(why) => {
                return Err(Failure::usage(format!("cannot read the settings in {}: {why}", path.display()))
                    .hint("it must be readable, or not be there"));
            }
        }
    }
    Ok(files)
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
