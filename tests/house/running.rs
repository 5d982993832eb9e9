//! Programs that a test started: how they end, and what they say.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::Value;

use super::clean::mask_tokens;
use super::watchdog::{Witness, waiting_for};
use super::{CEILING, now, signal};

/// Of what nobody has read.
const TOO_MUCH: u64 = 64 * 1024;

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// The exit code, or 128 + the signal that ended it.
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Fails the test unless it went well; returns what was said without the last line end.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        self.out.trim_end_matches('\n')
    }

    #[track_caller]
    pub fn code(self, code: i32) -> Said {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|why| panic!("no JSON ({why}): {self:?}"))
    }

    /// With every token replaced by `TOKEN`.
    pub fn masked(&self) -> String {
        mask_tokens(&self.out)
    }
}

/// A program that was started and may still run; it is killed if it does when this is dropped.
pub struct Running {
    /// `None` after it was waited for.
    child: Option<Child>,
    pub pid: u32,
    out: Output,
    err: Output,
    _witness: Witness,
}

impl Running {
    #[track_caller]
    pub fn start(command: &mut Command) -> Running {
        Running::of(command.spawn().expect("it starts"))
    }

    /// One that was started already.
    pub fn of(mut child: Child) -> Running {
        let pid = child.id();
        let out = Output::of(child.stdout.take().map(OwnedFd::from));
        let err = Output::of(child.stderr.take().map(OwnedFd::from));
        let (shown_out, shown_err) = (out.clone(), err.clone());
        let witness =
            Witness::new(format!("process {pid}"), move || format!("{}{}", shown_out.so_far(), shown_err.so_far()));
        Running { child: Some(child), pid, out, err, _witness: witness }
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid, name);
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("it can be waited for"))
    }

    pub fn is_running(&mut self) -> bool {
        self.child.is_some() && self.status().is_none()
    }

    /// Closes its input, for which a script may wait with `read`.
    pub fn go_on(&mut self) {
        drop(self.child.as_mut().and_then(|child| child.stdin.take()));
    }

    /// Waits for its end, and for the end of what it says: nobody else may keep its output open.
    #[track_caller]
    pub fn finish(mut self) -> Said {
        let _waiting = waiting_for(&format!("the end of process {}", self.pid));
        let outputs = [self.out.listen(), self.err.listen()];
        let begin = now();
        let status = loop {
            if let Some(status) = self.status() {
                break status;
            }
            assert!(begin.elapsed() < CEILING * 2, "process {} did not end in {:?}", self.pid, CEILING * 2);
            thread::park_timeout(Duration::from_millis(1));
        };
        self.child = None;
        for output in outputs {
            // Nothing is ever sent: the other end is dropped.
            let end = output.recv_timeout(CEILING);
            assert_eq!(end, Err(mpsc::RecvTimeoutError::Disconnected), "somebody keeps its output open");
        }
        let code = status.code().or_else(|| status.signal().map(|number| 128 + number)).expect("an end");
        Said { code, out: self.out.so_far(), err: self.err.so_far() }
    }
}

impl Drop for Running {
    #[expect(clippy::print_stdout, reason = "of a test that fails this is shown")]
    fn drop(&mut self) {
        if thread::panicking() {
            println!("process {} said {:?} and {:?}", self.pid, self.out.so_far(), self.err.so_far());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for a program and for the end of what it says.
#[track_caller]
pub fn finish(child: Child) -> Said {
    Running::of(child).finish()
}

/// One of the outputs of a program. Nobody reads it before its end is waited for, so that a pipe can be full.
#[derive(Clone)]
struct Output {
    inner: Arc<Mutex<Heard>>,
}

struct Heard {
    /// What is still to be read, if nobody is at it.
    pipe: Option<File>,
    text: Vec<u8>,
}

impl Output {
    fn of(pipe: Option<OwnedFd>) -> Output {
        Output { inner: Arc::new(Mutex::new(Heard { pipe: pipe.map(File::from), text: Vec::new() })) }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads it from now on; the other end of the channel goes when there is no more.
    fn listen(&self) -> mpsc::Receiver<()> {
        let (end, ended) = mpsc::channel();
        if let Some(pipe) = self.heard().pipe.take() {
            let output = self.clone();
            thread::spawn(move || {
                output.read(pipe);
                drop(end);
            });
        }
        ended
    }

    fn read(&self, mut pipe: File) {
        let mut bytes = [0; 16 * 1024];
        loop {
            match pipe.read(&mut bytes) {
                Ok(read @ 1..) => self.heard().text.extend_from_slice(&bytes[..read]),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// What was said up to now, what nobody has read yet included.
    fn so_far(&self) -> String {
        let mut heard = self.heard();
        let Heard { pipe, text } = &mut *heard;
        if let Some(pipe) = pipe {
            // Nothing may come any more, and then it is not waited for.
            let _ = fcntl(&*pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
            let _ = pipe.take(TOO_MUCH).read_to_end(text);
        }
        String::from_utf8_lossy(text).into_owned()
    }
}
