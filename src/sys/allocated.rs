//! Counts what this program has taken from the heap, so that a server can stop before the machine does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering};

/// What a thread counts by itself before it tells the others: they would wait for each other at every allocation.
const UNTOLD: isize = 64 * 1024;

static ALLOCATED: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    static OF_THIS_THREAD: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counted.
pub struct CountingAllocator;

// SAFETY: memory is handled by the system's allocator alone; counting allocates nothing and cannot fail.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller keeps the promises that the system's allocator asks for; so below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

fn count(change: isize) {
    // A thread that ends counts no more; it has little left by then.
    let _ = OF_THIS_THREAD.try_with(|untold| {
        let sum = untold.get() + change;
        if sum.abs() < UNTOLD {
            untold.set(sum);
        } else {
            untold.set(0);
            ALLOCATED.fetch_add(sum, Ordering::Relaxed);
        }
    });
}

/// Bytes in use, give or take a little for each thread; 0 where the program does not count.
pub fn allocated() -> usize {
    usize::try_from(ALLOCATED.load(Ordering::Relaxed)).unwrap_or(0)
}
