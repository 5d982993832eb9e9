//! Clocks and timers as a process sees them: stands for `clock.rs`, `lease::timer` and tokio's timers.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use dflock::clock::Moment;

use super::World;

/// A process and the world around it.
#[derive(Clone)]
pub struct Env {
    pub world: Rc<World>,
    pub process: usize,
}

impl World {
    /// The clock of a machine that runs through its sleep.
    pub fn clock(&self, machine: usize) -> Moment {
        let machine = &self.machines.borrow()[machine];
        let now = self.now();
        let fast = (now as i128 * i128::from(machine.ppm) / 1_000_000) as i64;
        Moment::from_nanos((machine.offset + now).saturating_add_signed(fast))
    }

    /// When that clock shows `moment`, in true time.
    pub fn true_time(&self, machine: usize, moment: Moment) -> u64 {
        if moment == Moment::NEVER {
            return u64::MAX;
        }
        let machine = &self.machines.borrow()[machine];
        let shown = i128::from(moment.as_nanos()) - i128::from(machine.offset);
        let nanos = shown * 1_000_000 / (1_000_000 + i128::from(machine.ppm)) + 1;
        u64::try_from(nanos.max(0)).unwrap_or(u64::MAX)
    }

    /// The clock of a machine that stands still while it sleeps.
    fn waking_time(&self, machine: usize) -> u64 {
        let machine = &self.machines.borrow()[machine];
        let asleep = machine.asleep_since.map_or(0, |since| self.now() - since);
        self.now() - machine.slept - asleep
    }
}

impl Env {
    pub fn machine(&self) -> usize {
        self.world.processes.borrow()[self.process].machine
    }

    pub fn now(&self) -> Moment {
        self.world.clock(self.machine())
    }

    /// As `BoottimeTimer::wait_until`.
    pub fn wait_until(&self, moment: Moment) -> Sleep {
        Sleep { env: self.clone(), until: Until::Shown(moment), timer: None }
    }

    /// As `tokio::time::sleep`: the sleep of the machine does not count.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let until = self.world.waking_time(self.machine()).saturating_add(nanos);
        Sleep { env: self.clone(), until: Until::Awake(until), timer: None }
    }

    /// As `tokio::time::timeout`.
    pub async fn timeout<T>(&self, duration: Duration, future: impl Future<Output = T>) -> Option<T> {
        let limit = self.sleep(duration);
        tokio::select! {
            biased;
            done = future => Some(done),
            () = limit => None,
        }
    }

    /// How long until `moment`.
    pub fn left(&self, until: Moment) -> Duration {
        until.since(self.now())
    }

    pub fn tell(&self, who: &str, what: impl FnOnce() -> String) {
        self.world.tell(who, what);
    }
}

enum Until {
    Shown(Moment),
    Awake(u64),
}

pub struct Sleep {
    env: Env,
    until: Until,
    timer: Option<Rc<Cell<bool>>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
        let world = &self.env.world;
        let machine = self.env.machine();
        let at = match self.until {
            Until::Shown(Moment::NEVER) | Until::Awake(u64::MAX) => return Poll::Pending,
            Until::Shown(moment) if world.clock(machine) >= moment => return Poll::Ready(()),
            Until::Shown(moment) => world.true_time(machine, moment),
            Until::Awake(until) => match until.saturating_sub(world.waking_time(machine)) {
                0 => return Poll::Ready(()),
                left => world.now().saturating_add(left),
            },
        };
        if !self.timer.as_ref().is_some_and(|timer| timer.get()) {
            let wanted = Rc::new(Cell::new(true));
            world.wake_at(at, cx.waker().clone(), wanted.clone());
            self.timer = Some(wanted);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.set(false);
        }
    }
}
