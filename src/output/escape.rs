//! Text from outside must not steer a terminal, nor read other than it is.

use std::fmt::Write as _;

/// What a terminal obeys, and what turns the direction in which it writes.
fn steers(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Makes them visible.
pub fn escape(text: &str) -> String {
    with_shown(text, steers, |letter, shown| shown.extend(letter.escape_default()))
}

/// The same of an answer of several lines.
pub(super) fn escape_lines(text: &str) -> String {
    with_shown(text, |letter| letter != '\n' && steers(letter), |letter, shown| shown.extend(letter.escape_default()))
}

/// In JSON, where they stand in strings alone; those below a space are escaped already.
pub(super) fn escape_json(text: &str) -> String {
    with_shown(text, steers, |letter, shown| {
        let _ = write!(shown, "\\u{:04x}", u32::from(letter));
    })
}

fn with_shown(text: &str, is_shown: impl Fn(char) -> bool, show: impl Fn(char, &mut String)) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_shown(letter) { show(letter, &mut escaped) } else { escaped.push(letter) }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(escape("a\x1b[31mb\n\u{9b}é"), "a\\u{1b}[31mb\\n\\u{9b}é");
        assert_eq!(escape("a\u{202e}b\u{2066}c\u{200f}"), "a\\u{202e}b\\u{2066}c\\u{200f}");
        assert_eq!(escape_lines("a\x07\nb\u{7f}\n"), "a\\u{7}\nb\\u{7f}\n");
    }

    #[test]
    fn json_says_the_same_without_them() {
        let text = "\x1b\x07\u{7f}\u{85}\u{9b}\u{202e}é\\\"";
        let line = escape_json(&serde_json::to_string(text).unwrap());
        assert_eq!(line, "\"\\u001b\\u0007\\u007f\\u0085\\u009b\\u202eé\\\\\\\"\"");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
