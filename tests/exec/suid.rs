//! A command that changed its user (`sudo`, any set-uid program) cannot be signalled by the user who started it: it
//! is not gone because of that, and its lock is not free.
//!
//! Needs root, who starts dflock as somebody else and has a set-uid program made.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::house::clean::{House, Running, Said};
use crate::house::proxy::Proxy;
use crate::house::tools::{NOBODY, is_there, skipped};
use crate::house::{now, wait_for};

/// A house whose user is nobody, with a program `become-root` in it that runs another one as root, whoever starts it.
struct OtherUser {
    house: House,
}

/// Makes a house nobody's, with the program in it; `false` where that cannot be.
pub(crate) fn furnish_for_nobody(house: &House) -> bool {
    if !nix::unistd::geteuid().is_root() {
        skipped("only root can become somebody else and make a set-uid program");
        return false;
    }
    if !is_there("setpriv") {
        return false;
    }
    let program = house.path("become-root");
    let found = Command::new("/bin/sh").args(["-c", "command -v setpriv"]).output().expect("sh runs").stdout;
    std::fs::copy(String::from_utf8_lossy(&found).trim(), &program).expect("a copy");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).expect("set-uid");
    for place in [house.home.path(), &house.runtime] {
        std::os::unix::fs::chown(place, Some(NOBODY), Some(NOBODY)).expect("nobody has a home");
    }
    let mut version = house.command("dflock");
    version.uid(NOBODY).gid(NOBODY).arg("--version").stdout(Stdio::null());
    if !version.status().is_ok_and(|status| status.success()) {
        skipped("the program cannot be run as another user here");
        return false;
    }
    let mut id = Command::new(&program);
    id.args(["--reuid=0", "id", "-ru"]).uid(NOBODY).gid(NOBODY);
    if String::from_utf8_lossy(&id.output().expect("it runs").stdout).trim() != "0" {
        skipped("set-uid programs do not change their user here");
        return false;
    }
    true
}

impl OtherUser {
    /// `None` where that cannot be.
    fn new() -> Option<OtherUser> {
        let house = House::new();
        furnish_for_nobody(&house).then_some(OtherUser { house })
    }

    fn command(&self) -> Command {
        let mut command = self.house.command("dflock");
        command.uid(NOBODY).gid(NOBODY);
        command
    }

    fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command().args(args))
    }

    fn dflock(&self, args: &[&str]) -> Said {
        self.start(args).finish()
    }
}

/// A job of root's: tells its number, and ends when nobody needs it any more.
const ROOT_JOB: &str = "trap '' TERM; echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done";

/// Runs it. A set-uid program that keeps its real user could still be signalled; `sudo` does not, and nor does this.
const AS_ROOT: &str = "./become-root --reuid=0 sh -c \"$JOB\"";

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, tail)| !tail.trim_start().starts_with(['Z', 'X']))
}

fn pid_in(house: &House, file: &str) -> u32 {
    house.wait_for_file(file).trim().parse().expect("a number")
}

