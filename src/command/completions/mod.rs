//! `dflock completions`: the script that completes dflock's command line in a shell.
//!
//! clap makes the script from the same types that read the command line. What it leaves out is added here: the
//! keys that holders of this user have, and the command behind `exec KEY`.

use clap::builder::PossibleValuesParser;
use clap::{Arg, Args, Command, ValueHint};
use clap_complete::{Shell, generate};

use crate::error::Failure;
use crate::output;

/// Print the script that completes dflock's command line in a shell
///
/// Verbs, flags and their values are completed, and the keys that your holders have for release, renew and
/// wait. No completion ever asks a server.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  dflock completions bash > ~/.local/share/bash-completion/completions/dflock
  dflock completions fish > ~/.config/fish/completions/dflock.fish")]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

impl Completions {
    /// `command` describes every verb.
    pub fn run(self, command: Command) -> Result<u8, Failure> {
        output::plain(&script(self.shell, command))?;
        Ok(0)
    }
}

/// The verbs whose key is one that a holder has, as `dflock holders --keys --for` names them.
const KEYED: [&str; 6] = ["release", "renew", "wait", "sem-release", "sem-renew", "sem-wait"];

const SIGNALS: [&str; 6] = ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2"];

fn script(shell: Shell, command: Command) -> String {
    let mut command = hinted(command, "");
    let valued = flags_with_values(&command).join(" ");
    let mut text = Vec::new();
    generate(shell, &mut command, "dflock", &mut text);
    let mut text = String::from_utf8_lossy(&text).into_owned();
    match shell {
        Shell::Bash => {
            text = text.replace("complete -F _dflock ", "complete -F _dflock_or_keys ");
            text.push_str(&include_str!("keys.bash").replace("@VALUED@", &valued));
        }
        Shell::Zsh => {
            for verb in KEYED {
                text = text.replace(&format!("{}:", marker(verb)), &format!("Name of the lock:_dflock_keys {verb}"));
            }
            // Two colons would count the key as the first word of the command.
            text = text.replace("'*::program ", "'*:::program ");
            // A function must be there before the last lines call the first one.
            text = text.replacen("\n_dflock() {\n", &format!("\n{}\n_dflock() {{\n", include_str!("keys.zsh")), 1);
        }
        Shell::Fish => text.push_str(&include_str!("keys.fish").replace("@VALUED@", &valued)),
        Shell::Elvish => {
            for verb in KEYED {
                let place = format!("&'dflock;{}'= {{\n", verb.replace('-', ";"));
                text = text.replace(&place, &format!("{place}            keys {verb}\n"));
            }
            text = text.replacen("    fn cand ", &format!("{}    fn cand ", include_str!("keys.elv")), 1);
        }
        Shell::PowerShell => {
            for verb in KEYED {
                let place = format!("'dflock;{}' {{\n", verb.replace('-', ";"));
                let keys = include_str!("keys.ps1").replace("@VERB@", verb);
                text = text.replace(&place, &format!("{place}{keys}"));
            }
        }
        _ => {}
    }
    text
}

/// The command line with a hint at every value, by which a shell knows what to offer.
fn hinted(command: Command, path: &str) -> Command {
    let keyed = KEYED.iter().find(|verb| **verb == path);
    let command = command.mut_args(|argument| {
        let argument = hint(argument);
        match keyed {
            Some(verb) if argument.get_id() == "key" => argument.help(marker(verb)),
            _ => argument,
        }
    });
    command.mut_subcommands(|verb| {
        let name = verb.get_name().to_owned();
        let path = if path.is_empty() { name } else { format!("{path}-{name}") };
        hinted(verb, &path)
    })
}

/// Where a script gets the keys of a verb: only zsh's can be told inside clap's text.
fn marker(verb: &str) -> String {
    format!("<keys of {verb}>")
}

fn hint(argument: Arg) -> Arg {
    let name = argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    let known = |values: &[&'static str]| PossibleValuesParser::new(values.iter().copied());
    match (name.as_deref(), argument.get_id().as_str()) {
        (None, _) => argument,
        _ if !argument.get_possible_values().is_empty() => argument,
        (Some("FILE"), _) => argument.value_hint(ValueHint::FilePath),
        (Some("DIR"), _) => argument.value_hint(ValueHint::DirPath),
        (Some("CMD"), _) => argument.value_hint(ValueHint::CommandWithArguments),
        (Some("STRING"), _) => argument.value_hint(ValueHint::CommandString),
        (Some("SIGNAL"), _) => argument.value_parser(known(&SIGNALS)),
        (Some("BOOL"), _) => argument.value_parser(known(&["true", "false"])),
        (_, "timeout") => argument.value_parser(known(&["forever"])),
        (_, "owner") => argument.value_parser(known(&["none"])),
        _ => argument.value_hint(ValueHint::Other),
    }
}

/// Every flag, of whatever verb, behind which comes a value.
fn flags_with_values(command: &Command) -> Vec<String> {
    let mut flags: Vec<String> = Vec::new();
    for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
        flags.extend(argument.get_short().map(|short| format!("-{short}")));
        let by_itself = !argument.is_require_equals_set();
        flags.extend(argument.get_long().filter(|_| by_itself).map(|long| format!("--{long}")));
    }
    flags.extend(command.get_subcommands().flat_map(flags_with_values));
    flags.sort();
    flags.dedup();
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_about_a_holder_gets_its_keys() {
        let key = || Arg::new("key").value_name("KEY").required(true);
        let verbs = ["release", "renew", "wait"].map(|name| Command::new(name).arg(key()));
        let sem = Command::new("sem").subcommands(verbs.clone());
        let command = Command::new("dflock").subcommands(verbs).subcommand(sem);
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let text = script(shell, command.clone());
            assert!(!text.contains("@VALUED@") && !text.contains("<keys of"), "{shell}: {text}");
            for verb in KEYED {
                // The others are told their verb when Tab is pressed.
                let knows = text.contains(&format!("keys {verb}")) || text.contains(&format!("--for {verb}"));
                assert!(knows || matches!(shell, Shell::Bash | Shell::Fish), "{shell} {verb}");
            }
        }
    }
}
