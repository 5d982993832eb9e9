//! A disk: files with what the system has been handed and what is on disk for sure, names likewise.

use super::mix;

#[derive(Clone, Default)]
pub struct File {
    pub bytes: Vec<u8>,
    synced: usize,
    /// Everything that happened up to a mark is told by so many bytes.
    marks: Vec<(usize, u64)>,
}

#[derive(Default)]
pub struct Disk {
    files: Vec<File>,
    /// The file that is called journal, as programs see it and as a power cut leaves it.
    journal: Option<usize>,
    journal_on_disk: Option<usize>,
    /// Writes and syncs fail.
    pub broken: bool,
    /// Only bringing the directory to disk fails.
    pub directory_broken: bool,
    /// How much longer a sync takes.
    pub slow_by: u64,
}

/// What a failing disk says.
#[derive(Clone, Copy, Debug)]
pub struct Failed;

impl Disk {
    pub fn create(&mut self) -> Result<usize, Failed> {
        self.can_write()?;
        self.files.push(File::default());
        Ok(self.files.len() - 1)
    }

    fn can_write(&self) -> Result<(), Failed> {
        if self.broken { Err(Failed) } else { Ok(()) }
    }

    pub fn append(&mut self, file: usize, bytes: &[u8]) -> Result<(), Failed> {
        self.can_write()?;
        self.files[file].bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// For the checks only: what was appended so far tells everything up to `mark`.
    pub fn note(&mut self, file: usize, mark: u64) {
        let file = &mut self.files[file];
        file.marks.push((file.bytes.len(), mark));
    }

    /// The end of a sync that began when the file had so many bytes.
    pub fn sync(&mut self, file: usize, length: usize) -> Result<(), Failed> {
        self.can_write()?;
        let file = &mut self.files[file];
        file.synced = file.synced.max(length);
        Ok(())
    }

    pub fn rename_to_journal(&mut self, file: usize) -> Result<(), Failed> {
        self.can_write()?;
        self.journal = Some(file);
        Ok(())
    }

    pub fn sync_directory(&mut self) -> Result<(), Failed> {
        if self.broken || self.directory_broken {
            return Err(Failed);
        }
        self.journal_on_disk = self.journal;
        Ok(())
    }

    pub fn read_journal(&self) -> Option<Vec<u8>> {
        self.journal.map(|file| self.files[file].bytes.clone())
    }

    /// Everything up to this mark would be read after a power cut now, whatever reached the disk besides, and
    /// after a crash of the server.
    pub fn safe_mark(&self) -> u64 {
        let of = |file: Option<usize>, length: fn(&File) -> usize| {
            let file = file.map(|file| &self.files[file]);
            let marks = file.map(|file| file.marks.iter().rev().find(|(end, _)| *end <= length(file)));
            marks.flatten().map_or(0, |(_, mark)| *mark)
        };
        let synced = |file: &File| file.synced;
        of(self.journal, synced).min(of(self.journal_on_disk, synced)).min(of(self.journal, |file| file.bytes.len()))
    }

    /// A new process numbers what happens anew.
    pub fn forget_marks(&mut self) {
        self.files.iter_mut().for_each(|file| file.marks.clear());
    }

    /// The power is cut: of what was not on disk for sure, any part may be there, and it may be anything.
    pub fn lose_power(&mut self, dice: u64) {
        if self.journal != self.journal_on_disk && !dice.is_multiple_of(3) {
            self.journal = self.journal_on_disk;
        }
        self.journal_on_disk = self.journal;
        let Some(file) = self.journal else { return };
        let file = &mut self.files[file];
        let tail = file.bytes.len() - file.synced;
        if tail == 0 {
            return;
        }
        let synced = file.synced;
        let kept = synced + (mix(&[dice, 1]) as usize) % (tail + 1);
        match mix(&[dice, 2]) % 4 {
            // Cut off, or with room behind it.
            0 => file.bytes.truncate(kept),
            1 => file.bytes[kept..].fill(0),
            2 => file.bytes[kept..].iter_mut().enumerate().for_each(|(at, byte)| *byte = mix(&[dice, at as u64]) as u8),
            // Pages in any order.
            _ => {
                let page = 16 + mix(&[dice, 3]) as usize % 64;
                for (at, page) in file.bytes[synced..].chunks_mut(page).enumerate() {
                    match mix(&[dice, 4, at as u64]) % 3 {
                        0 => page.fill(0),
                        1 => page.fill(mix(&[dice, 5]) as u8),
                        _ => {}
                    }
                }
            }
        }
        file.synced = file.bytes.len();
    }
}
