//! What a process is called, and what it says of itself in place of its arguments.

use std::ffi::CString;

/// Has `ps`, `pgrep` and `pkill` see this process under another name: its own and its command line. What it was
/// started with is gone with that.
pub fn rename_process(name: &str, command_line: &str) {
    Renaming::prepare(name, command_line).carry_out();
}

/// Made ready before a fork, after which nothing may be allocated.
pub(super) struct Renaming {
    name: Option<CString>,
    command_line: String,
    /// Where the arguments begin, and how long they are.
    arguments: Option<(usize, usize)>,
}

impl Renaming {
    pub(super) fn prepare(name: &str, command_line: &str) -> Renaming {
        Renaming { name: CString::new(name).ok(), command_line: command_line.to_owned(), arguments: arguments() }
    }

    /// Of this process. The name is a courtesy: without it nothing is missing.
    pub(super) fn carry_out(&self) {
        #[cfg(target_os = "linux")]
        if let Some(name) = &self.name {
            let _ = nix::sys::prctl::set_name(name);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = &self.name;
        let Some((begin, length)) = self.arguments else { return };
        // The last byte stays a NUL, which ends it.
        let text = &self.command_line.as_bytes()[..self.command_line.len().min(length - 1)];
        let arguments = std::ptr::with_exposed_provenance_mut::<u8>(begin);
        // SAFETY: the kernel put the arguments there, one after the other, for the process to read and to write;
        // whoever reads them later finds bytes that end with a NUL.
        unsafe {
            std::ptr::write_bytes(arguments, 0, length);
            std::ptr::copy_nonoverlapping(text.as_ptr(), arguments, text.len());
        }
    }
}

#[cfg(target_os = "linux")]
fn arguments() -> Option<(usize, usize)> {
    // Where the arguments begin and end, counted from the field behind the name.
    const ARGUMENTS: [usize; 2] = [45, 46];
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let address = |field: usize| fields.get(field)?.parse::<usize>().ok();
    let (begin, end) = (address(ARGUMENTS[0])?, address(ARGUMENTS[1])?);
    (begin != 0 && end > begin).then(|| (begin, end - begin))
}

#[cfg(not(target_os = "linux"))]
fn arguments() -> Option<(usize, usize)> {
    None
}
