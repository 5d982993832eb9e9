//! A command line that cannot be understood, in our own words: what is wrong with it, and what to do.

use std::error::Error as _;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::Failure;

/// What people type for a verb, and where it leads.
const ELSEWHERE: [(&[&str], &str); 9] = [
    (&["help"], "dflock --help lists the verbs; man dflock is the manual"),
    (&["version"], "dflock --version"),
    (&["run", "do", "with"], EXEC),
    (
        &["lock", "flock", "get", "take", "hold"],
        "dflock exec KEY -- CMD runs a command under a lock; dflock acquire KEY takes one for a script",
    ),
    (&["unlock", "free", "give"], "dflock release KEY gives a lock back"),
    (&["extend", "refresh", "keepalive"], "dflock renew KEY extends a lease"),
    (&["list", "ls", "ps", "show"], "dflock stats shows what the servers hold, dflock holders what you hold"),
    (&["server", "daemon", "start"], "dflock serve runs a lock server"),
    (&["semaphore"], "dflock sem --help lists the verbs of semaphores; dflock exec --limit N takes a slot"),
];

const EXEC: &str = "dflock exec KEY -- CMD runs a command under a lock";

/// Says what the parser has found; `verb` is as far as it came, as in `dflock sem acquire`.
pub(super) fn in_words(error: &clap::Error, verb: &str) -> Failure {
    let name = || named(error, ContextKind::InvalidArg).join(" and ");
    let value = || named(error, ContextKind::InvalidValue).concat();
    let list = format!("{verb} --help lists its options");
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let verb = named(error, ContextKind::InvalidSubcommand).concat();
            let hint = ELSEWHERE.iter().find(|(words, _)| words.contains(&verb.as_str()));
            let hint = hint
                .map(|(_, hint)| (*hint).to_owned())
                .or_else(|| guess(error))
                .unwrap_or_else(|| format!("{EXEC}; dflock --help lists the verbs"));
            Failure::usage(format!("there is no verb {}", shown(&verb))).hint(hint)
        }
        ErrorKind::UnknownArgument => {
            let word = name();
            if word.starts_with('-') {
                Failure::usage(format!("there is no option {word}")).hint(guess(error).unwrap_or(list))
            } else {
                Failure::usage(format!("unexpected argument {word:?}")).hint(usage(error).unwrap_or(list))
            }
        }
        ErrorKind::MissingRequiredArgument => {
            let names = named(error, ContextKind::InvalidArg);
            let verb = if names.len() > 1 { "are" } else { "is" };
            Failure::usage(format!("{} {verb} missing", names.join(" and "))).hint(usage(error).unwrap_or(list))
        }
        ErrorKind::ArgumentConflict => {
            let other = named(error, ContextKind::PriorArg).join(" and ");
            Failure::usage(format!("{} and {other} exclude each other", name())).hint(list)
        }
        ErrorKind::InvalidValue if value().is_empty() => Failure::usage(format!("{} needs a value", name())).hint(list),
        ErrorKind::InvalidValue => {
            let values = named(error, ContextKind::ValidValue).join(", ");
            let message = format!("{} {}: must be one of {values}", name(), shown(&value()));
            Failure::usage(message).hint(guess(error).unwrap_or(list))
        }
        ErrorKind::ValueValidation => {
            let why = error.source().map(|why| plain(&why.to_string())).unwrap_or_default();
            Failure::usage(format!("{} {}: {why}", name(), shown(&value()))).hint(list)
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            Failure::usage(first.strip_prefix("error: ").unwrap_or(first)).hint(list)
        }
    }
}

/// The arguments of `exec` with `--` before the command, where its first word ends our options anyway. Without
/// it the parser would take a mistyped option of ours for the command.
pub(super) fn with_separator(exec: &Command, mut arguments: Vec<OsString>) -> Vec<OsString> {
    let mut is_key_seen = false;
    let mut at = 0;
    while let Some(word) = arguments.get(at).map(|word| word.as_bytes()).filter(|word| *word != b"--") {
        if word.starts_with(b"-") && word.len() > 1 {
            at += usize::from(is_value_next(exec, word));
        } else if std::mem::replace(&mut is_key_seen, true) {
            arguments.insert(at, "--".into());
            break;
        }
        at += 1;
    }
    arguments
}

/// Whether an option, or the last of a few short ones, has its value in the next word.
fn is_value_next(verb: &Command, word: &[u8]) -> bool {
    let options = || verb.get_arguments().filter(|argument| takes_next(argument));
    if let Some(long) = word.strip_prefix(b"--") {
        return options().any(|argument| argument.get_long().is_some_and(|name| name.as_bytes() == long));
    }
    let takes = |letter: &u8| options().any(|argument| argument.get_short() == Some(char::from(*letter)));
    // The first letter that takes a value takes the rest of the word, if there is one.
    word.iter().skip(1).position(takes) == word.len().checked_sub(2)
}

fn takes_next(argument: &clap::Arg) -> bool {
    let is_optional = argument.get_num_args().is_some_and(|count| count.min_values() == 0);
    argument.get_action().takes_values() && !is_optional && !argument.is_positional()
}

/// What clap says of one thing, without the decoration of its usage: `--lease <DUR>` is `--lease`.
fn named(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    let bare = |text: &String| {
        if kind == ContextKind::InvalidValue || kind == ContextKind::ValidValue {
            return text.clone();
        }
        let word = text.split(' ').next().unwrap_or_default();
        word.trim_end_matches("...").trim_matches(['<', '>', '[', ']']).to_owned()
    };
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![bare(text)],
        Some(ContextValue::Strings(texts)) => texts.iter().map(bare).collect(),
        _ => Vec::new(),
    }
}

/// The likeliest comes last.
fn guess(error: &clap::Error) -> Option<String> {
    let kinds = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue];
    let guess = kinds.into_iter().find_map(|kind| named(error, kind).pop())?;
    Some(format!("did you mean {guess}?"))
}

/// `usage: dflock sem acquire --limit <N> <KEY>`.
fn usage(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else { return None };
    let usage = usage.to_string();
    Some(usage.lines().next()?.replacen("Usage: ", "usage: ", 1).trim().to_owned())
}

/// What the standard library says of numbers, for people.
fn plain(why: &str) -> String {
    let bounds = why.split_once(" is not in ").and_then(|(_, range)| range.split_once(".."));
    match bounds {
        // What a number can hold at most is no limit of ours.
        Some((least, most)) => match most.trim_start_matches('=').parse::<u64>() {
            Ok(most) if most < u64::from(u32::MAX) => format!("must be between {least} and {most}"),
            _ => format!("must be at least {least}"),
        },
        None if why.contains("invalid digit") || why.contains("empty string") => "not a whole number".to_owned(),
        None if why.contains("number too") => "too large".to_owned(),
        None => why.to_owned(),
    }
}

/// A value as it was typed, in quotes where its end would not be seen.
fn shown(value: &str) -> String {
    let is_plain = !value.is_empty() && !value.contains(|letter: char| letter.is_whitespace() || letter.is_control());
    if is_plain { value.to_owned() } else { format!("{value:?}") }
}
