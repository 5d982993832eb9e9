//! One journal file being written: room made ahead, frames put at its end, and what is on disk for sure.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::downtime::Times;
use super::frame::{Frame, Header};

/// Room that there must be, at least, for locks to be given out: what renewals and releases live on when the
/// disk is full. Some thirty thousand of them.
const LEAST_ROOM: u64 = 1024 * 1024;

/// How much is made at once.
const ROOM: u64 = 4 * 1024 * 1024;

/// The most bytes of records that are put in one frame, give or take a record.
pub(super) const PIECE: usize = 256 * 1024;

/// How much of the end of a write is looked at again.
const TAIL: usize = 64;

pub(super) struct Pen {
    file: File,
    header: Header,
    /// Frames that are not written yet.
    pending: Vec<u8>,
    /// Where the next write goes.
    end: u64,
    /// Up to where there is room.
    room: u64,
    /// Up to where everything is on disk.
    synced: u64,
    /// What the last two writes ended with, and where.
    tails: [Tail; 2],
}

#[derive(Default)]
struct Tail {
    at: u64,
    bytes: Vec<u8>,
}

impl Pen {
    /// Into an empty file.
    pub(super) fn new(file: File, header: Header) -> Pen {
        let mut pending = Vec::new();
        header.write(&mut pending);
        Pen { file, header, pending, end: 0, room: 0, synced: 0, tails: Default::default() }
    }

    /// Puts whole records in a frame behind the others.
    pub(super) fn put(&mut self, times: Times, records: &[u8]) {
        let at = self.end + self.pending.len() as u64;
        Frame { synced_to: self.synced, times, records }.write(self.header, at, &mut self.pending);
    }

    /// Hands what was put to the system: a crash of this program does not lose it any more.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.pending, self.end)?;
        if !self.pending.is_empty() {
            self.end += self.pending.len() as u64;
            self.room = self.room.max(self.end);
            let tail = &self.pending[self.pending.len().saturating_sub(TAIL)..];
            self.tails.swap(0, 1);
            self.tails[1].at = self.end - tail.len() as u64;
            self.tails[1].bytes.clear();
            self.tails[1].bytes.extend_from_slice(tail);
        }
        if self.pending.capacity() > 4 * PIECE {
            self.pending = Vec::new();
        } else {
            self.pending.clear();
        }
        Ok(())
    }

    /// On disk: a crash of the machine does not lose it any more.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.synced = self.end;
        Ok(())
    }

    /// Another handle of it.
    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Whether what was written last is there, and what was written before that: nobody put an earlier state in its
    /// place, behind which the last write would be lost.
    pub(super) fn is_as_written(&self) -> bool {
        self.tails.iter().all(|Tail { at, bytes }| {
            let mut there = [0; TAIL];
            let there = &mut there[..bytes.len()];
            self.file.read_exact_at(there, *at).is_ok() && *there == bytes[..]
        })
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced == self.end
    }

    /// Bytes written.
    pub(super) fn len(&self) -> u64 {
        self.end
    }

    pub(super) fn has_room(&self) -> bool {
        self.room - self.end >= LEAST_ROOM
    }

    /// Zeros are room: a journal ends where only they follow.
    pub(super) fn make_room(&mut self) -> io::Result<()> {
        if !self.has_room() {
            let wanted = self.end + ROOM;
            allocate(&self.file, self.room, wanted)?;
            self.room = wanted;
        }
        Ok(())
    }
}

fn allocate(file: &File, from: u64, to: u64) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use nix::errno::Errno;
        use nix::fcntl::{FallocateFlags, fallocate};

        let (offset, length) = (from.cast_signed(), (to - from).cast_signed());
        match fallocate(file, FallocateFlags::empty(), offset, length) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
            allocated => return Ok(allocated?),
        }
    }
    // By hand where the file system has no other way.
    let zeros = [0; 64 * 1024];
    let mut at = from;
    while at < to {
        let length = zeros.len().min((to - at) as usize);
        file.write_all_at(&zeros[..length], at)?;
        at += length as u64;
    }
    Ok(())
}
