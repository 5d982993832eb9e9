//! What is said while a lock is held: nobody who does not read may hold it up.
//!
//! A terminal stopped by Ctrl-S, or a log pipe that nobody reads, blocks whoever writes to it for as long as it
//! likes. So from [`begin`] on a thread of its own writes. It is there only while there is something to write, and
//! what finds no room in its queue is dropped.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};

use super::Sink;

/// More than this nobody reads who has not read the first of it.
const MOST: usize = 64;

static QUEUE: Mutex<Queue> = Mutex::new(Queue { has_begun: false, is_writing: false, texts: VecDeque::new() });
static WRITTEN: Condvar = Condvar::new();

struct Queue {
    has_begun: bool,
    /// There is a thread that writes.
    is_writing: bool,
    texts: VecDeque<(Sink, String)>,
}

/// From now on whoever says something does not wait.
pub fn begin() {
    queue().has_begun = true;
}

/// Takes a text to be written later; gives it back to whoever may wait.
pub(super) fn take(sink: Sink, text: &str) -> Result<(), ()> {
    let mut queue = queue();
    if !queue.has_begun {
        return Err(());
    }
    if queue.texts.len() < MOST {
        queue.texts.push_back((sink, text.to_owned()));
    }
    if !queue.is_writing {
        queue.is_writing = thread::Builder::new().name("messages".to_owned()).spawn(write_all).is_ok();
        if !queue.is_writing {
            write_what_has_room(&mut queue);
        }
    }
    Ok(())
}

/// Whether all that was said is written.
pub(super) fn is_done() -> bool {
    let queue = queue();
    !queue.is_writing && queue.texts.is_empty()
}

/// Leaves a moment to those who read.
pub(super) fn settle(within: Duration) {
    // Whether it was enough changes nothing.
    let _ = WRITTEN.wait_timeout_while(queue(), within, |queue| queue.is_writing);
}

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_all() {
    // Signals are for the others. And a terminal that stops whoever writes from the background (`stty tostop`), or a
    // file that may not grow, would use them on us.
    let _ = SigSet::all().thread_block();
    loop {
        let mut queue = queue();
        let Some((sink, text)) = queue.texts.pop_front() else {
            queue.is_writing = false;
            WRITTEN.notify_all();
            return;
        };
        drop(queue);
        // Whoever closed it does not want it.
        let _ = sink.write(&text);
    }
}

/// Where no thread can be had: what would not be taken at once is lost.
fn write_what_has_room(queue: &mut Queue) {
    let Ok(before) = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK) else { return };
    for (sink, text) in queue.texts.drain(..) {
        if sink.has_room() {
            // Whoever closed it does not want it.
            let _ = sink.write(&text);
        }
    }
    let _ = before.thread_set_mask();
}
