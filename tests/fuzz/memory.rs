//! Counts what each thread takes from the heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;

/// A single input that has so much is stopped before the machine is.
const FAR_TOO_MUCH: usize = 2 * 1024 * 1024 * 1024;

thread_local! {
    /// Bytes taken and not given back; below 0 when what another thread took is given back here.
    static TAKEN: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe to call; this one only counts")]
// SAFETY: memory is handled by the system's allocator alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !count(layout.size() as isize) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the promises that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !count(size as isize - layout.size() as isize) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Whether there may be so much.
fn count(change: isize) -> bool {
    // A thread that ends gives back the last of its memory uncounted.
    let counted = TAKEN.try_with(|taken| {
        taken.set(taken.get() + change);
        PEAK.set(PEAK.get().max(taken.get()));
        taken.get()
    });
    let fine = counted.unwrap_or(0) < FAR_TOO_MUCH as isize;
    if !fine {
        // Without taking memory. target/tmp/fuzz/*.running says which seed it was.
        let _ = std::io::stderr().write_all(b"one input takes 2 GiB of memory\n");
    }
    fine
}

/// Also says how many bytes more than before were taken at once meanwhile.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = TAKEN.get();
    PEAK.set(before);
    let done = work();
    (done, (PEAK.get() - before).max(0) as usize)
}
