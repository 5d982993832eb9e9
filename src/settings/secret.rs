//! The shared secret: from a file that only its owner can read, or from the environment. Never from an argument.

use std::fmt;
use std::io::Read;
use std::path::Path;

use crate::error::Failure;
use crate::net::private::open_private;
use crate::sys;
use crate::wire::{self, MAX_SECRET};

/// Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// `source` names where `text` was found, `what` what it is.
    pub fn new(text: &[u8], what: &str, source: &str) -> Result<Secret, Failure> {
        sys::hide_memory();
        let text = wire::trim(text);
        if text.is_empty() {
            return Err(Failure::usage(format!("the {what} in {source} is empty")));
        }
        if text.contains(&b'\n') {
            return Err(Failure::usage(format!("the {what} in {source} has more than one line")));
        }
        if text.len() > MAX_SECRET {
            return Err(Failure::usage(format!("the {what} in {source} is longer than {MAX_SECRET} bytes")));
        }
        Ok(Secret(text.to_vec()))
    }

    /// Reads a file that nobody else may read or write.
    pub fn read(path: &Path, what: &str) -> Result<Secret, Failure> {
        Secret::new(&read_private(path, what, 1)?, what, &path.display().to_string())
    }

    /// The same with up to two of them, a line each: while one takes the place of the other, both are good.
    pub fn read_one_or_two(path: &Path, what: &str) -> Result<Vec<Secret>, Failure> {
        let text = read_private(path, what, 2)?;
        let text = wire::trim(&text);
        let source = path.display().to_string();
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !wire::trim(line).is_empty()).collect();
        match lines[..] {
            [] => Secret::new(b"", what, &source).map(|secret| vec![secret]),
            [_] | [_, _] => lines.into_iter().map(|line| Secret::new(line, what, &source)).collect(),
            _ => Err(Failure::usage(format!("the {what} in {source} has more than two lines"))
                .hint("a line for each token: one, or two while one takes the place of the other")),
        }
    }
}

fn read_private(path: &Path, what: &str, secrets: u64) -> Result<Vec<u8>, Failure> {
    let file = open_private(path, what)?;
    let mut text = Vec::new();
    let most = (MAX_SECRET as u64 + 1024) * secrets;
    let read = file.take(most).read_to_end(&mut text);
    read.map_err(|why| Failure::usage(format!("cannot read the {what} in {}: {why}", path.display())))?;
    Ok(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn reads_only_a_private_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("token");
        std::fs::write(&path, "  s3 cret\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = Secret::read(&path, "auth token").unwrap_err();
        assert!(refused.message.contains("mode 644"), "{refused}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Secret::read(&path, "auth token").unwrap().into_bytes(), b"s3 cret");
    }

    #[test]
    fn refuses_what_cannot_be_sent() {
        for text in ["", " \n", "two\nlines"] {
            assert!(Secret::new(text.as_bytes(), "auth token", "test").is_err());
        }
        assert!(Secret::new(&vec![b's'; MAX_SECRET + 1], "auth token", "test").is_err());
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new(b"s3cret", "auth token", "test").unwrap()), "(redacted)");
    }
}
