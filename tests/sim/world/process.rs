//! Machines and processes: what runs, what is stopped, what sleeps, and what is killed.

use super::*;

/// What one waits for processor time at first, where there is too little.
const FIRST_WAIT: u64 = 100 * MS;

/// It gets worse by this part of the time that passes.
const WORSE: u64 = 5;

impl World {
    /// From now on its processes wait for processor time whenever they wake, longer and longer.
    pub fn starve(&self, machine: usize, most: u64) {
        self.machines.borrow_mut()[machine].starves = Some((self.now(), most));
    }

    pub fn starves(&self, process: usize) -> bool {
        self.machines.borrow()[self.processes.borrow()[process].machine].starves.is_some()
    }

    pub fn comes_first(&self, process: usize) {
        self.processes.borrow_mut()[process].comes_first = true;
    }

    pub fn refused_so_far(&self, process: usize) -> u64 {
        self.processes.borrow()[process].refused
    }

    /// Whether a process that woke has to wait now. What it is woken by meanwhile, it finds together.
    pub(super) fn is_refused(&self, process: usize) -> bool {
        let now = self.now();
        let mut processes = self.processes.borrow_mut();
        let waking = &mut processes[process];
        let Some((since, most)) = self.machines.borrow()[waking.machine].starves else { return false };
        if waking.is_refused || waking.comes_first || waking.runs_at == now {
            return waking.is_refused;
        }
        let longest = (FIRST_WAIT + (now - since) / WORSE).min(most);
        let wait = longest / 2 + self.dice(&[13, process as u64, now]) % (longest / 2);
        waking.is_refused = true;
        drop(processes);
        self.after(wait, move |world| {
            {
                let waking = &mut world.processes.borrow_mut()[process];
                (waking.is_refused, waking.runs_at) = (false, world.now());
                waking.refused += wait;
            }
            world.unpark(process);
        });
        true
    }

    pub fn spawn(&self, process: usize, future: impl Future<Output = ()> + 'static) {
        let id = self.tasks.borrow().len();
        let waker: Waker = Arc::new(TaskWaker { task: id, ready: self.ready.clone() }).into();
        waker.wake_by_ref();
        self.tasks.borrow_mut().push(Task { process, future: Some(Box::pin(future)), waker });
        self.processes.borrow_mut()[process].tasks.push(id);
    }

    pub fn new_machine(&self, ppm: i64, offset: u64) -> usize {
        let mut machines = self.machines.borrow_mut();
        machines.push(Machine { ppm, offset, ..Machine::default() });
        machines.len() - 1
    }

    /// By how much it is fast, and what it showed at the beginning of time.
    pub fn set_clock(&self, machine: usize, ppm: i64, offset: u64) {
        let machine = &mut self.machines.borrow_mut()[machine];
        (machine.ppm, machine.offset) = (ppm, offset);
    }

    pub fn new_process(&self, machine: usize) -> usize {
        let mut processes = self.processes.borrow_mut();
        processes.push(Process { machine, ..Process::default() });
        processes.len() - 1
    }

    pub fn is_dead(&self, process: usize) -> bool {
        self.processes.borrow()[process].dead
    }

    pub fn is_frozen(&self, process: usize) -> bool {
        let processes = self.processes.borrow();
        processes[process].stopped || self.machines.borrow()[processes[process].machine].asleep_since.is_some()
    }

    /// By a signal, or by whoever else can.
    pub fn is_stopped(&self, process: usize) -> bool {
        self.processes.borrow()[process].stopped
    }

    /// As SIGKILL does, and as the end of a program: whatever it had open is closed.
    pub fn kill(&self, process: usize) {
        let ids = {
            let mut processes = self.processes.borrow_mut();
            processes[process].dead = true;
            std::mem::take(&mut processes[process].tasks)
        };
        for id in ids {
            let future = self.tasks.borrow_mut()[id].future.take();
            drop(future);
        }
    }

    pub fn stop(&self, process: usize) {
        self.processes.borrow_mut()[process].stopped = true;
    }

    pub fn go_on(&self, process: usize) {
        self.processes.borrow_mut()[process].stopped = false;
        self.unpark(process);
    }

    pub(super) fn unpark(&self, process: usize) {
        if !self.is_frozen(process) {
            let parked = std::mem::take(&mut self.processes.borrow_mut()[process].parked);
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).extend(parked);
        }
    }

    pub fn is_asleep(&self, machine: usize) -> bool {
        self.machines.borrow()[machine].asleep_since.is_some()
    }

    pub fn put_to_sleep(&self, machine: usize) {
        let now = self.now();
        self.machines.borrow_mut()[machine].asleep_since.get_or_insert(now);
    }

    pub fn wake_up(&self, machine: usize) {
        let now = self.now();
        if let Some(machine) = self.machines.borrow_mut().get_mut(machine)
            && let Some(since) = machine.asleep_since.take()
        {
            machine.slept += now - since;
        }
        let count = self.processes.borrow().len();
        for process in 0..count {
            if self.processes.borrow()[process].machine == machine {
                self.unpark(process);
            }
        }
    }
}
