//! `dflock man`: the manual, one page a verb.
//!
//! What clap knows of a verb comes from the types that read the command line; the prose stands beside, in
//! `prose/VERB.md`, and is written as `roff` says.

mod roff;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::{Arg, Args, Command};

use crate::error::{Failure, TABLE};
use crate::settings;

/// Write the manual as man pages into a directory
///
/// One page for dflock, one for each verb, and dflock-config(5) for the settings.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock man ~/.local/share/man/man1
  dflock man /tmp/man && man -l /tmp/man/dflock-exec.1")]
pub struct Man {
    /// Where to; it is made if need be. With a man1, the page of section 5 goes into the man5 beside it
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// When the text was changed last.
const DATE: &str = "2026-11-20";

/// What was written about each verb. Sections before OPTIONS stand above the first line that is `---`.
const PROSE: [(&str, &str); 14] = [
    ("exec", include_str!("prose/exec.md")),
    ("acquire", include_str!("prose/acquire.md")),
    ("release", include_str!("prose/release.md")),
    ("renew", include_str!("prose/renew.md")),
    ("enqueue", include_str!("prose/enqueue.md")),
    ("wait", include_str!("prose/wait.md")),
    ("sem", include_str!("prose/sem.md")),
    ("status", include_str!("prose/status.md")),
    ("stats", include_str!("prose/stats.md")),
    ("holders", include_str!("prose/holders.md")),
    ("serve", include_str!("prose/serve.md")),
    ("config", include_str!("prose/config.md")),
    ("completions", include_str!("prose/completions.md")),
    ("man", include_str!("prose/man.md")),
];

impl Man {
    /// `command` describes every verb.
    pub fn run(self, command: Command) -> Result<u8, Failure> {
        let cannot = |tried: &str, path: &Path, why: std::io::Error| {
            Failure::usage(format!("cannot {tried} {}: {why}", path.display())).hint("name a directory of your own")
        };
        for (name, text) in pages(command) {
            let dir = self.dir_of(&name);
            std::fs::create_dir_all(&dir).map_err(|why| cannot("make the directory", &dir, why))?;
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|why| cannot("write", &path, why))?;
        }
        Ok(0)
    }
}

impl Man {
    /// Where man looks for a page: those of section 5 are not in man1, but beside it.
    fn dir_of(&self, page: &str) -> PathBuf {
        match self.dir.parent() {
            Some(above) if self.dir.file_name() == Some(OsStr::new("man1")) && page.ends_with(".5") => {
                above.join("man5")
            }
            _ => self.dir.clone(),
        }
    }
}

/// Every page and its name.
fn pages(mut command: Command) -> Vec<(String, String)> {
    command.build();
    let mut pages = vec![
        ("dflock.1".to_owned(), main_page(&command)),
        ("dflock-config.5".to_owned(), page("dflock-config", 5, include_str!("prose/config.5.md"))),
    ];
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("dflock-{}", verb.get_name());
        pages.push((format!("{name}.1"), verb_page(&name, verb)));
    }
    pages
}

fn main_page(command: &Command) -> String {
    let mut verbs = String::new();
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        verbs.push_str(&format!("**dflock-{}**(1)\n: {about}\n", verb.get_name()));
    }
    page("dflock", 1, &include_str!("prose/dflock.md").replace("{{verbs}}\n", &verbs))
}

fn verb_page(name: &str, verb: &Command) -> String {
    let prose = PROSE.iter().find(|(known, _)| *known == verb.get_name()).map_or("", |(_, prose)| prose);
    let (above, below) = prose.split_once("---\n").unwrap_or((prose, ""));
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    let mut first = about.chars();
    let about = first.next().map(|letter| letter.to_lowercase().chain(first).collect::<String>()).unwrap_or_default();
    let long = verb.get_long_about().map(ToString::to_string).unwrap_or_default();
    let long = long.split_once("\n\n").map_or("", |(_, long)| long);
    let mut text = title(name, 1);
    text.push_str(&body(&format!("# Name\n{name} - {about}\n# Synopsis\n{}\n", synopsis(verb))));
    text.push_str(&body(&format!("# Description\n{long}\n\n{above}")));
    text.push_str(&body(&options(verb)));
    text.push_str(&body(below));
    text.push_str(&body(SEE_ALSO));
    text
}

/// How the verb is called, and each of its own verbs.
fn synopsis(verb: &Command) -> String {
    let verbs: Vec<&Command> = verb.get_subcommands().filter(|verb| !verb.is_hide_set()).collect();
    if !verbs.is_empty() {
        return verbs.iter().map(|verb| synopsis(verb)).collect::<Vec<_>>().join("\n\n");
    }
    let usage = verb.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").replace(['<', '>'], "*").replace("[*", "[").replace("*]", "]");
    let bin = verb.get_bin_name().unwrap_or_default();
    usage.strip_prefix(bin).map_or(usage.clone(), |rest| format!("**{bin}**{rest}"))
}

