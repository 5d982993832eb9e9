//! Every byte that reaches stdout or stderr. A closed one is no reason to fail.

pub mod log;

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::error::Failure;

/// The answer to a command.
pub fn answer(text: &str) {
    // Whoever closed stdout does not want it.
    let _ = io::stdout().write_all(text.as_bytes());
    let _ = io::stdout().flush();
}

/// Everything else that is said to a person.
pub fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A failure: what was tried and why it failed, and what to do next.
pub fn failure(failure: &Failure) {
    let mut text = format!("dflock: {}\n", escape(&failure.message));
    if let Some(hint) = &failure.hint {
        let _ = writeln!(text, "dflock: {}", escape(hint));
    }
    say(&text);
}

/// Makes control characters visible: text from outside must not steer a terminal.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            escaped.extend(letter.escape_default());
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(escape("a\x1b[31mb\n\u{9b}é"), "a\\u{1b}[31mb\\n\\u{9b}é");
    }
}
