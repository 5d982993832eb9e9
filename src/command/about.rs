//! What dflock says of itself: first steps, its version, and what every verb's help ends with.

use std::sync::OnceLock;

use clap::Command;

use crate::net::tls;

/// For whoever types `dflock` and nothing else.
pub const FIRST_STEPS: &str = "\
dflock runs a command while holding a lock: on this machine, or on all that name the same lock server.

  dflock exec demo -- echo \"only one of us at a time\"
  dflock exec -n nightly -- ./backup.sh      not now, if it runs elsewhere

  lock=$(dflock acquire deploy --export) || exit; eval \"$lock\"
                                             a lock for the rest of a script

Nothing has to be set up first: without DFLOCK_SERVERS, a server on this machine is started when it is needed.

dflock --help lists the verbs, dflock VERB --help tells all about one, and man dflock is the manual.
";

/// Packagers say which commit; a release build in a clone asks git, and a debug build would be built anew with
/// every commit.
const COMMIT: &str = match option_env!("DFLOCK_COMMIT") {
    Some(commit) => commit,
    None => BUILT_FROM,
};

#[cfg(not(debug_assertions))]
const BUILT_FROM: &str = git_version::git_version!(
    args = ["--always", "--exclude=*", "--abbrev=12", "--dirty=-modified"],
    fallback = "unknown"
);

#[cfg(debug_assertions)]
const BUILT_FROM: &str = "unknown (a debug build)";

/// For `--version`; the first line is that of `-V`.
pub fn version() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    let version = env!("CARGO_PKG_VERSION");
    TEXT.get_or_init(|| format!("{version}\ncommit {COMMIT}\nTLS by {}", tls::PROVIDER))
}

const DURATIONS: &str = "Durations: 30 is seconds; 250ms, 1.5s, 5m, 1h30m, 2d and 1w are possible too.";

/// A verb whose help also says what a duration is, where it takes one, and where to read on.
pub fn with_end(verb: Command) -> Command {
    let takes_durations = verb.get_arguments().any(|argument| {
        argument.get_value_names().is_some_and(|names| names.iter().any(|name| name.as_str() == "DUR"))
    });
    let mut end = verb.get_after_help().map(|text| format!("{text}\n\n")).unwrap_or_default();
    if takes_durations {
        end.push_str(DURATIONS);
        end.push('\n');
    }
    end.push_str(&format!("More: man dflock-{}", verb.get_name()));
    verb.after_help(end)
}
