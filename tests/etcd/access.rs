//! Users, permissions, TLS, and clusters that are not there or not what was meant.

use std::net::TcpListener;
use std::time::Duration;

use crate::certificates::Authority;
use crate::house::clean::House;
use crate::house::etcd::{Etcd, is_here};
use crate::house::{lasting_listener, now};
use crate::own;
use crate::start::private_file;

const NOBODY: [&str; 4] = ["--owner", "none", "--max-hold", "60s"];

#[test]
fn users_and_permissions() {
    let Some((etcd, house)) = own("users_and_permissions", 1) else { return };
    for args in [
        &["user", "add", "root:rootpw"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "ann:annpw"],
        &["role", "add", "locks"],
        &["role", "grant-permission", "locks", "--prefix=true", "readwrite", "dflock/lock/"],
        &["user", "grant-role", "ann", "locks"],
        &["auth", "enable"],
    ] {
        let said = etcd.ctl(args);
        // The role `root` is there in older versions, and must be made in newer ones.
        assert!(said.code == 0 || args[1] == "grant-role", "{args:?}: {said:?}");
    }
    let said = house.dflock(&["exec", "k", "--", "touch", "child"]).code(77);
    assert!(said.err.contains("asks for a user"), "{said:?}");

    let home = house.home.path();
    let right = private_file(home, "right", "annpw\n");
    let wrong = private_file(home, "wrong", "nopw");
    let with = |file: &str, args: &[&str]| {
        let login = ["--etcd-user", "ann", "--etcd-password-file", file];
        house.dflock(&[&args[..1], &login[..], &args[1..]].concat())
    };
    let said = with(&wrong, &["exec", "k", "--", "touch", "child"]).code(77);
    assert!(said.err.contains("the user or the password was refused"), "{said:?}");
    with(&right, &["exec", "k", "--", "true"]).ok();
    let said = with(&right, &["exec", "--limit", "2", "k", "--", "touch", "child"]).code(77);
    assert!(said.err.contains("may not read and write"), "{said:?}");
    assert!(!house.path("child").exists());
    // Holders log in too, and so does who releases by token from elsewhere; the password may be a variable.
    let token = with(&right, &[&["acquire", "k"], &NOBODY[..]].concat()).ok().to_owned();
    with(&right, &["renew", "k", &token]).ok();
    let elsewhere = House::at(&house.servers);
    let mut command = elsewhere.command("dflock");
    command.env("DFLOCK_ETCD_USER", "ann").env("DFLOCK_ETCD_PASSWORD", "annpw").args(["release", "k", &token]);
    crate::house::clean::finish(command.spawn().expect("dflock starts")).ok();
    let said = with(&right, &["config"]);
    assert!(!said.out.contains("annpw"), "{said:?}");

    // Logins are in a member's memory: one that is restarted knows none.
    let running = house.start(&[
        "exec",
        "-l",
        "12",
        "--etcd-user",
        "ann",
        "--etcd-password-file",
        &right,
        "k",
        "-c",
        "echo > up; read -r _ < go; exit 5",
    ]);
    let go = house.gate("go");
    house.wait_for_file("up");
    etcd.kill(0);
    etcd.launch(0);
    let begin = now();
    // Longer than the lease: without a new login it would be lost.
    crate::house::wait_for("the lease to have been renewed", || {
        (begin.elapsed() > Duration::from_secs(14)).then_some(())
    });
    go.open();
    running.finish().code(5);
}

#[test]
fn a_password_is_kept() {
    if !is_here("a_password_is_kept") {
        return;
    }
    let house = House::at("etcd://192.0.2.1:2379");
    let open = house.path("open");
    std::fs::write(&open, "pw").expect("a file");
    let open = open.display().to_string();
    let said = house.dflock(&["exec", "--etcd-user", "u", "--etcd-password-file", &open, "k", "true"]).code(125);
    assert!(said.err.contains("others may read"), "{said:?}");
    house.dflock(&["exec", "--etcd-user", "u", "k", "true"]).code(125);
    let private = private_file(house.home.path(), "private", "pw");
    let login = ["exec", "--etcd-user", "u", "--etcd-password-file", &private];
    let said = house.dflock(&[&login[..], &["k", "--", "true"]].concat()).code(77);
    assert!(said.err.contains("would be sent in clear text"), "{said:?}");
    // Nobody is there, or a proxy of this network.
    let more = ["--allow-plaintext-token", "--connect-timeout", "0.3s", "-w", "1", "k", "--", "true"];
    let said = house.dflock(&[&login[..], &more[..]].concat());
    assert!(matches!(said.code, 69 | 76), "{said:?}");
    std::fs::create_dir_all(house.path(".config/dflock")).expect("a directory");
    std::fs::write(house.path(".config/dflock/config.toml"), "etcd_password = \"pw\"\n").expect("a file");
    let said = house.dflock(&["config"]).code(125);
    assert!(said.err.contains("does not belong here"), "{said:?}");
}

