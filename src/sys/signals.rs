//! The signals that whoever started us has blocked or ignored: dflock hears them all the same, and the command gets them
//! back as they were.

use std::sync::OnceLock;

/// As the caller has set them.
struct Callers {
    blocked: libc::sigset_t,
    /// The system reaps the children of whoever ignores this: their ends are told to nobody then.
    ignores_children: bool,
}

static CALLERS: OnceLock<Callers> = OnceLock::new();

/// To be called first of all. Who blocks a signal and then starts somebody else has forgotten about it, as a rule, and a
/// dflock that hears of no child's end would wait for its own.
pub fn hear_all() {
    CALLERS.get_or_init(|| {
        // SAFETY: system calls that read and write memory of this stack alone; the default action runs no code of ours.
        unsafe {
            let ignores_children = libc::signal(libc::SIGCHLD, libc::SIG_DFL) == libc::SIG_IGN;
            let mut none: libc::sigset_t = std::mem::zeroed();
            let mut blocked: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigemptyset(&raw mut blocked);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, &raw mut blocked);
            Callers { blocked, ignores_children }
        }
    });
}

/// In a forked child, before it becomes a program that is the caller's: so without allocating.
pub(super) fn give_back() {
    // SAFETY: system calls, with memory that lives as long as the program.
    unsafe {
        let Some(callers) = CALLERS.get() else {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            return;
        };
        if callers.ignores_children {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const callers.blocked, std::ptr::null_mut());
    }
}
