//! Our own signals as events; those ignored at start are left alone.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use nix::sys::signal::Signal;
use tokio::signal::unix::{self, SignalKind};

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
    pub(super) sent: Sent,
    /// A child has ended or stopped.
    pub(super) child: unix::Signal,
    ignored: u64,
}

/// Those that were sent to us.
pub(super) struct Sent(Vec<(Signal, unix::Signal)>);

impl Sent {
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| self.poll(context)).await
    }

    /// One that is here already.
    pub(super) async fn at_once(&mut self) -> Option<Signal> {
        poll_fn(|context| match self.poll(context) {
            Poll::Ready(signal) => Poll::Ready(Some(signal)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Whether such a signal is one that would come.
    pub(super) fn hears(&self, signal: Signal) -> bool {
        self.0.iter().any(|(number, _)| *number == signal)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Signal> {
        let ready = self.0.iter_mut().find_map(|(number, stream)| match stream.poll_recv(context) {
            Poll::Ready(Some(())) => Some(*number),
            _ => None,
        });
        ready.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Signals {
    pub(super) fn listen() -> io::Result<Signals> {
        let child = unix::signal(SignalKind::child())?;
        let mut signals = Signals { sent: Sent(Vec::new()), child, ignored: ignored_at_start() };
        PASSED.iter().try_for_each(|number| signals.hear(*number))?;
        Ok(signals)
    }

    /// From now on Ctrl-Z is passed on too: when the command has stopped, so do we. Until there is one it stops
    /// us as anybody.
    pub(super) fn hear_stops(&mut self) {
        // Without it Ctrl-Z stops us alone, where the terminal is not lent.
        let _ = self.hear(Signal::SIGTSTP);
    }

    fn hear(&mut self, number: Signal) -> io::Result<()> {
        if self.ignored & (1 << (number as u32 - 1)) == 0 {
            self.sent.0.push((number, unix::signal(SignalKind::from_raw(number as i32))?));
        }
        Ok(())
    }

    /// The next signal that ends dflock while it waits.
    pub(super) async fn end_of_wait(&mut self) -> Signal {
        loop {
            let signal = self.sent.next().await;
            if ends_a_wait(signal) {
                return signal;
            }
        }
    }
}

/// A bit for each signal, as `nohup` and shells leave them.
fn ignored_at_start() -> u64 {
    let status = std::fs::read("/proc/self/status").unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn ends_a_wait(signal: Signal) -> bool {
    matches!(signal, Signal::SIGHUP | Signal::SIGINT | Signal::SIGTERM | Signal::SIGQUIT)
}