#[test]
fn tls() {
    if !is_here("tls") {
        return;
    }
    let authority = Authority::new("ours");
    let other = Authority::new("another");
    let mut identity = None;
    let etcd = Etcd::start_with(1, "https", |home| {
        let (cert, key) = authority.issue("127.0.0.1").write(home, "server");
        let ca = authority.write(home, "ca.crt");
        let (client_cert, client_key) = authority.issue("client").write(home, "client");
        let other_ca = other.write(home, "other.crt");
        identity = Some((ca.clone(), client_cert, client_key, other_ca));
        ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"]
            .map(str::to_owned)
            .to_vec()
    });
    let (ca, cert, key, other_ca) = identity.expect("made above");
    crate::house::wait_for("etcd to serve", || {
        (etcd.ctl(&["--cacert", &ca, "--cert", &cert, "--key", &key, "put", "a", "b"]).code == 0).then_some(())
    });
    let house = House::at(&etcd.servers());
    let run =
        |flags: &[&str]| house.dflock(&[&["exec", "-w", "5"], flags, &["k", "--", "sh", "-c", "echo ran"]].concat());
    assert_eq!(run(&["--tls", "--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key]).ok(), "ran");
    let said = run(&["--tls", "--tls-ca", &other_ca, "--tls-cert", &cert, "--tls-key", &key]).code(77);
    assert!(said.err.contains("authority that is not known here"), "{said:?}");
    let said = run(&["--tls", "--tls-ca", &ca]).code(77);
    assert!(said.err.contains("client certificate"), "{said:?}");
    let said =
        run(&["--tls", "--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key, "--tls-name", "x.test"]).code(77);
    assert!(said.err.contains("its certificate is not for"), "{said:?}");
    let said = run(&[]).code(69);
    assert!(said.err.contains("--tls"), "{said:?}");
}

#[test]
fn nobody_there_or_somebody_else() {
    if !is_here("nobody_there_or_somebody_else") {
        return;
    }
    // Nothing listens; and something that never answers.
    let free = lasting_listener().local_addr().expect("an address");
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute_at = mute.local_addr().expect("an address");
    for (servers, flags) in [(format!("etcd://{free}"), &[][..]), (format!("etcd://{mute_at},{free}"), &["-w", "2"])] {
        let begin = now();
        let house = House::at(&servers);
        let said = house.dflock(&[&["exec"], flags, &["k", "--", "touch", "child"]].concat()).code(69);
        assert!(begin.elapsed() < Duration::from_secs(8), "{said:?} after {:?}", begin.elapsed());
        assert!(!house.path("child").exists());
    }
    // A lock server that is no etcd.
    let house = House::new();
    let said = house.dflock(&[
        "exec",
        "--servers",
        &format!("etcd://{}", house.servers),
        "-w",
        "2",
        "k",
        "--",
        "touch",
        "child",
    ]);
    assert!(matches!(said.code, 69 | 76), "{said:?}");
    assert!(!house.path("child").exists());
}

#[test]
fn members_of_two_clusters() {
    let Some((one, _)) = own("members_of_two_clusters", 1) else { return };
    let other = Etcd::start(1).ready();
    let house = House::at(&format!("etcd://{},{}", one.address(0), other.address(0)));
    let script = "echo > up; exec sleep 100";
    let running = house.start(&["exec", "-l", "5", "k", "-c", script]);
    house.wait_for_file("up");
    // The other one knows nothing of the lock, and must not be believed in either way.
    one.kill(0);
    let said = running.finish().code(79);
    assert!(said.err.contains("the lock was lost"), "{said:?}");
    let said = House::at(&house.servers).dflock(&["exec", "k", "--", "true"]);
    println!("{said:?}");
}