/// An observation: as long as the job lives, its lock is nobody else's.
fn observe_that_it_is_held(other: &OtherUser, job: u32, window: Duration) {
    let begin = now();
    while begin.elapsed() < window {
        other.house.dflock(&["exec", "-n", "k", "true"]).code(75);
        assert!(is_alive(job), "the job is there all the while");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn a_command_of_another_user_keeps_its_lock_when_dflock_is_killed() {
    let Some(other) = OtherUser::new() else { return };
    for command in [format!("exec {AS_ROOT}"), format!("{AS_ROOT}; true")] {
        let mut first = other.command();
        first.env("JOB", ROOT_JOB).args(["exec", "-l", "60", "k", "-c", &command]);
        let first = Running::start(&mut first);
        let job = pid_in(&other.house, "pid");
        first.signal("KILL");
        observe_that_it_is_held(&other, job, Duration::from_millis(500));
        std::fs::write(other.house.path("go"), "").expect("the sign is given");
        // The guardian notices, and gives it back.
        other.house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
        assert!(!is_alive(job));
        first.finish().code(137);
        std::fs::remove_file(other.house.path("go")).expect("it was there");
        std::fs::remove_file(other.house.path("pid")).expect("it was there");
    }
}

#[test]
fn a_command_of_another_user_keeps_its_lock_beyond_its_time() {
    let _quiet = crate::quiet();
    let Some(other) = OtherUser::new() else { return };
    let mut first = other.command();
    first.env("JOB", ROOT_JOB).args(["exec", "-l", "4", "--max-runtime", "0.3", "--kill-after", "0.2", "k", "-c"]);
    let mut first = Running::start(first.arg(format!("{AS_ROOT}; true")));
    let job = pid_in(&other.house, "pid");
    // Longer than the lease: it is renewed for as long as somebody is left.
    observe_that_it_is_held(&other, job, Duration::from_secs(5));
    assert!(first.is_running(), "dflock has left its command alone");
    std::fs::write(other.house.path("go"), "").expect("the sign is given");
    first.finish().code(124);
    wait_for("the end of the job", || (!is_alive(job)).then_some(()));
    other.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
}

/// Whoever cannot be looked at is no guardian because it says so.
#[test]
fn a_job_of_another_user_that_calls_itself_a_guardian_is_waited_for() {
    if !is_there("perl") {
        return;
    }
    let Some(other) = OtherUser::new() else { return };
    let job = "use POSIX; POSIX::setsid(); $0 = 'guardian of x'; $SIG{TERM} = 'IGNORE'; open(F, '>', 'pid'); \
               print F \"$$\\n\"; close(F); until (-e 'go') { select(undef, undef, undef, 0.01) }";
    let mut first = other.command();
    first.env("JOB", job).args(["exec", "-l", "20", "--max-runtime", "1", "--kill-after", "0.2", "k", "-c"]);
    let mut first = Running::start(first.arg("./become-root --reuid=0 perl -e \"$JOB\" & wait"));
    let job = pid_in(&other.house, "pid");
    observe_that_it_is_held(&other, job, Duration::from_secs(3));
    assert!(first.is_running(), "dflock has left its command alone");
    std::fs::write(other.house.path("go"), "").expect("the sign is given");
    first.finish().code(124);
}

/// The guardian keeps the connection that the lock has now, and not the one on which it was taken.
#[test]
fn a_connection_is_kept_open_for_a_command_that_cannot_be_ended_after_a_reconnect_too() {
    let Some(other) = OtherUser::new() else { return };
    let proxy = Proxy::to(&other.house.servers);
    let mut first = other.command();
    first.env("DFLOCK_SERVERS", &proxy.address).env("JOB", ROOT_JOB);
    first.args(["exec", "-l", "60", "k", "-c", &format!("{AS_ROOT}; true")]);
    let first = Running::start(&mut first);
    let job = pid_in(&other.house, "pid");
    let is_connected = || {
        let stats = other.house.server().stats();
        stats["locks"][0]["owner_conn_id"].as_u64().is_some_and(|connection| connection > 0)
    };
    assert!(is_connected());
    let passed = proxy.passed();
    proxy.cut();
    wait_for("another connection", || (proxy.passed() > passed && is_connected()).then_some(()));
    // In this window the guardian hears of it.
    std::thread::park_timeout(Duration::from_millis(200));
    first.signal("KILL");
    let begin = now();
    while begin.elapsed() < Duration::from_millis(500) {
        assert!(is_connected() && is_alive(job), "the connection stays while the job lives");
    }
    std::fs::write(other.house.path("go"), "").expect("the sign is given");
    other.house.dflock(&["exec", "-w", "20", "k", "true"]).code(0);
    assert!(!is_alive(job));
    first.finish().code(137);
}

/// Another process of this user could read it there.
#[test]
fn the_memory_of_one_that_knows_a_secret_is_roots() {
    let Some(other) = OtherUser::new() else { return };
    for (secret, owner) in [("", "65534"), ("s3cret", "0")] {
        let mut command = other.command();
        command.env("DFLOCK_AUTH_TOKEN", secret).args(["exec", "k", "-c", "stat -c %u /proc/$PPID/environ"]);
        assert_eq!(Running::start(&mut command).finish().ok(), owner, "with {secret:?}");
    }
}
