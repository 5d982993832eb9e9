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
}

impl Signals {
    pub(super) fn listen() -> io::Result<Signals> {
        let ignored = ignored_at_start();
        let (sender, sent) = mpsc::channel(64);
        for number in PASSED {
            if ignored & (1 << (number as u32 - 1)) != 0 {
                continue;
            }
            let mut stream = signal(SignalKind::from_raw(number as i32))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    if sender.send(number).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Signals { sent, child: signal(SignalKind::child())? })
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
