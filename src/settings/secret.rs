//! The shared secret: from a file that only its owner can read, or from the environment. Never from an argument.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::Failure;
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
        let shown = path.display();
        let unreadable = |why| Failure::usage(format!("cannot read the {what} in {shown}: {why}"));
        let file = File::open(path).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        if about.is_file() {
            let me = nix::unistd::geteuid().as_raw();
            if about.uid() != me && about.uid() != 0 {
                return Err(Failure::usage(format!("the {what} file {shown} belongs to another user"))
                    .hint("it must belong to you or to root"));
            }
            if about.mode() & 0o027 != 0 {
                let mode = about.mode() & 0o777;
                return Err(Failure::usage(format!(
                    "others may read or write the {what} file {shown} (mode {mode:03o})"
                ))
                .hint(format!("chmod 600 {shown}")));
            }
        }
        let mut text = Vec::new();
        file.take(MAX_SECRET as u64 + 1024).read_to_end(&mut text).map_err(unreadable)?;
        Secret::new(&text, what, &shown.to_string())
    }
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
