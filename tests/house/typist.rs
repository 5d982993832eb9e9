//! Somebody at a terminal: types into a program, and reads what is on the screen.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};

use super::wait_for;
use super::watchdog::Witness;

pub struct Typist {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    /// Nothing more will be written.
    is_over: Arc<AtomicBool>,
    /// What was looked at already.
    seen: usize,
    _witness: Witness,
}

impl Typist {
    /// Starts a program on a terminal of its own.
    pub fn start(command: &Command) -> Typist {
        let size = Winsize { ws_row: 40, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a terminal");
        let stdio = || Stdio::from(pty.slave.try_clone().expect("a second handle"));
        // It needs a session whose terminal this is.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg("--wait").arg(command.get_program()).args(command.get_args()).env_clear();
        session.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(dir) = command.get_current_dir() {
            session.current_dir(dir);
        }
        let child = session.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().expect("it starts");
        drop(pty.slave);
        let keyboard = File::from(pty.master);
        let mut output = keyboard.try_clone().expect("a second handle");
        let screen = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (written, over) = (screen.clone(), is_over.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                written.lock().expect("the screen").extend_from_slice(&bytes[..count]);
            }
            over.store(true, Ordering::SeqCst);
        });
        let shown = screen.clone();
        let witness = Witness::new(format!("terminal of {}", child.id()), move || {
            String::from_utf8_lossy(&shown.lock().expect("the screen")).into_owned()
        });
        Typist { child, keyboard, screen, is_over, seen: 0, _witness: witness }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("somebody reads the keyboard");
    }

    /// Everything that was written since the last look.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("the screen")[self.seen..]).into_owned()
    }

    /// Waits until something appears; what came before it counts as seen.
    pub fn wait_for(&mut self, text: &str) -> String {
        let screen = self.screen.clone();
        let seen = self.seen;
        let unseen = || String::from_utf8_lossy(&screen.lock().expect("the screen")[seen..]).into_owned();
        let found = wait_for(&format!("{text:?} on the screen"), || {
            let is_over = self.is_over.load(Ordering::SeqCst);
            let now = unseen();
            assert!(!is_over || now.contains(text), "it ended before {text:?}: {now:?}");
            now.contains(text).then_some(now)
        });
        self.seen += found.find(text).map_or(0, |at| at + text.len());
        found
    }

    /// Waits for the end; returns the exit code.
    pub fn finish(mut self) -> Option<i32> {
        wait_for("its end", || self.child.try_wait().expect("it can be waited for")).code()
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        // Who reads the terminal is told to end by its end; setsid ends with its program.
        let _ = self.keyboard.write_all(b"\x03\x04");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
