//! Rules broken on purpose: each break is found within a bounded number of histories, as what it is.

use std::rc::Rc;

use crate::world::Plant;
use crate::world::check::{Violation, Why};
use crate::world::history::History;
use crate::world::play::play;

/// More than any of them needs.
const SEEDS: u64 = 20_000;

/// Plays histories until one finds what is expected; nothing else may be found before, but for what `also` says.
#[track_caller]
fn finds(plant: Plant, expected: impl Fn(&Violation) -> bool, also: impl Fn(&Violation) -> bool) {
    crate::house::watchdog::attend();
    for seed in 0..SEEDS {
        let history = Rc::new(History::of(seed));
        if plant == Plant::LatenessIgnored && !history.starves_somebody() {
            continue;
        }
        let Some(found) = play(&history, plant, false).violation else { continue };
        if expected(&found) {
            println!("{plant:?}: {found} in history {seed}");
            return;
        }
        assert!(also(&found), "{plant:?}, seed {seed}: {found}");
    }
    panic!("{plant:?} is not found in {SEEDS} histories");
}

fn past_lease(found: &Violation) -> bool {
    matches!(
        found,
        Violation::ChildPastLease { .. } | Violation::BelievesPastLease { .. } | Violation::ChildPastBound { .. }
    )
}

fn lease_lost(found: &Violation) -> bool {
    matches!(found, Violation::LeaseLost { .. } | Violation::PlaceLost { .. } | Violation::ReleasedIsHeld { .. })
}

#[test]
fn a_missing_margin_is_found() {
    finds(
        Plant::MarginRemoved,
        |found| matches!(found, Violation::ChildPastLease { why: Why::Expired, .. }),
        past_lease,
    );
}

#[test]
fn a_missing_guardian_is_found() {
    finds(Plant::GuardianOff, |found| matches!(found, Violation::ChildPastLease { .. }), past_lease);
}

#[test]
fn a_guardian_that_stands_still_and_is_not_replaced_is_found() {
    let expired = |found: &Violation| matches!(found, Violation::ChildPastLease { .. });
    finds(Plant::SilenceIgnored, expired, past_lease);
}

#[test]
fn a_release_before_the_group_is_gone_is_found() {
    let released = |found: &Violation| matches!(found, Violation::ChildPastLease { why: Why::Released, .. });
    finds(Plant::ReleaseBeforeGroupGone, released, past_lease);
}

#[test]
fn a_death_that_is_taken_for_an_end_of_its_own_is_found() {
    let released = |found: &Violation| matches!(found, Violation::ChildPastLease { why: Why::Released, .. });
    finds(Plant::DeathTakenForAnEnd, released, past_lease);
}

#[test]
fn a_fence_that_is_not_persisted_is_found() {
    finds(Plant::FenceNotPersisted, |found| matches!(found, Violation::FenceNotGrowing { .. }), lease_lost);
}

#[test]
fn an_answer_before_fsync_is_found() {
    finds(Plant::AnswerBeforeFsync, |found| matches!(found, Violation::NotDurable { .. }), lease_lost);
}

#[test]
fn a_lease_counted_from_the_answer_is_found() {
    finds(Plant::LeaseFromAnswer, past_lease, past_lease);
}

#[test]
fn resuming_after_the_deadline_is_found() {
    finds(Plant::ResumeAfterDeadline, past_lease, past_lease);
}

#[test]
fn an_acquire_that_is_blindly_sent_again_is_found() {
    finds(Plant::BlindResend, |found| matches!(found, Violation::Orphan { .. }), |_| false);
}

#[test]
fn a_closed_connection_that_is_not_taken_for_a_loss_is_found() {
    finds(Plant::BrokenIsNotLost, |found| matches!(found, Violation::ChildPastBound { .. }), past_lease);
}

#[test]
fn lateness_that_is_not_noticed_is_found() {
    let expired = |found: &Violation| matches!(found, Violation::ChildPastLease { why: Why::Expired, .. });
    finds(Plant::LatenessIgnored, expired, past_lease);
}

#[test]
fn a_restart_that_forgets_the_time_it_was_down_is_found() {
    finds(Plant::DowntimeForgotten, |found| matches!(found, Violation::LeaseTooLong { .. }), |_| false);
}

#[test]
fn a_restart_that_trusts_the_wall_clock_is_found() {
    finds(Plant::WallClockTrusted, |found| matches!(found, Violation::LeaseLost { .. }), past_lease);
}

#[test]
fn a_grant_to_one_who_is_away_is_found() {
    finds(Plant::GrantToAbsent, |found| matches!(found, Violation::GrantedToAbsent { .. }), |_| false);
}

#[test]
fn a_door_that_is_closed_while_draining_is_found() {
    finds(Plant::DoorClosedWhileDraining, |found| matches!(found, Violation::TooManyHolders { .. }), lease_lost);
}

#[test]
fn a_new_journal_without_a_sync_of_its_directory_is_found() {
    finds(Plant::NoDirectorySync, |found| matches!(found, Violation::NotDurable { .. }), lease_lost);
}

#[test]
fn writing_on_in_a_file_that_has_lost_its_name_is_found() {
    finds(Plant::OldFileAfterRename, |found| matches!(found, Violation::NotDurable { .. }), lease_lost);
}

#[test]
fn a_new_journal_that_misses_what_happened_meanwhile_is_found() {
    finds(Plant::DraftMissesBatches, lease_lost, |found| matches!(found, Violation::FenceNotGrowing { .. }));
}

#[test]
fn an_answer_while_the_disk_fails_is_found() {
    finds(Plant::AnswerOnFailingDisk, |found| matches!(found, Violation::NotDurable { .. }), lease_lost);
}
