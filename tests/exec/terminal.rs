//! A terminal with a program in it, as a person has: text appears, keys are typed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::{Pid, pipe2, tcgetpgrp};

use super::trials_fleet::send;
use crate::house::clean::House;
use crate::house::watchdog::Witness;
use crate::house::{CEILING, now, wait_for};

pub(crate) const CTRL_C: &str = "\x03";
pub(crate) const CTRL_BACKSLASH: &str = "\x1c";
pub(crate) const CTRL_Q: &str = "\x11";
pub(crate) const CTRL_S: &str = "\x13";
pub(crate) const CTRL_Z: &str = "\x1a";

/// What a shell says when it waits for a command. No command that is typed contains it.
pub(crate) const PROMPT: &str = "[your turn]";

pub(crate) struct Terminal {
    /// `None` after it was hung up.
    line: Option<Line>,
    device: String,
    screen: Arc<Screen>,
    /// How much of the screen the test has seen.
    seen: usize,
    /// The leader of the session.
    child: Child,
    _witness: Witness,
}

/// Our end. Nobody else may have it open, or closing it would change nothing.
struct Line {
    keys: PtyMaster,
    /// Closing it ends the reader.
    reading: OwnedFd,
    reader: JoinHandle<()>,
}

#[derive(Default)]
struct Screen {
    text: Mutex<Vec<u8>>,
    changed: Condvar,
}

impl Screen {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("the screen")).into_owned()
    }
}

impl Terminal {
    /// A program alone in its session, as under `ssh -t` or `docker run -it`.
    pub(crate) fn running(house: &House, program: &str, arguments: &[&str]) -> Terminal {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let keys = posix_openpt(flags).expect("a terminal");
        grantpt(&keys).expect("a terminal of ours");
        unlockpt(&keys).expect("an unlocked terminal");
        let device = ptsname_r(&keys).expect("its name");
        let theirs = open(device.as_str(), flags, Mode::empty()).expect("its other end");
        let copy = || theirs.try_clone().expect("another handle");
        // It makes a session, takes the terminal into it, and becomes the program.
        let mut command: Command = house.command("setsid");
        command.args(["--ctty", program]).args(arguments);
        command.env("TERM", "xterm").env("PS1", PROMPT).env("LESSHISTFILE", "-");
        let child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().expect("setsid starts");
        let screen = Arc::new(Screen::default());
        let (until, reading) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let (from, to) = (File::from(keys.as_fd().try_clone_to_owned().expect("another handle")), screen.clone());
        let reader = std::thread::spawn(move || read_all(from, &until, &to));
        let shown = screen.clone();
        let witness = Witness::new(format!("terminal of {}", child.id()), move || shown.text());
        Terminal { line: Some(Line { keys, reading, reader }), device, screen, seen: 0, child, _witness: witness }
    }

    /// An interactive shell with job control, at its prompt.
    pub(crate) fn shell(house: &House, shell: &str) -> Terminal {
        let arguments: &[&str] = match shell {
            "bash" => &["--norc", "--noprofile", "--noediting", "-i"],
            "zsh" => &["-f", "+o", "zle", "+o", "prompt_sp", "-i"],
            _ => &["-i"],
        };
        let mut terminal = Terminal::running(house, shell, arguments);
        terminal.wait_for(PROMPT);
        terminal
    }

    fn keys(&self) -> &PtyMaster {
        &self.line.as_ref().expect("it was not hung up").keys
    }

    pub(crate) fn type_in(&mut self, keys: &str) {
        self.keys().write_all(keys.as_bytes()).expect("the keys are typed");
    }

    /// A command for a shell.
    pub(crate) fn enter(&mut self, line: &str) {
        self.type_in(&format!("{line}\n"));
    }

    /// Types the same again every now and then until `text` appears.
    #[track_caller]
    pub(crate) fn type_until(&mut self, keys: &str, text: &str) {
        let begin = now();
        loop {
            self.type_in(keys);
            if self.comes(text, Duration::from_millis(200)).is_some() {
                return;
            }
            assert!(begin.elapsed() < CEILING, "no {text:?} in {:?}", self.shown());
        }
    }

    /// Waits until `text` appears behind what was seen so far; returns what came until then.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let came = self.comes(text, CEILING);
        came.unwrap_or_else(|| panic!("no {text:?} behind the first {} bytes of {:?}", self.seen, self.shown()))
    }

    fn comes(&mut self, text: &str, within: Duration) -> Option<String> {
        let (begin, wanted) = (now(), text.as_bytes());
        let mut shown = self.screen.text.lock().expect("the screen");
        loop {
            let new = &shown[self.seen..];
            if let Some(at) = new.windows(wanted.len()).position(|window| window == wanted) {
                let came = String::from_utf8_lossy(&new[..at]).into_owned();
                self.seen += at + wanted.len();
                return Some(came);
            }
            let left = within.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return None;
            }
            shown = self.screen.changed.wait_timeout(shown, left).expect("the screen").0;
        }
    }

    /// Whatever was shown so far.
    pub(crate) fn shown(&self) -> String {
        self.screen.text()
    }

    /// The process group that keys go to.
    pub(crate) fn foreground(&self) -> Option<i32> {
        tcgetpgrp(self.keys()).ok().map(Pid::as_raw)
    }

    /// Shells and their terminals settle a moment after the prompt.
    #[track_caller]
    pub(crate) fn wait_for_foreground(&self, group: i32) {
        wait_for(&format!("group {group} in front"), || (self.foreground() == Some(group)).then_some(()));
    }

    /// The first process of the session: the shell, if there is one.
    pub(crate) fn leader(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn settings(&self) -> Termios {
        tcgetattr(self.keys()).expect("settings")
    }

    pub(crate) fn resize(&self, rows: u32, columns: u32) {
        let size = [rows, columns].map(|number| number.to_string());
        let status = Command::new("stty").args(["-F", &self.device, "rows", &size[0], "cols", &size[1]]).status();
        assert!(status.expect("stty runs").success());
    }

    /// As when the window is closed.
    pub(crate) fn hang_up(&mut self) {
        if let Some(Line { keys, reading, reader }) = self.line.take() {
            drop(reading);
            let _ = reader.join();
            drop(keys);
        }
    }

    /// How the session's leader ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the end of the session", || self.child.try_wait().expect("it can be waited for"))
    }

    /// Everybody alive in this session: pid and group.
    pub(crate) fn everybody(&self) -> Vec<(i32, i32)> {
        let all = std::fs::read_dir("/proc").expect("proc").flatten();
        let member = |entry: std::fs::DirEntry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let number = |at: usize| fields.get(at)?.parse::<i32>().ok();
            let lives = !matches!(fields.first(), None | Some(&"Z" | &"X"));
            (lives && number(3)? == self.leader()).then_some((pid, number(2)?))
        };
        all.filter_map(member).collect()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        for (pid, _) in self.everybody() {
            send(pid, Signal::SIGKILL);
        }
        self.hang_up();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(mut from: File, until: &OwnedFd, to: &Screen) {
    let mut bytes = [0; 4096];
    loop {
        let mut ready = [PollFd::new(from.as_fd(), PollFlags::POLLIN), PollFd::new(until.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::NONE).is_err() {
            continue;
        }
        if ready[1].any() == Some(true) {
            return;
        }
        // An error: everybody has closed the other end.
        let Ok(read) = from.read(&mut bytes) else { return };
        to.text.lock().expect("the screen").extend_from_slice(&bytes[..read]);
        to.changed.notify_all();
    }
}
