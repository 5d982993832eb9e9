//! A picture that stays in place on a terminal: home, print, erase to the end. What was there before comes back.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;

use super::escape;
use crate::sys;

/// To the other page, without a cursor; and back.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";

pub struct Screen {
    /// A handle of our own: what we change about it, nobody else inherits.
    terminal: AsyncFd<OwnedFd>,
    before: Termios,
}

impl Screen {
    /// `None` where stdout is no terminal of ours.
    pub fn open() -> Option<Screen> {
        if !super::is_answer_seen() {
            return None;
        }
        let terminal = File::open("/dev/tty").ok()?;
        fcntl(&terminal, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let screen = Screen { terminal: sys::watch(terminal.into()).ok()?, before };
        screen.enter();
        Some(screen)
    }

    /// Keys come one by one and are not shown; Ctrl-C and Ctrl-Z are still signals.
    pub fn enter(&self) {
        let mut ours = self.before.clone();
        ours.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        let _ = tcsetattr(self.terminal.get_ref(), SetArg::TCSANOW, &ours);
        let _ = super::plain(OPEN);
    }

    /// As it was before.
    pub fn leave(&self) {
        let _ = super::plain(CLOSE);
        let _ = tcsetattr(self.terminal.get_ref(), SetArg::TCSANOW, &self.before);
    }

    /// Shows a picture instead of the last one, as much of it as there is room for.
    pub fn show(&self, text: &str) {
        let (rows, columns) = sys::terminal_size(self.terminal.get_ref()).unwrap_or((24, 80));
        let _ = super::plain(&picture(text, rows.into(), columns.into()));
    }

    /// The next key.
    pub async fn key(&self) -> Option<u8> {
        let mut byte = [0];
        loop {
            let mut ready = self.terminal.readable().await.ok()?;
            match nix::unistd::read(self.terminal.get_ref(), &mut byte) {
                Ok(1) => return Some(byte[0]),
                Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                // Nobody is at the terminal any more.
                _ => return None,
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Each line replaces what stood there, and the rest goes.
fn picture(text: &str, rows: usize, columns: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let room = rows.max(2) - 1;
    let fits = lines.len() <= room;
    let shown = if fits { lines.len() } else { room - 1 };
    let mut picture = "\x1b[H".to_owned();
    for line in &lines[..shown] {
        picture.extend(escape(line).chars().take(columns));
        picture.push_str("\x1b[K\r\n");
    }
    if !fits {
        picture.push_str(&format!("… {} more lines\x1b[K\r\n", lines.len() - shown));
    }
    picture.push_str("\x1b[J");
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_fits_the_window() {
        assert_eq!(picture("ab\ncd\n", 24, 80), "\x1b[Hab\x1b[K\r\ncd\x1b[K\r\n\x1b[J");
        assert_eq!(picture("abc\nd\ne\nf\n", 4, 2), "\x1b[Hab\x1b[K\r\nd\x1b[K\r\n… 2 more lines\x1b[K\r\n\x1b[J");
    }
}
