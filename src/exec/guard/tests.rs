//! Guardians that are played, by whoever reads the other end of their sockets.

#![cfg(target_os = "linux")]

use std::cell::RefCell;
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::Duration;

use super::message::{receive, send};
use super::*;

/// More than there is room for.
const MANY: u64 = 2000;

/// What one is told, and what stands for its process.
struct Played {
    socket: OwnedFd,
    process: Child,
}

impl Played {
    fn begins(socket: OwnedFd) -> Played {
        Played { socket, process: Command::new("sleep").arg("60").spawn().unwrap() }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    /// All that is there, and how many descriptors came along.
    fn hears(&self) -> Vec<(Message, usize)> {
        let next = || receive(&self.socket).ok().flatten();
        std::iter::from_fn(next).map(|(message, descriptors)| (message, descriptors.len())).collect()
    }

    fn says(&self, message: &Message) {
        send(&self.socket, message, None).unwrap();
    }

    /// Its end may be read by us or by the guard.
    fn is_killed(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        status.rsplit_once(')').is_none_or(|(_, tail)| tail.trim_start().starts_with(['Z', 'X']))
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        // Its end may have been read by the guard.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

type Begun = Rc<RefCell<Vec<Played>>>;

/// The first of them, and those that are started later.
fn guard() -> (Guard, Played, Begun) {
    let begun: Begun = Rc::default();
    let start = {
        let begun = begun.clone();
        move |socket: &OwnedFd| {
            let next = Played::begins(socket.try_clone()?);
            message::introduction(&next.socket)?;
            let pid = next.pid();
            begun.borrow_mut().push(next);
            Ok(pid)
        }
    };
    let (ours, theirs) = message::pair().unwrap();
    let first = Played::begins(theirs);
    let told = Told { locks: Vec::new(), kin: None, kill_at: Moment::NEVER, held_until: Moment::NEVER, owner: None };
    let guard = Guard {
        current: Sentry::new(ours, Some(first.pid())),
        newborn: None,
        ended: Vec::new(),
        has_killed: None,
        successor: Successor { introduction: b"{}".to_vec(), start: Box::new(start) },
        births: Births::default(),
        told,
    };
    (guard, first, begun)
}

fn lock(key: &str) -> HeldLock {
    let (key, token) = (Key::new(key.as_bytes()).unwrap(), Token::new("0123").unwrap());
    HeldLock { key: key.clone(), space: Space::Locks, token: Token::new(&format!("{key}-{}", token.as_str())).unwrap() }
}

fn line() -> Line {
    Some(Arc::new(std::fs::File::open("/dev/null").unwrap().into()))
}

fn kin(leader: Option<Identity>) -> Kin {
    let dflock = Identity::now(nix::unistd::getpid().as_raw());
    let (mark, spared) = ("m".to_owned(), Vec::new());
    Kin { dflock, mark, spared, adopts: false, reapers: Vec::new(), cgroup: None, process_one: None, leader }
}

const LEADER: Identity = Identity { pid: 4711, started: 12 };

/// The one before is dead, and its end was read.
fn follow(guard: &mut Guard, first: &mut Played) {
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    guard.was_reaped(first.pid());
    guard.attend().unwrap();
}

/// Dflock may be killed at any step.
#[test]
fn a_successor_that_was_told_half_lets_go_of_nothing_that_is_relied_on() {
    let told = || Told {
        locks: vec![(lock("a"), None), (lock("b"), None)],
        kin: Some((kin(Some(LEADER)), None)),
        kill_at: Moment::from_nanos(8),
        held_until: Moment::from_nanos(9),
        owner: None,
    };
    let is_lock = |message: &Message| matches!(message, Message::Lock(_));
    let needed_before_a_lock = |told: &Told| -> Vec<Message> {
        told.messages().into_iter().map(|(message, _)| message).take_while(|message| !is_lock(message)).collect()
    };
    let before = needed_before_a_lock(&told());
    let knows = |wanted: fn(&Message) -> bool| before.iter().any(wanted);
    assert!(knows(|message| matches!(message, Message::Kin(kin) if kin.leader.is_some())), "{before:?}");
    assert!(knows(|message| matches!(message, Message::KillAt(8))), "{before:?}");
    assert!(knows(|message| matches!(message, Message::HeldUntil(9))), "{before:?}");
    let before = needed_before_a_lock(&Told { kin: None, owner: Some((15, None)), ..told() });
    assert!(before.iter().any(|message| matches!(message, Message::Owner(15))), "{before:?}");
}

#[test]
fn a_successor_is_told_all_that_is_true_and_nothing_that_was() {
    let (mut guard, mut first, begun) = guard();
    guard.lock(lock("a"), None).unwrap();
    guard.lock(lock("b"), None).unwrap();
    guard.reconnected(&lock("b").token, line());
    guard.kin(kin(None), None).unwrap();
    guard.leader(LEADER).unwrap();
    guard.kill_at(Moment::from_nanos(8));
    guard.held_until(Moment::from_nanos(9));
    guard.kill_at(Moment::NEVER);
    guard.handed_over(lock("a")).unwrap();
    let heard = first.hears();
    assert!(heard.iter().any(|(message, lines)| matches!(message, Message::Reconnected(_)) && *lines == 1));
    assert!(heard.iter().any(|(message, _)| matches!(message, Message::HandedOver(known) if *known == lock("a"))));
    follow(&mut guard, &mut first);
    let heard = begun.borrow()[0].hears();
    let [(Message::Kin(kin), 0), (Message::HeldUntil(9), 0), (Message::KillAt(kill_at), 0), lock_b, (Message::Ask, 0)] =
        &heard[..]
    else {
        panic!("{heard:?}")
    };
    assert_eq!((kin.leader, *kill_at), (Some(LEADER), Moment::NEVER.as_nanos()));
    assert!(matches!(lock_b, (Message::Lock(known), 1) if *known == lock("b")), "{lock_b:?}");
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = clock::now();
    while !is_so() {
        assert!(clock::now().since(begin) < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Before there is a command, nobody else looks after it.
#[test]
fn whoever_has_something_to_tell_and_nobody_to_hear_it_starts_another_one() {
    let (mut guard, mut first, begun) = guard();
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    guard.was_reaped(first.pid());
    guard.lock(lock("a"), line()).unwrap();
    assert!(matches!(begun.borrow()[0].hears()[..], [_, _, (Message::Lock(_), 1), (Message::Ask, 0)]));
}

#[test]
fn a_successor_of_one_whose_command_has_ended_is_told_of_none() {
    let (mut guard, mut first, begun) = guard();
    guard.kin(kin(Some(LEADER)), None).unwrap();
    guard.command_ended().unwrap();
    assert!(matches!(first.hears()[..], [(Message::Kin(_), 0), (Message::Ended, 0)]));
    follow(&mut guard, &mut first);
    assert!(!begun.borrow()[0].hears().iter().any(|(message, _)| matches!(message, Message::Kin(_))));
}

/// It is told what comes meanwhile, and counts when it has heard all before that.
#[test]
fn one_that_is_being_born_misses_nothing_and_counts_when_it_has_answered() {
    let (mut guard, mut first, begun) = guard();
    follow(&mut guard, &mut first);
    guard.kill_at(Moment::from_nanos(8));
    guard.lock(lock("a"), line()).unwrap();
    guard.command_ended().unwrap();
    let next = &begun.borrow()[0];
    let heard = next.hears();
    let [.., (Message::Ask, 0), (Message::KillAt(8), 0), (Message::Lock(_), 1), (Message::Ended, 0)] = &heard[..]
    else {
        panic!("{heard:?}")
    };
    // `HeldUntil`, `KillAt` and `Ask` came first.
    for (orders, is_there) in [(0, false), (2, false), (3, true)] {
        next.says(&Message::Heard(orders));
        guard.attend().unwrap();
        assert_eq!(
            (guard.is_there(), guard.current.pid() == Some(next.pid())),
            (is_there, is_there),
            "{orders} were heard"
        );
    }
    assert_eq!(begun.borrow().len(), 1);
}

/// There is always one who may act.
#[test]
fn one_that_is_stopped_stays_until_another_has_answered() {
    let (mut guard, first, begun) = guard();
    guard.was_stopped(first.pid());
    assert!(!guard.is_there());
    guard.attend().unwrap();
    assert!(!first.is_killed());
    let next = &begun.borrow()[0];
    assert!([first.pid(), next.pid()].iter().all(|pid| guard.is_guardian(pid.as_raw())));
    next.says(&Message::Killed(WhyEarly::Starved));
    guard.attend().unwrap();
    assert!(!first.is_killed());
    next.says(&Message::Heard(3));
    guard.attend().unwrap();
    assert!(guard.is_there());
    wait_for("the end of the old one", || first.is_killed());
    assert_eq!(guard.has_killed(), Some(WhyEarly::Starved), "whichever it was that killed");
    assert!(guard.is_guardian(next.pid().as_raw()) && !guard.is_guardian(LEADER.pid));
    wait_for("its end to be read", || guard.attend().is_ok() && guard.ended.is_empty());
}

#[test]
fn a_number_whose_end_was_read_is_forgotten() {
    let (mut guard, mut first, begun) = guard();
    follow(&mut guard, &mut first);
    assert_eq!(guard.current.pid(), None);
    guard.kill_at(Moment::from_nanos(8));
    assert!(!guard.current.say(&Message::Ask, &None) && !guard.current.is_well());
    let next = begun.borrow()[0].pid();
    guard.was_reaped(next);
    assert!(guard.newborn.is_none());
    guard.ended.push(next);
    guard.was_reaped(next);
    assert!(guard.ended.is_empty());
    assert!(!begun.borrow()[0].is_killed(), "nobody signals a number that may be anybody's");
}

#[test]
fn one_that_is_stopped_or_gone_before_it_is_born_is_followed_too() {
    let stops: fn(&mut Guard, &Begun) = |guard, begun| guard.was_stopped(begun.borrow()[0].pid());
    let closes: fn(&mut Guard, &Begun) = |guard, begun| {
        let (_, other) = message::pair().unwrap();
        begun.borrow_mut()[0].socket = other;
        wait_for("its end to be missed", || guard.attend().is_err());
    };
    for fails in [stops, closes] {
        let (mut guard, mut first, begun) = guard();
        follow(&mut guard, &mut first);
        fails(&mut guard, &begun);
        assert!(guard.newborn.is_none());
        wait_for("its end", || begun.borrow()[0].is_killed());
        assert!(guard.attend().is_err() || clock::now() >= guard.births.next_at(), "not at once");
        wait_for("another one", || guard.attend().is_ok());
        assert_eq!(begun.borrow().len(), 2);
    }
}

#[test]
fn where_those_before_do_not_end_no_other_is_started() {
    let (mut guard, mut first, begun) = guard();
    let others: Vec<Played> = (0..MOST_ENDED).map(|_| Played::begins(message::pair().unwrap().0)).collect();
    guard.ended.extend(others.iter().map(Played::pid));
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    guard.was_reaped(first.pid());
    assert!(guard.attend().is_err() && begun.borrow().is_empty());
    guard.ended.pop();
    wait_for("another one", || guard.attend().is_ok());
    guard.ended.clear();
}

/// It would end whom the command left behind, or free what is a holder's by now.
#[test]
fn one_that_cannot_be_told_what_is_over_is_ended() {
    let (mut guard, first, begun) = guard();
    (0..MANY).for_each(|nanos| guard.kill_at(Moment::from_nanos(nanos)));
    assert!(!guard.is_there());
    assert!(!first.is_killed());
    guard.command_ended().unwrap();
    wait_for("its end", || first.is_killed());
    // The next one does not hear either, and what it has no room for may wait.
    (0..MANY).for_each(|nanos| guard.kill_at(Moment::from_nanos(nanos)));
    let pid = begun.borrow()[0].pid();
    assert!(guard.newborn.as_ref().is_some_and(|newborn| newborn.sentry.seems_well()));
    // Another one may begin at once, or later.
    let _ = guard.handed_over(lock("a"));
    assert!(guard.newborn.as_ref().is_none_or(|newborn| newborn.sentry.pid() != Some(pid)));
    wait_for("its end", || begun.borrow()[0].is_killed());
}

#[test]
fn one_that_is_slow_to_be_born_hears_all_in_the_end() {
    let (mut guard, mut first, begun) = guard();
    follow(&mut guard, &mut first);
    (0..MANY).for_each(|nanos| guard.kill_at(Moment::from_nanos(nanos)));
    let next = &begun.borrow()[0];
    let mut heard = 0;
    wait_for("all of it", || {
        let told = next.hears();
        heard += told.len() as u64;
        guard.attend().unwrap();
        told.is_empty()
    });
    assert_eq!(heard, 3 + MANY);
}

#[test]
fn what_is_no_message_is_no_death() {
    let (mut guard, first, _) = guard();
    nix::sys::socket::send(first.socket.as_raw_fd(), b"?", nix::sys::socket::MsgFlags::empty()).unwrap();
    guard.attend().unwrap();
    assert!(guard.is_there());
    drop(first);
    wait_for("its end to be noticed", || guard.attend().is_ok() && !guard.is_there());
}

#[test]
fn whoever_does_not_leave_is_ended() {
    // It does not hear that it may.
    let (mut guard, first, _) = guard();
    (0..MANY).for_each(|nanos| guard.kill_at(Moment::from_nanos(nanos)));
    guard.say_farewell();
    wait_for("the end of one that cannot be told", || first.is_killed());
    // It hears, and stays.
    let (mut guard, mut first, begun) = self::guard();
    guard.was_stopped(first.pid());
    guard.attend().unwrap();
    guard.say_farewell();
    wait_for("the end of one that is not born", || begun.borrow()[0].is_killed());
    assert!(!first.is_killed());
    guard.see_off();
    assert!(first.is_killed() && first.process.try_wait().is_err(), "its end was read");
}
