//! Our own signals as events; those ignored at start are left alone.

use std::io;

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What is passed on to the command.
const PASSED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGALRM,
    Signal::SIGCONT,
];

/// Signals as they come. Must be made before the command is started.
pub(super) struct Signals {
    pub(super) sent: mpsc::Receiver<Signal>,
    /// A child has ended or stopped.
    pub(super) child: tokio::signal::unix::Signal,
    sender: mpsc::Sender<Signal>,
    ignored: u64,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Signals> {
        let (sender, sent) = mpsc::channel(64);
        let signals = Signals { sent, child: signal(SignalKind::child())?, sender, ignored: ignored_at_start() };
        PASSED.iter().try_for_each(|number| signals.hear(*number))?;
        Ok(signals)
    }

    /// From now on Ctrl-Z is passed on too: when the command has stopped, so do we. Until there is one it stops
    /// us as anybody.
    pub(super) fn hear_stops(&self) {
        // Without it Ctrl-Z stops us alone, where the terminal is not lent.
        let _ = self.hear(Signal::SIGTSTP);
    }

    fn hear(&self, number: Signal) -> io::Result<()> {
        if self.ignored & (1 << (number as u32 - 1)) != 0 {
            return Ok(());
        }
        let mut stream = signal(SignalKind::from_raw(number as i32))?;
        let sender = self.sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(number).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// The next signal that ends dflock while it waits.
    pub(super) async fn end_of_wait(&mut self) -> Signal {
        loop {
            match self.sent.recv().await {
                Some(signal) if ends_a_wait(signal) => return signal,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// A bit for each signal, as `nohup` and shells leave them.
fn ignored_at_start() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn ends_a_wait(signal: Signal) -> bool {
    matches!(signal, Signal::SIGHUP | Signal::SIGINT | Signal::SIGTERM | Signal::SIGQUIT)
}
