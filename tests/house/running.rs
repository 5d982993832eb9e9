//! Programs that a test started: how they end, and what they say.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::clean::mask_tokens;
use super::{CEILING, now, signal};

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

/// A program that was started and may still run.
pub struct Running {
    child: Option<Child>,
    pub pid: u32,
}

impl Running {
    pub fn start(command: &mut Command) -> Running {
        let child = command.spawn().expect("it starts");
        Running { pid: child.id(), child: Some(child) }
    }

    /// One that was started already.
    pub fn of(child: Child) -> Running {
        Running { pid: child.id(), child: Some(child) }
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid, name);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("it can be waited for").is_none())
    }

    /// Closes its input, for which a script may wait with `read`.
    pub fn go_on(&mut self) {
        drop(self.child.as_mut().and_then(|child| child.stdin.take()));
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Said {
        finish(self.child.take().expect("it was not waited for"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for a program and for the end of what it says: nobody else may keep its output open.
pub fn finish(mut child: Child) -> Said {
    let (out, err) = (listen(child.stdout.take()), listen(child.stderr.take()));
    let begin = now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break status;
        }
        if begin.elapsed() > CEILING * 2 {
            let _ = child.kill();
            let _ = child.wait();
            panic!("it did not end: {:?}", (out.recv_timeout(CEILING), err.recv_timeout(CEILING)));
        }
        thread::park_timeout(Duration::from_millis(1));
    };
    let text = |pipe: mpsc::Receiver<String>| pipe.recv_timeout(CEILING).expect("its output ends with it");
    let code = status.code().or_else(|| status.signal().map(|number| 128 + number)).expect("an end");
    Said { code, out: text(out), err: text(err) }
}

fn listen(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = tell.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    told
}
