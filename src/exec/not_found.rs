//! Why a command could not be begun: it is not there, or what should run it is not.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Failure, Kind};

/// The system reads no more of a first line.
const FIRST_LINE: u64 = 256;

/// As a shell has it: 127 for what is not there, 126 for what cannot be executed.
pub(super) fn explain(name: &OsStr, why: &io::Error) -> Failure {
    let shown = name.to_string_lossy();
    if why.kind() != io::ErrorKind::NotFound {
        let what = if Path::new(name).is_dir() { "it is a directory".to_owned() } else { why.to_string() };
        return Failure::new(Kind::CannotExecute, format!("{shown}: cannot be executed: {what}"))
            .hint("the lock was given back");
    }
    let Some(path) = find(name) else {
        return Failure::new(
            Kind::CommandNotFound,
            format!("{}: command not found", if shown.is_empty() { "\"\"" } else { &shown }),
        )
        .hint("the lock was given back; is it in PATH?");
    };
    let cannot = |what: String| Failure::new(Kind::CannotExecute, format!("{shown}: cannot be executed: {what}"));
    match interpreter(&path) {
        Some(interpreter) if interpreter.ends_with('\r') => {
            cannot("its lines end as on Windows, and so does the name of its interpreter".to_owned())
                .hint("the lock was given back; dos2unix, or sed -i 's/\\r$//', mends it")
        }
        Some(interpreter) => {
            cannot(format!("its interpreter {interpreter} is not there")).hint("the lock was given back")
        }
        None => cannot("the loader that it needs is not there".to_owned())
            .hint("the lock was given back; it may be built for another system"),
    }
}

/// The file that was meant, if there is one.
fn find(name: &OsStr) -> Option<PathBuf> {
    let is_there = |path: &PathBuf| path.is_file();
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(is_there);
    }
    if name.is_empty() {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(is_there)
}

/// What the first line of a script names.
fn interpreter(path: &Path) -> Option<String> {
    let mut line = Vec::new();
    File::open(path).ok()?.take(FIRST_LINE).read_to_end(&mut line).ok()?;
    let line = line.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    let text = text.trim_start_matches([' ', '\t']);
    Some(text.split([' ', '\t']).next().unwrap_or_default().to_owned())
}
