//! Waiting for a moment on the clock that runs through suspend.

use std::time::Duration;

use crate::clock::{self, Moment};
use crate::procfs::Refusals;

/// Without a timer on that clock it is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A timer of the kernel's that a suspended machine does not stop, or the next best.
pub struct BoottimeTimer {
    #[cfg(target_os = "linux")]
    timer: Option<(nix::sys::timerfd::TimerFd, tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>)>,
    refusals: Refusals,
}

impl BoottimeTimer {
    #[cfg(target_os = "linux")]
    pub fn new() -> BoottimeTimer {
        use std::os::fd::AsFd;

        use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let make = || {
            let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
            let ringing = crate::sys::watch(timer.as_fd().try_clone_to_owned()?)?;
            std::io::Result::Ok((timer, ringing))
        };
        // Without it the clock is looked at now and then.
        BoottimeTimer { timer: make().ok(), refusals: Refusals::ours() }
    }

    #[cfg(not(target_os = "linux"))]
    pub fn new() -> BoottimeTimer {
        BoottimeTimer { refusals: Refusals::ours() }
    }

    /// For how long this process has been refused a processor, where the system tells.
    pub fn refused(&self) -> Option<Duration> {
        self.refusals.so_far()
    }

    /// Returns at `moment` or soon after it, whatever the machine did in between.
    pub async fn wait_until(&mut self, moment: Moment) {
        #[cfg(target_os = "linux")]
        if let Some((timer, ringing)) = &self.timer {
            use nix::sys::time::TimeSpec;
            use nix::sys::timerfd::{Expiration, TimerSetTimeFlags};

            while clock::now() < moment {
                if moment == Moment::NEVER {
                    std::future::pending::<()>().await;
                }
                let at = Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(moment.as_nanos())));
                if timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME).is_err() {
                    break;
                }
                let Ok(mut ready) = ringing.readable().await else { break };
                // Reading is what makes it quiet again.
                let _ = timer.wait();
                ready.clear_ready();
            }
        }
        loop {
            let left = moment.since(clock::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
        }
    }
}

impl Default for BoottimeTimer {
    fn default() -> BoottimeTimer {
        BoottimeTimer::new()
    }
}