/// What a verb takes, its arguments first, and then each group of flags.
fn options(verb: &Command) -> String {
    // Those of a verb's verbs are their own.
    if verb.has_subcommands() {
        return String::new();
    }
    let shown: Vec<&Arg> = verb.get_arguments().filter(|argument| !argument.is_hide_set()).collect();
    let mut prose = "# Options\n".to_owned();
    let mut heading = None;
    for argument in shown.iter().filter(|argument| argument.is_positional()) {
        prose.push_str(&option(argument));
    }
    for argument in shown.iter().filter(|argument| !argument.is_positional() && argument.get_help_heading().is_none()) {
        prose.push_str(&option(argument));
    }
    for argument in shown.iter().filter(|argument| argument.get_help_heading().is_some()) {
        if argument.get_help_heading() != heading {
            heading = argument.get_help_heading();
            prose.push_str(&format!("## {}\n", heading.unwrap_or_default()));
        }
        prose.push_str(&option(argument));
    }
    prose
}

/// One flag or argument: its names, its value, and what clap says of it in `--help`.
fn option(argument: &Arg) -> String {
    let short = argument.get_short().map(|short| format!("**-{short}**"));
    let long = argument.get_long().map(|long| format!("**--{long}**"));
    let mut head = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    if argument.get_action().takes_values() || argument.is_positional() {
        let value = argument.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
        let is_optional = argument.get_num_args().is_some_and(|range| range.min_values() == 0);
        head.push_str(&match (argument.is_positional(), is_optional) {
            (true, _) => format!("*{value}*"),
            (false, true) => format!("[=*{value}*]"),
            (false, false) => format!(" *{value}*"),
        });
    }
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut text = format!("{head}\n: {help}");
    let values = argument.get_possible_values();
    if !values.is_empty() && argument.get_action().takes_values() {
        let names: Vec<String> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
        text.push_str(&format!(": {}", names.join(", ")));
    }
    let default: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !default.is_empty() && argument.get_action().takes_values() {
        text.push_str(&format!(" [default: {}]", default.join(",")));
    }
    if let Some(variable) = argument.get_env() {
        text.push_str(&format!(" [variable: `{}`]", variable.to_string_lossy()));
    }
    format!("{}\n", text.replace("\n\n", "\n"))
}

/// A page that is all prose.
fn page(name: &str, section: u8, prose: &str) -> String {
    format!("{}{}{}", title(name, section), body(prose), body(SEE_ALSO))
}

const SEE_ALSO: &str = "# See also
**dflock**(1), **dflock-exec**(1), **dflock-acquire**(1), **dflock-serve**(1), **dflock-config**(5), **flock**(1)
";

fn title(name: &str, section: u8) -> String {
    let (name, version) = (name.to_uppercase(), env!("CARGO_PKG_VERSION"));
    format!(".TH {} {section} {DATE} \"dflock {version}\" \"dflock manual\"\n", roff::quoted(&name))
}

/// Prose with its tables filled in.
fn body(prose: &str) -> String {
    let mut filled = prose.replace("{{exit codes}}\n", &exit_codes());
    for (name, variable, default) in settings::known_settings() {
        let default = if default.is_empty() { "none" } else { default };
        let head = format!("**{name}**\n: Variable `{variable}`, default: {default}.\n");
        filled = filled.replace(&format!("{{{{setting {name}}}}}\n"), &head);
    }
    roff::render(&filled)
}

/// The table of `error.rs`, what is the command's own first.
fn exit_codes() -> String {
    let mut rows = "the command's\n: it ran under the lock throughout; if a signal killed it, dflock dies of the same \
                    signal (a shell shows 128+n)\n"
        .to_owned();
    for (at, row) in TABLE.iter().enumerate() {
        let is_another_of_the_last = at > 0 && TABLE[at - 1].exit == row.exit;
        if is_another_of_the_last {
            rows.push_str(&format!("or {} (`{}`)\n", row.meaning, row.name));
        } else {
            rows.push_str(&format!("**{}**\n: {} (`{}`)\n", row.exit, row.meaning, row.name));
        }
    }
    rows.push_str("128+n\n: a signal ended dflock while it waited; it dies of that signal\n");
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_described() {
        for (name, ..) in settings::known_settings() {
            let mark = format!("{{{{setting {name}}}}}\n");
            assert!(include_str!("prose/config.5.md").contains(&mark), "prose/config.5.md says nothing of {name}");
        }
    }

    #[test]
    fn no_mark_is_broken_over_lines() {
        for (name, prose) in PROSE.iter().chain([&("dflock", include_str!("prose/dflock.md"))]) {
            for line in prose.lines().filter(|line| !line.starts_with("```")) {
                let is_even = |mark: &str| line.matches(mark).count() % 2 == 0;
                assert!(is_even("`") && is_even("**"), "prose of {name}: {line}");
            }
        }
    }

    #[test]
    fn nothing_is_left_open() {
        let verbs = PROSE.map(|(name, _)| Command::new(name));
        for (name, page) in pages(Command::new("dflock").subcommands(verbs)) {
            assert!(!page.contains("{{"), "{name}: {page}");
        }
    }
}
