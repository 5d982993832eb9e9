//! Settings that do not say what their writer meant: told, or refused, never passed over in silence.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::client_fakes::closed_port;
use crate::client_house::{Desk, finish};
use crate::house::Server;
use crate::house::tools::skipped;

/// What the package installs as the settings of the host.
pub const PACKAGED: &str = include_str!("../../.packaging/config.toml");

const VERBS: [&[&str]; 4] = [&["config"], &["acquire", "k"], &["status", "k"], &["exec", "e", "true"]];

#[test]
fn an_unknown_variable_is_told_with_what_it_may_mean() {
    let server = Server::start(&[]);
    for (name, remark) in [
        ("DFLOCK_TIMEOT", "DFLOCK_TIMEOT is not a setting; did you mean DFLOCK_TIMEOUT?"),
        ("DFLOCK_AUTH_TOKENFILE", "DFLOCK_AUTH_TOKENFILE is not a setting; did you mean DFLOCK_AUTH_TOKEN_FILE?"),
        ("DFLOCK_COLOUR", "DFLOCK_COLOUR is not a setting; man dflock-config lists them"),
        ("DFLOCK_PORT", "DFLOCK_PORT is not a setting; man dflock-config lists them"),
    ] {
        let desk = Desk::at(&server.address).with(name, "7000");
        for verb in VERBS {
            let said = desk.run(verb);
            assert_eq!((said.code, said.err), (Some(0), format!("dflock: {remark}\n")), "{verb:?}");
        }
        desk.run(&["release", "k"]);
    }
    // What exec and acquire set, what is empty, and what Kubernetes puts there for a service called dflock.
    for (name, value) in [
        ("DFLOCK_HELD", "other"),
        ("DFLOCK_LEASE", "33"),
        ("DFLOCK_SERVICE_HOST", "10.0.0.1"),
        ("DFLOCK_SERVICE_PORT_TCP", "6388"),
        ("DFLOCK_PORT", "tcp://10.0.0.1:6388"),
        ("DFLOCK_PORT_6388_TCP_PROTO", "tcp"),
        ("DFLOCK_SERVER_PORT_6388_TCP_ADDR", "10.0.0.1"),
        ("DFLOCKD_PORT", "7000"),
    ] {
        let desk = Desk::at(&server.address).with(name, value);
        assert_eq!(desk.run(&["exec", "k", "true"]).err, "", "{name}={value}");
    }
    let desk = Desk::at(&server.address);
    let mut command = desk.command(&["exec", "k", "true"]);
    command.env("DFLOCK_TIMEOT", "");
    assert_eq!(finish(command).err, "");
}

/// It must not mean the server of this machine.
#[test]
fn a_misspelt_name_of_the_servers_is_an_error() {
    for name in ["DFLOCK_SERVER", "DFLOCK_SERVES", "DFLOCK_SEVERS"] {
        let desk = Desk::new().with(name, "lock1:6388");
        for verb in VERBS {
            let said = desk.refuses(verb, 125, &[name, "DFLOCK_SERVERS=lock1:6388"]);
            assert_eq!(said.err.lines().count(), 2, "{said:?}");
        }
        assert_eq!(desk.json(&["acquire", "k", "--json"])["error"], "usage");
        // Whoever names the servers as well, or is asked nothing of a server, is only told.
        for (args, code) in [(&["acquire", "k", "-s", "127.0.0.1:1"] as &[&str], 69), (&["config", "-s", "a:1"], 0)] {
            let said = desk.run(args);
            assert_eq!(said.code, Some(code), "{args:?}: {said:?}");
            assert!(said.err.contains(&format!("{name} is not a setting; did you mean DFLOCK_SERVERS?")), "{said:?}");
        }
        desk.ok(&["holders"]);
    }
    for name in ["dflock_servers", "DFLOCKD_SERVERS"] {
        let desk = Desk::new().with(name, "lock1:6388");
        desk.refuses(&["acquire", "k"], 125, &[name, "DFLOCK_SERVERS=lock1:6388"]);
        // They may be another program's, and are only told where somebody names the servers.
        desk.file("config/dflock/config.toml", "servers = \"127.0.0.1:1\"\n", 0o644);
        let said = desk.run(&["config"]);
        assert!(said.code == Some(0) && said.err.contains("did you mean DFLOCK_SERVERS?"), "{said:?}");
    }
    // In a file is further away than in the environment.
    let desk = Desk::new().with("DFLOCK_SERVER", "lock1:6388");
    desk.file("config/dflock/config.toml", "servers = \"127.0.0.1:1\"\n", 0o644);
    desk.refuses(&["acquire", "k"], 125, &["DFLOCK_SERVER"]);
}

