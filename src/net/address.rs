//! Where a server is: a host and a port, or a socket file.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// As the user wrote it: names are looked up when a connection is made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Address {
    /// `host`, `host:port`, `1.2.3.4:port`, `[::1]:port`, `::1` or `unix:/path`.
    pub fn parse(text: &str, default_port: u16) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                // With one slash, so that it is read back as it is shown.
                Ok(Address::Unix(PathBuf::from(format!("/{}", path.trim_start_matches('/')))))
            } else {
                Err(format!("{text:?} needs an absolute path: unix:/path"))
            };
        }
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, rest))) => (host, rest.strip_prefix(':').or(rest.is_empty().then_some(""))),
            Some(None) => return Err(format!("{text:?} has no closing bracket")),
            // More than one colon without brackets: an IPv6 address alone.
            None if text.matches(':').count() > 1 => (text, Some("")),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port).filter(|port| !port.is_empty())),
                None => (text, Some("")),
            },
        };
        let port = match port {
            Some("") => default_port,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| bad_port(text))?,
            None => return Err(bad_port(text)),
        };
        let is_name = |host: &str| host.chars().all(|letter| letter.is_alphanumeric() || "-._%".contains(letter));
        if host.is_empty() || !(host.parse::<IpAddr>().is_ok() || is_name(host)) {
            return Err(format!("{text:?} is not an address: write host:port, [::1]:port or unix:/path"));
        }
        Ok(Address::Tcp { host: host.to_owned(), port })
    }

    /// Whether only this machine is behind it, as far as the address itself tells.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Unix(_) => true,
            Address::Tcp { host, .. } => {
                host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
            }
        }
    }

    /// The name that a certificate must have.
    pub fn host(&self) -> &str {
        match self {
            Address::Tcp { host, .. } => host,
            Address::Unix(_) => "localhost",
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(out, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(out, "{host}:{port}"),
            Address::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

fn bad_port(text: &str) -> String {
    format!("{text:?} has no port between 1 and 65535")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_and_writes_it_back() {
        let cases = [
            ("a", "a:6388"),
            ("a:1", "a:1"),
            ("10.0.0.1:6388", "10.0.0.1:6388"),
            ("[::1]:7", "[::1]:7"),
            ("[::1]", "[::1]:6388"),
            ("::1", "[::1]:6388"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("unix:///run/x.sock", "unix:/run/x.sock"),
            ("unix:////run/x.sock", "unix:/run/x.sock"),
        ];
        for (text, shown) in cases {
            let address = Address::parse(text, 6388).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(Address::parse(shown, 1), Ok(address));
        }
    }

    #[test]
    fn refuses_what_is_not_an_address() {
        for text in
            ["", ":1", "a:", "a:0", "a:70000", "a:x", "[::1", "[::1]x", "unix:", "unix:x", "a b", "a/b", "[x y]:1"]
        {
            assert!(Address::parse(text, 6388).is_err(), "{text}");
        }
    }

    #[test]
    fn knows_what_stays_on_this_machine() {
        for (text, local) in
            [("127.0.0.9", true), ("::1", true), ("localhost", true), ("unix:/x", true), ("10.0.0.1", false)]
        {
            assert_eq!(Address::parse(text, 1).unwrap().is_local(), local, "{text}");
        }
    }
}
