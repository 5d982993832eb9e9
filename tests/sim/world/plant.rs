//! Rules that can be broken on purpose, to see that the break is found.

/// A rule that is broken on purpose, to see that the break is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    Nothing,
    /// A child may live to the very end of the lease.
    MarginRemoved,
    GuardianOff,
    /// A guardian that does not answer is taken for one that does.
    SilenceIgnored,
    /// The lock is given back when the command ends, whoever is left of its group.
    ReleaseBeforeGroupGone,
    /// Whoever is left of the group of a command that was killed is left alone.
    DeathTakenForAnEnd,
    /// A restarted server begins its numbers at the wall clock.
    FenceNotPersisted,
    AnswerBeforeFsync,
    /// The lease is counted from the answer, not from before the request.
    LeaseFromAnswer,
    /// While the lock is being taken over again, no deadline counts.
    ResumeAfterDeadline,
    /// An acquire without an answer is sent again, and the first connection is kept.
    BlindResend,
    /// With a server that frees a lock when its connection breaks, the connection's end is no loss.
    BrokenIsNotLost,
    /// Dflock and its guardian do not notice that they wake late.
    LatenessIgnored,
    /// Leases begin anew where they stood when the server went down.
    DowntimeForgotten,
    /// After a reboot, the wall clock alone says how much time passed.
    WallClockTrusted,
    /// A place is granted though its owner is away.
    GrantToAbsent,
    /// A new journal gets its name, but the directory is not brought to disk.
    NoDirectorySync,
    /// A new journal has its name, but as that could not be brought to disk, the old one is written on.
    OldFileAfterRename,
    /// What happens while a new journal is begun goes to the old one only.
    DraftMissesBatches,
    /// The port of a server that drains is free, so that another one takes its place.
    DoorClosedWhileDraining,
    /// What could not be written is answered all the same.
    AnswerOnFailingDisk,
}