/// There it says who has granted the lock.
#[test]
fn inside_a_job_the_variable_is_ours() {
    let server = Server::start(&[]);
    let desk = Desk::at(&server.address);
    let dflock = env!("CARGO_BIN_EXE_dflock");
    let inner = format!("{dflock} exec other true && {dflock} renew outer >renewed");
    assert_eq!(desk.ok(&["exec", "outer", "--", "sh", "-c", &inner]), "");
    let script = format!("lock=$({dflock} acquire k --export) || exit; eval \"$lock\"; {dflock} release k");
    let mut command = Command::new("sh");
    let env = desk.command(&[]);
    command.args(["-c", &script]).env_clear().current_dir(desk.path());
    command.envs(env.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let said = finish(command);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
}

#[test]
fn a_settings_file_that_cannot_be_read_is_an_error_at_once() {
    let path = |desk: &Desk| desk.path().join("config/dflock/config.toml");
    let within = |make: &dyn Fn(&Desk), part: &str| {
        let desk = Desk::at("127.0.0.1:1");
        std::fs::create_dir_all(desk.path().join("config")).expect("a directory");
        make(&desk);
        for verb in VERBS {
            let said = desk.refuses(verb, 125, &["config/dflock", part]);
            assert_eq!(said.err.lines().count(), 2, "{verb:?}: {said:?}");
            assert!(said.took < std::time::Duration::from_secs(10), "{verb:?} hangs: {said:?}");
        }
    };
    let in_dir = |desk: &Desk| std::fs::create_dir_all(desk.path().join("config/dflock")).expect("a directory");
    let link = |to: &str, at: std::path::PathBuf| std::os::unix::fs::symlink(to, at).expect("a link");
    within(
        &|desk| {
            in_dir(desk);
            link("/nowhere/else", path(desk))
        },
        "a link to what is not there",
    );
    within(&|desk| link("/nowhere", desk.path().join("config/dflock")), "a link to what is not there");
    within(
        &|desk| {
            in_dir(desk);
            link("config.toml", path(desk))
        },
        "cannot read",
    );
    within(
        &|desk| {
            in_dir(desk);
            std::fs::create_dir(path(desk)).expect("a directory")
        },
        "a directory",
    );
    within(
        &|desk| {
            in_dir(desk);
            nix::unistd::mkfifo(&path(desk), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO")
        },
        "not a regular file",
    );
    within(&|desk| drop(desk.file("config/dflock", "autostart = false\n", 0o644)), "a file, and not the directory");
    for home in ["config", "config/deeper", "config/deeper/still"] {
        for to in ["/nowhere", "file"] {
            let desk = Desk::at("127.0.0.1:1");
            desk.file("file", "", 0o644);
            let to = if to == "file" { desk.path().join(to) } else { to.into() };
            let place = desk.path().join("home");
            link(&to.display().to_string(), place.clone());
            let mut command = desk.command(&["config"]);
            let below = home.strip_prefix("config").unwrap_or_default();
            command.env("XDG_CONFIG_HOME", format!("{}{below}", place.display()));
            let said = finish(command);
            assert_eq!(said.code, Some(125), "{said:?}");
            assert!(said.err.contains(&place.display().to_string()) && !said.err.contains("deeper"), "{said:?}");
        }
    }
    within(&|desk| drop(desk.file("config/dflock/config.toml", &"#\n".repeat(1 << 20), 0o644)), "larger than");
    // A home that is none has no settings.
    for home in ["/dev/null", "/nonexistent"] {
        let desk = Desk::at("127.0.0.1:1");
        let mut command = desk.command(&["config"]);
        command.env("HOME", home).env_remove("XDG_CONFIG_HOME");
        assert_eq!(finish(command).code, Some(0), "{home}");
    }
}

/// Whoever cleans the environment must not be given another server than everybody else of the account.
#[test]
fn without_a_home_the_settings_are_those_of_the_account() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("only root can show another file of accounts");
    }
    let desk = Desk::new().with("DFLOCK_AUTOSTART", "");
    let accounts = desk.file("accounts", &format!("root:x:0:0::{}/home:/bin/sh\n", desk.path().display()), 0o644);
    let show = |home: Option<&str>| {
        let env = desk.command(&[]);
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", r#"mount --bind "$0" /etc/passwd && exec "$@""#, &accounts]);
        command.args([env!("CARGO_BIN_EXE_dflock"), "config", "--json"]).env_clear();
        command.envs(env.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("PATH", "/usr/bin:/bin");
        command.env_remove("XDG_CONFIG_HOME").env_remove("HOME").envs(home.map(|home| ("HOME", home)));
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        finish(command)
    };
    if show(None).err.contains("mount") {
        return skipped("nothing can be mounted here");
    }
    let file = desk.file("home/.config/dflock/config.toml", "servers = \"lock1:6388\"\nautostart = false\n", 0o644);
    for home in [None, Some(""), Some("relative")] {
        let said = show(home);
        assert!(
            said.code == Some(0) && said.out.contains("lock1:6388") && said.out.contains(&file),
            "{home:?}: {said:?}"
        );
    }
    // One that is set counts.
    assert!(!show(Some("/nonexistent")).out.contains("lock1"));
    let home = desk.path().join("home");
    std::fs::rename(home.join(".config"), home.join("elsewhere")).expect("it is moved");
    std::os::unix::fs::symlink("/nowhere", home.join(".config")).expect("a link");
    let said = show(None);
    assert!(said.code == Some(125) && said.out.contains(".config: it is a link to what is not there"), "{said:?}");
}

/// In a pod there are such names whether somebody wants them or not.
#[test]
fn services_of_kubernetes_name_no_server_and_say_so() {
    let services = [
        ("DFLOCK_SERVER_SERVICE_HOST", "10.0.0.1"),
        ("DFLOCK_SERVER_SERVICE_PORT", "6388"),
        ("DFLOCK_SERVER_PORT", "tcp://10.0.0.1:6388"),
    ];
    let in_pod = |desk: Desk| services.into_iter().fold(desk, |desk, (name, value)| desk.with(name, value));
    let said = in_pod(Desk::new()).run(&["config"]);
    let remark = "DFLOCK_SERVER_SERVICE_HOST is of a service of Kubernetes, and is not asked unless \
        DFLOCK_SERVERS=dflock-server names it";
    assert_eq!((said.code, said.err), (Some(0), format!("dflock: {remark}\n")));
    assert_eq!(in_pod(Desk::at("127.0.0.1:1")).run(&["config"]).err, "");
    let said = in_pod(Desk::new()).with("DFLOCK_SERVER", "lock1").run(&["config"]);
    assert_eq!(said.code, Some(125), "{said:?}");
}

#[test]
fn a_settings_file_that_we_may_not_read_is_an_error() {
    if nix::unistd::geteuid().is_root() && !crate::house::tools::is_there("setpriv") {
        return;
    }
    let desk = Desk::at("127.0.0.1:1");
    let path = desk.file("config/dflock/config.toml", "autostart = false\n", 0o000);
    let mut command = desk.command(&["config"]);
    if nix::unistd::geteuid().is_root() {
        std::fs::set_permissions(desk.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
        let program = desk.path().join("dflock");
        std::fs::copy(env!("CARGO_BIN_EXE_dflock"), &program).expect("a copy");
        let env: Vec<_> = command.get_envs().filter_map(|(n, v)| Some((n.to_owned(), v?.to_owned()))).collect();
        command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).arg("config").envs(env);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    }
    let said = finish(command);
    assert_eq!(said.code, Some(125), "{said:?}");
    assert!(said.err.contains(&path) && said.err.contains("Permission denied"), "{said:?}");
}

/// A fleet must not have a server on each host. (See also the tests of the server that is started by itself.)
#[test]
fn the_package_turns_the_start_of_a_server_off() {
    let desk = Desk::new().with("DFLOCK_AUTOSTART", "");
    desk.file("config/dflock/config.toml", PACKAGED, 0o644);
    let settings = desk.json(&["config", "--json"]);
    let autostart = settings["settings"].as_array().expect("a list").iter().find(|row| row["name"] == "autostart");
    assert_eq!(autostart.expect("a row")["value"], "false");
}

/// Whoever writes the settings says where secrets go, and who grants the locks.
#[test]
fn settings_that_others_write_are_refused() {
    let server = Server::start(&[]);
    let desk = Desk::at(&server.address);
    let file = desk.file("config/dflock/config.toml", "timeout = 5\n", 0o644);
    desk.ok(&["exec", "k", "true"]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).expect("a mode");
    for verb in VERBS {
        desk.refuses(verb, 125, &[&file, "everybody may write to it (mode 666)", "chmod o-w"]);
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    if !nix::unistd::geteuid().is_root() {
        skipped("only root can give a file away");
        return;
    }
    std::os::unix::fs::chown(&file, Some(65534), Some(65534)).expect("another owner");
    for verb in VERBS {
        desk.refuses(verb, 125, &[&file, "belongs to another user (uid 65534), and we are uid 0", "sudo -H"]);
    }
}

/// Whoever names an authority means TLS, and was given clear text.
#[test]
fn what_is_about_tls_means_tls() {
    let server = Server::start(&[]);
    let desk = Desk::at(&server.address);
    let ca = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).expect("a certificate");
    let pem = desk.file("ca.pem", &ca.cert.pem(), 0o644);
    let key = desk.file("ca.key", &ca.signing_key.serialize_pem(), 0o600);
    for flags in
        [&["--tls-ca", &pem] as &[&str], &["--tls-name", "localhost"], &["--tls-cert", &pem, "--tls-key", &key]]
    {
        desk.refuses(&[&["acquire", "k"], flags].concat(), 76, &["does not speak TLS", flags[0]]);
    }
    let anybodys = desk.file("anybodys.pem", &ca.cert.pem(), 0o666);
    desk.refuses(&["acquire", "k", "--tls-ca", &anybodys], 125, &["everybody may write to", &anybodys, "chmod o-w"]);
    let by_variable = Desk::at(&server.address).with("DFLOCK_TLS_CA", &pem);
    by_variable.refuses(&["acquire", "k"], 76, &["does not speak TLS"]);
    // The nearer one counts; at the same distance they contradict each other.
    let off = Desk::at(&server.address).with("DFLOCK_TLS", "0");
    off.file("config/dflock/config.toml", &format!("tls_ca = {pem:?}\n"), 0o644);
    off.ok(&["exec", "k", "true"]);
    off.refuses(&["acquire", "k", "--tls-name", "x"], 76, &["does not speak TLS"]);
    let both = Desk::at(&server.address);
    let path = both.file("config/dflock/config.toml", &format!("tls = false\ntls_ca = {pem:?}\n"), 0o644);
    both.refuses(&["acquire", "k"], 125, &[&path, "tls = false", "tls_ca"]);
    // Nor can a socket file have it.
    let unix = Desk::at("unix:/run/none.sock");
    for flags in [&["--tls"] as &[&str], &["--tls-ca", &pem], &["--tls-name", "x"]] {
        unix.refuses(&[&["acquire", "k"], flags].concat(), 125, &["unix:/run/none.sock", "TLS", flags[0]]);
    }
    let unix = Desk::at("unix:/run/none.sock");
    unix.file("config/dflock/config.toml", &format!("tls_ca = {pem:?}\n"), 0o644);
    unix.refuses(&["acquire", "k"], 69, &["no such socket"]);
    let said = Desk::at(&closed_port()).with("DFLOCK_TLS_CA", &pem).run(&["config"]);
    assert!(said.out.lines().any(|line| line.starts_with("tls ") && line.contains("true")), "{said:?}");
}

/// Of the lease and the grace a user may have a word for all commands.
#[test]
fn the_lease_and_the_grace_are_settings() {
    let server = Server::start(&[]);
    let desk = Desk::at(&server.address);
    let lease = |desk: &Desk, flags: &[&str]| {
        let args = [&["exec", "k"], flags, &["sh", "-c", "echo $DFLOCK_LEASE"]].concat();
        desk.ok(&args)
    };
    assert_eq!(lease(&desk, &[]), "33");
    let path = desk.file("config/dflock/config.toml", "lease = \"2m\"\nkill_after = \"1m\"\n", 0o644);
    assert_eq!(lease(&desk, &[]), "120");
    assert_eq!(lease(&desk, &["-l", "50"]), "50");
    let document = desk.json(&["acquire", "held", "--json"]);
    assert_eq!(document["lease_s"], 120.0);
    desk.ok(&["release", "held"]);
    let desk = desk.with("DFLOCK_DEFAULT_LEASE", "70");
    assert_eq!(lease(&desk, &[]), "70");
    // What a job is told of its own lock is no setting for the next.
    assert_eq!(lease(&desk.with("DFLOCK_LEASE", "90"), &[]), "70");
    for (text, part) in
        [("lease = 0\n", "lease = 0: a lease must be at least 1s"), ("kill_after = \"x\"\n", "kill_after = x")]
    {
        let desk = Desk::at(&server.address);
        let path = desk.file("config/dflock/config.toml", text, 0o644);
        desk.refuses(&["exec", "k", "true"], 125, &[&path, part]);
    }
    let desk = Desk::at(&server.address);
    desk.file("config/dflock/config.toml", "lease = 1\n", 0o644);
    desk.refuses(&["exec", "k", "true"], 125, &["1s", "2s", "config.toml"]);
    drop(path);
}
