//! What `acquire --export` prints: lines for a shell to evaluate, which fail unless they bring a lock.
//!
//! A script evaluates whatever came, even nothing, and goes on. So the answer is one `{ … }`, opened before
//! anything can go wrong: if we are killed, or the answer is cut off, the shell finds no `}` and refuses all of
//! it. A failure, be it of the command line, is an answer too: it unsets the variables of an earlier lock and
//! ends with a command that fails. What no answer can cover is a dflock that never began; for that, the idiom
//! that is shown everywhere looks at the exit code first: `lock=$(dflock acquire KEY --export) || exit`.
//!
//! Nor can dflock know who evaluates the lines. If that is not whom the lock was tied to, as under a program that starts
//! dflock and ends, the lock is free again by then. So the lines look whether that process is there.

use std::ffi::OsString;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Failure;
use crate::holder::owner::Owner;
use crate::holder::{Held, Report};
use crate::lock::Key;
use crate::output;

const VARIABLES: [&str; 5] = ["DFLOCK_KEY", "DFLOCK_TOKEN", "DFLOCK_LEASE", "DFLOCK_SERVER", "DFLOCK_FENCE"];

const OPENING: &str = "{\n";

/// Whether the opening is out.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// Whether lines are asked for, as far as that can be said of a command line that may be wrong. Words behind
/// `exec` may be the command's, and behind `--` there are no flags.
pub fn is_asked_for(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut verb = None;
    let mut is_asked = false;
    for argument in arguments.take_while(|argument| argument != "--") {
        // A mistyped one too: whoever wrote it evaluates the answer.
        is_asked |= argument.as_bytes().starts_with(b"--exp");
        if verb.is_none() && !argument.as_bytes().starts_with(b"-") {
            verb = Some(argument);
        }
    }
    is_asked && verb.is_none_or(|verb| verb != "exec")
}

/// Says the first part at once. A person who looks at the lines needs no protection from half of them.
pub fn open() {
    if !output::is_answer_seen() {
        IS_OPEN.store(true, Ordering::Relaxed);
        // Whoever cannot be told this will not be told the rest.
        let _ = output::whole(OPENING);
    }
}

/// Refuses to take a lock whose lines nobody would get.
pub(crate) fn check() -> Result<(), Failure> {
    if output::is_answer_lost() {
        return Err(Failure::usage("--export prints lines for a shell, and stdout is closed or /dev/null")
            .hint("lock=$(dflock acquire KEY --export) || exit; eval \"$lock\""));
    }
    Ok(())
}

/// The lock, as variables that commands of the script inherit, if whom it is tied to is still there.
pub(crate) fn succeed(key: &Key, report: &Report, held: &Held, owner: Option<Owner>) -> Result<(), Failure> {
    let values = [
        Some(key.to_string()),
        Some(held.token.as_str().to_owned()),
        Some(held.lease.as_secs_f64().to_string()),
        Some(report.server.clone()),
        held.fence.map(|fence| fence.to_string()),
    ];
    let line = |(name, value): (&&str, Option<String>)| match value {
        Some(value) => format!("export {name}={};\n", output::shell_quote(&value)),
        None => format!("unset {name};\n"),
    };
    let lines = VARIABLES.iter().zip(values).map(line).collect::<String>();
    output::whole(&closed(&match owner {
        None => lines,
        Some(owner) => if_kept(&lines, owner.pid, report.pid),
    }))
}

/// `${…?…}` ends a script that does not look at what `eval` says, and no shell with somebody before it. A process that has
/// ended and was not looked after has no command line. Where not all are seen, a holder of root's may be there unseen.
/// There is nothing in here that a shell without quotes around it would take for a pattern but the `?`.
fn if_kept(lines: &str, owner: i32, holder: u32) -> String {
    let lives = |pid: &dyn Display| format!("( it=; read -r it </proc/{pid}/cmdline; test -n \"$it\" ) 2>/dev/null");
    format!(
        "if {} && {{ {} || test ! -e /proc/1; }}; then\n{lines}else\nunset {};\n\
        : \"${{DFLOCK_TOKEN?dflock: the lock is free again: it was tied to process {owner}, and that or the holder has \
        ended; --owner PID ties it to another}}\";\nfi;\n",
        lives(&owner),
        lives(&holder),
        VARIABLES.join(" ")
    )
}

/// No lock: nothing is left of an earlier one, and the shell that evaluates this fails with our code.
pub fn fail(code: u8) {
    // If this cannot be said, a brace stays open, or the shell has nothing to evaluate but our exit code.
    let _ = output::whole(&closed(&format!("unset {};\n(exit {code});\n", VARIABLES.join(" "))));
}

fn closed(lines: &str) -> String {
    let opening = if IS_OPEN.load(Ordering::Relaxed) { "" } else { OPENING };
    format!("{opening}{lines}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_for_by_whoever_may_evaluate_the_answer() {
        let is_asked = |line: &str| is_asked_for(line.split(' ').map(OsString::from));
        for line in [
            "acquire k --export",
            "sem acquire k --limit 3 --export",
            "acquire --exprot k",
            "acquire k --export=1",
            "--json acquire k --export",
            "aquire k --export -- x",
            "acquire k --servers --export",
        ] {
            assert!(is_asked(line), "{line}");
        }
        for line in ["acquire k", "acquire -- --export", "exec k cmd --export", "-v exec k -- cmd --export", "export"] {
            assert!(!is_asked(line), "{line}");
        }
    }
}
