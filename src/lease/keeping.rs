//! Pure: what is done about a lock that is being kept, whatever comes: answers, breaks, orders, and time.
//!
//! One thing is under way with the server at a time, the [`Work`]; the next one takes its place. An order that comes
//! meanwhile waits here, as part of the state, so that none hides another: a release is heard during a renewal that
//! nobody answers. Every order is answered by a deadline, whatever the server does.
//!
//! Whoever carries out the actions says what happens, and comes back at [`Keeping::wake_at`] at the latest.

use std::collections::VecDeque;
use std::time::Duration;

use super::lateness::Lateness;
use super::plan::{Plan, Step};
use crate::backend::{Renewal, Terms};
use crate::clock::Moment;
use crate::error::{Failure, Kind};

/// How long one renewal may take where another way to the server can be tried after it.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How long a release may take.
pub const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// For how much of that it waits for the answer to a renewal: a millisecond, as a rule.
const RENEWAL_FIRST: Duration = Duration::from_secs(1);

/// How long a release may take that is only a kindness to those who wait.
const AFTER_LOSS_WITHIN: Duration = Duration::from_millis(500);

/// How long an order to renew may wait for its answer. Whoever asks a holder waits a little longer than this.
pub const ORDER_WITHIN: Duration = Duration::from_secs(4);

/// How many orders may wait.
const MOST_ORDERS: usize = 64;

/// As for every lease: a shorter one would be over before anybody could use it.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// The part of a lease after which it is looked how late we wake, and bounds of that.
const LOOKS: u32 = 50;
const LOOK_AFTER_LEAST: Duration = Duration::from_millis(100);
const LOOK_AFTER_MOST: Duration = Duration::from_secs(1);

const NOT_IN_TIME: &str = "it could not be renewed in time";

/// The lease, as far as it can be proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseNews {
    /// A child must be told to end at `term_at` and be dead by `dead_at`, unless better news come. At `ends_at` the
    /// lock may be somebody else's.
    Held { term_at: Moment, dead_at: Moment, ends_at: Moment, lease: Duration },
    /// Renewing fails; it is still ours until `term_at`.
    InDanger { term_at: Moment, dead_at: Moment, ends_at: Moment, why: String },
    /// The server gave it away, or may do so once `dead_at` is over.
    Lost { proved: bool, dead_at: Moment, why: String },
}

/// What an owner may want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Renews now, for `lease` or as long as before.
    Renew {
        lease: Option<Duration>,
    },
    Release,
    /// Somebody else keeps the lock now.
    Leave,
}

/// What came of an order: how long the lease is now, which after a release is nothing.
pub type Outcome = Result<Duration, Failure>;

/// What happens. `A` is what an order is answered by.
#[derive(Debug)]
pub enum Event<A> {
    /// It is time to look at the clock.
    Due,
    /// What came of [`Work::Renew`] or [`Work::Restore`].
    Answered(Renewal),
    /// What came of [`Work::Listen`].
    Broken(String),
    /// What came of [`Work::GiveBack`].
    GaveBack(Result<(), Failure>),
    Ordered(Order, A),
    /// Nobody will order anything any more.
    OwnerGone,
}

#[derive(Debug)]
pub enum Action<A> {
    /// From now on this is done, and whatever was under way is dropped.
    Do(Work),
    Publish(LeaseNews),
    Answer(A, Outcome),
    /// The last action.
    End,
}

/// What is under way with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing is asked; the connection is listened to.
    Listen,
    Renew {
        lease: Duration,
        until: Moment,
    },
    /// Another way to the server is looked for, and the lock taken over on it.
    Restore {
        lease: Duration,
        until: Moment,
    },
    GiveBack {
        until: Moment,
    },
    /// The lock is lost: the server is left alone.
    Rest,
}

#[derive(Clone, Debug)]
pub struct Keeping<A> {
    plan: Plan,
    /// What is asked for each time. A server that gives less once may give it all the next time.
    wish: Duration,
    outlives_connection: bool,
    state: State<A>,
    /// Orders to renew that have not begun, the eldest first.
    waiting: VecDeque<RenewOrder<A>>,
    wake_at: Moment,
    lateness: Lateness,
    /// There is less time than was told, because we wake late.
    is_shortened: bool,
}

#[derive(Clone, Debug)]
enum State<A> {
    Idle,
    Renewing {
        /// When it counts as unanswered.
        until: Moment,
        /// For whom, if it was not due by itself, and if he still waits.
        order: Option<RenewOrder<A>>,
        /// The lock is to be given back next.
        leaving: Option<Leaving<A>>,
    },
    Restoring,
    GivingBack {
        until: Moment,
        answer: Option<A>,
        /// It was lost before, for this reason.
        lost: Option<String>,
    },
    Lost {
        proved: bool,
        why: String,
    },
    Over,
}

#[derive(Clone, Debug)]
struct RenewOrder<A> {
    lease: Option<Duration>,
    answer: A,
    answer_by: Moment,
}

#[derive(Clone, Debug)]
struct Leaving<A> {
    /// `None`: the owner is gone.
    answer: Option<A>,
    /// Until when the renewal may be answered first.
    begin_by: Moment,
    until: Moment,
}

impl<A> Keeping<A> {
    /// Begins with [`Work::Listen`]. `grace` is how long before the end of the lease news of its loss are needed.
    pub fn new(terms: Terms, grace: Duration) -> Keeping<A> {
        let plan = Plan::new(terms.asked, terms.lease, grace, terms.unheard_limit);
        let mut keeping = Keeping {
            plan,
            wish: terms.lease,
            outlives_connection: terms.outlives_connection,
            state: State::Idle,
            waiting: VecDeque::new(),
            wake_at: Moment::NEVER,
            lateness: Lateness::default(),
            is_shortened: false,
        };
        keeping.wake_at = keeping.next_look(terms.asked);
        keeping
    }

    /// To be said before anything else: how late we woke while the lock was waited for.
    pub fn begin(&mut self, now: Moment, refused: Option<Duration>, lateness: Lateness) {
        self.lateness = lateness;
        self.lateness.looked(now, refused, self.plan.lease());
        self.plan.set_late_margin(self.lateness.starved_margin());
        // What was asked for may be long ago, though nobody is late for that.
        self.wake_at = self.next_look(now);
    }

    /// What is to be told of the lease as long as nothing else is known.
    pub fn held(&self) -> LeaseNews {
        let plan = &self.plan;
        let (term_at, dead_at, ends_at) = (plan.term_at(), plan.dead_at(), plan.ends_at());
        LeaseNews::Held { term_at, dead_at, ends_at, lease: plan.lease() }
    }

    fn in_danger(&self, why: String) -> LeaseNews {
        let plan = &self.plan;
        let (term_at, dead_at, ends_at) = (plan.term_at(), plan.dead_at(), plan.ends_at());
        LeaseNews::InDanger { term_at, dead_at, ends_at, why }
    }

    /// When [`Event::Due`] is due.
    pub fn wake_at(&self) -> Moment {
        self.wake_at
    }

    /// To be said before each event: `refused` is for how long this process has been refused a processor in all its
    /// life, where the system tells. Who wakes late for that has to stop earlier: at once, and until a renewal finds it
    /// better. For one who is only stopped now and then the guardian is there.
    pub fn woke(&mut self, now: Moment, refused: Option<Duration>) {
        self.lateness.woke(now, self.wake_at, refused, self.plan.lease());
        let before = self.plan.dead_at();
        self.plan.set_late_margin(self.lateness.starved_margin().max(self.plan.late_margin()));
        self.is_shortened |= self.plan.dead_at() < before;
    }

    /// What to do about `event`.
    pub fn next(&mut self, now: Moment, event: Event<A>) -> Vec<Action<A>> {
        let mut actions = Vec::new();
        if std::mem::take(&mut self.is_shortened) {
            match self.state {
                State::Idle | State::Renewing { .. } => actions.push(Action::Publish(self.held())),
                State::Restoring => actions.push(Action::Publish(self.in_danger(self.too_late(now)))),
                State::GivingBack { .. } | State::Lost { .. } | State::Over => {}
            }
        }
        let was_idle = matches!(self.state, State::Idle);
        // Then the clock before anything else: this may be the waking from any pause. Only an answer comes before it,
        // for it may prove that there is more time.
        let event = match event {
            Event::Answered(renewal) => {
                self.answered(now, renewal, &mut actions);
                Event::Due
            }
            other => other,
        };
        self.look_at_the_clock(now, &mut actions);
        match event {
            Event::Due | Event::Answered(_) => {}
            Event::Broken(why) => {
                if matches!(self.state, State::Idle) {
                    self.unanswered(now, why, None, None, &mut actions);
                }
            }
            Event::GaveBack(result) => self.gave_back(result, &mut actions),
            Event::Ordered(Order::Renew { lease }, answer) => self.ordered(now, lease, answer, &mut actions),
            Event::Ordered(Order::Release, answer) => self.leave(now, Some(answer), &mut actions),
            Event::Ordered(Order::Leave, answer) => self.end(answer, &mut actions),
            Event::OwnerGone => self.leave(now, None, &mut actions),
        }
        self.go_on(now, was_idle, &mut actions);
        self.wake_at = self.next_look(now);
        actions
    }

    /// What came of a renewal, or of taking the lock over on another connection.
    fn answered(&mut self, now: Moment, renewal: Renewal, actions: &mut Vec<Action<A>>) {
        match (std::mem::replace(&mut self.state, State::Idle), renewal) {
            (State::Renewing { order, leaving, .. }, Renewal::Renewed(terms)) => {
                self.apply(terms, actions);
                if let Some(order) = order {
                    self.wish = order.lease.unwrap_or(self.wish);
                    actions.push(Action::Answer(order.answer, Ok(terms.lease)));
                }
                if let Some(leaving) = leaving {
                    self.give_back_late(now, leaving, actions);
                }
            }
            (State::Restoring, Renewal::Renewed(terms)) => self.apply(terms, actions),
            (State::Renewing { order, leaving, .. }, Renewal::Unknown(why)) => {
                self.unanswered(now, why, order, leaving, actions);
            }
            // There is no time for another attempt.
            (State::Restoring, Renewal::Unknown(_)) => self.lose(false, &self.too_late(now), None, None, actions),
            (State::Renewing { order, leaving, .. }, Renewal::Gone) => {
                self.lose(true, "the server says that its lease has ended", order, leaving, actions);
            }
            (State::Restoring, Renewal::Gone) => {
                self.lose(true, "the server says that its lease has ended", None, None, actions);
            }
            // Nothing was asked.
            (state, _) => self.state = state,
        }
    }

    fn apply(&mut self, terms: Terms, actions: &mut Vec<Action<A>>) {
        self.outlives_connection = terms.outlives_connection;
        self.plan.set_unheard_limit(terms.unheard_limit);
        self.plan.set_late_margin(self.lateness.starved_margin());
        self.plan.renewed(terms.asked, terms.lease, terms.asked.as_nanos() / 1000);
        actions.push(Action::Publish(self.held()));
    }

    /// What the clock says, whatever else happened: what has a deadline, and has not come by it.
    fn look_at_the_clock(&mut self, now: Moment, actions: &mut Vec<Action<A>>) {
        while self.waiting.front().is_some_and(|order| now >= order.answer_by)
            && let Some(order) = self.waiting.pop_front()
        {
            actions.push(Action::Answer(order.answer, Err(no_answer())));
        }
        if let State::Renewing { order, .. } = &mut self.state
            && let Some(order) = order.take_if(|order| now >= order.answer_by)
        {
            // The renewal goes on; what it leads to is taken, but nobody wishes for its lease any more.
            actions.push(Action::Answer(order.answer, Err(no_answer())));
        }
        let is_over = now >= self.plan.term_at();
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Renewing { order, leaving: Some(leaving), until }
                if is_over || now >= leaving.begin_by || now >= until =>
            {
                self.waiting.extend(order);
                self.refuse_waiting(actions);
                self.give_back_late(now, leaving, actions);
            }
            State::Renewing { order, leaving: None, .. } if is_over => {
                self.lose(false, &self.too_late(now), order, None, actions);
            }
            State::Idle | State::Restoring if is_over => self.lose(false, &self.too_late(now), None, None, actions),
            State::Renewing { order, leaving: None, until } if now >= until => {
                self.unanswered(now, "no answer in time".to_owned(), order, None, actions);
            }
            State::GivingBack { until, answer, lost } if now >= until => {
                self.state = State::GivingBack { until, answer, lost };
                self.gave_back(Err(Failure::new(Kind::Unreachable, "the server does not answer")), actions);
            }
            state => self.state = state,
        }
    }

    /// The way to the server is broken, or a renewal got no answer, which is taken for the same: whatever comes on
    /// that connection now answers something else. Where the server frees a lock with its connection, a lost
    /// connection is a lost lock; otherwise the lock is taken over on another one.
    fn unanswered(
        &mut self,
        now: Moment,
        why: String,
        order: Option<RenewOrder<A>>,
        leaving: Option<Leaving<A>>,
        actions: &mut Vec<Action<A>>,
    ) {
        match leaving {
            Some(leaving) => {
                self.waiting.extend(order);
                self.refuse_waiting(actions);
                self.give_back_late(now, leaving, actions);
            }
            None if now >= self.plan.term_at() => self.lose(false, &self.too_late(now), order, None, actions),
            None if !self.outlives_connection => self.lose(true, &why, order, None, actions),
            None => {
                // It is begun again when there is a way to the server, if it still has the time.
                if let Some(order) = order {
                    self.waiting.push_front(order);
                }
                self.expect_no_more_than(now, self.wish);
                self.state = State::Restoring;
                actions.push(Action::Publish(self.in_danger(why)));
                actions.push(Action::Do(Work::Restore { lease: self.wish, until: self.plan.term_at() }));
            }
        }
    }

    /// From now on nobody may rely on the lock. It is never taken again.
    fn lose(
        &mut self,
        proved: bool,
        why: &str,
        order: Option<RenewOrder<A>>,
        leaving: Option<Leaving<A>>,
        actions: &mut Vec<Action<A>>,
    ) {
        actions.push(Action::Publish(LeaseNews::Lost { proved, dead_at: self.plan.dead_at(), why: why.to_owned() }));
        for order in order.into_iter().chain(self.waiting.drain(..)) {
            actions.push(Action::Answer(order.answer, Err(lost(why))));
        }
        if let Some(leaving) = leaving {
            let lost = Some(why.to_owned());
            self.state = State::GivingBack { until: leaving.until, answer: leaving.answer, lost };
            return self.gave_back(Ok(()), actions);
        }
        self.state = State::Lost { proved, why: why.to_owned() };
        actions.push(Action::Do(Work::Rest));
    }

    fn ordered(&mut self, now: Moment, lease: Option<Duration>, answer: A, actions: &mut Vec<Action<A>>) {
        let refusal = match &self.state {
            State::Lost { why, .. } => lost(why),
            State::Renewing { leaving: Some(_), .. } | State::GivingBack { .. } | State::Over => released(),
            _ if lease.is_some_and(|lease| lease < SHORTEST_LEASE) => Failure::usage("a lease must be at least 1s"),
            _ if self.waiting.len() >= MOST_ORDERS => {
                Failure::new(Kind::Internal, "too many renewals are waited for already").hint("try again later")
            }
            State::Idle | State::Renewing { leaving: None, .. } | State::Restoring => {
                self.waiting.push_back(RenewOrder { lease, answer, answer_by: now + ORDER_WITHIN });
                return;
            }
        };
        actions.push(Action::Answer(answer, Err(refusal)));
    }

    /// The owner gives the lock back, or is gone.
    fn leave(&mut self, now: Moment, answer: Option<A>, actions: &mut Vec<Action<A>>) {
        let until = now + RELEASE_WITHIN;
        match &mut self.state {
            State::Idle | State::Restoring => {
                self.refuse_waiting(actions);
                self.give_back(until, answer, None, actions);
            }
            // Its answer comes before that to a release on the same connection.
            State::Renewing { leaving, .. } if leaving.is_none() => {
                *leaving = Some(Leaving { answer, begin_by: now + RENEWAL_FIRST, until });
                self.refuse_waiting(actions);
            }
            State::Lost { proved, why } => {
                let why = std::mem::take(why);
                if *proved {
                    self.state = State::GivingBack { until, answer, lost: Some(why) };
                    self.gave_back(Ok(()), actions);
                } else {
                    // The server may still keep it for us, to nobody's use.
                    self.give_back(now + AFTER_LOSS_WITHIN, answer, Some(why), actions);
                }
            }
            State::Renewing { .. } | State::GivingBack { .. } | State::Over => {
                actions.extend(answer.map(|answer| Action::Answer(answer, Err(released()))));
            }
        }
    }

    /// Somebody else has the lock now, so it is not given back.
    fn end(&mut self, answer: A, actions: &mut Vec<Action<A>>) {
        let (order, leaving) = match std::mem::replace(&mut self.state, State::Over) {
            State::Renewing { order, leaving, .. } => (order, leaving.and_then(|leaving| leaving.answer)),
            State::GivingBack { answer, .. } => (None, answer),
            State::Idle | State::Restoring | State::Lost { .. } | State::Over => (None, None),
        };
        self.waiting.extend(order);
        self.refuse_waiting(actions);
        actions.extend(leaving.map(|answer| Action::Answer(answer, Err(released()))));
        actions.push(Action::Answer(answer, Ok(Duration::ZERO)));
        actions.push(Action::End);
    }

    /// After a renewal; and after a pause of any length there is still time for it.
    fn give_back_late(&mut self, now: Moment, leaving: Leaving<A>, actions: &mut Vec<Action<A>>) {
        let until = leaving.until.max(now + (RELEASE_WITHIN - RENEWAL_FIRST));
        self.give_back(until, leaving.answer, None, actions);
    }

    fn give_back(&mut self, until: Moment, answer: Option<A>, lost: Option<String>, actions: &mut Vec<Action<A>>) {
        self.state = State::GivingBack { until, answer, lost };
        actions.push(Action::Do(Work::GiveBack { until }));
    }

    fn gave_back(&mut self, result: Result<(), Failure>, actions: &mut Vec<Action<A>>) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::GivingBack { answer, lost: why, .. } => {
                let outcome = why.map_or(result, |why| Err(lost(&why))).map(|()| Duration::ZERO);
                actions.extend(answer.map(|answer| Action::Answer(answer, outcome)));
                actions.push(Action::End);
            }
            state => self.state = state,
        }
    }

    /// What has not begun will not begin any more.
    fn refuse_waiting(&mut self, actions: &mut Vec<Action<A>>) {
        let refused = self.waiting.drain(..).map(|order| Action::Answer(order.answer, Err(released())));
        actions.extend(refused);
    }

    /// With nothing under way: what was ordered, or is due.
    fn go_on(&mut self, now: Moment, was_idle: bool, actions: &mut Vec<Action<A>>) {
        if !matches!(self.state, State::Idle) {
            return;
        }
        if let Some(order) = self.waiting.pop_front() {
            self.begin_renewal(now, order.lease.unwrap_or(self.wish), Some(order), actions);
        } else if self.plan.step(now) == Step::RenewNow {
            self.begin_renewal(now, self.wish, None, actions);
        } else if !was_idle {
            actions.push(Action::Do(Work::Listen));
        }
    }

    fn begin_renewal(
        &mut self,
        now: Moment,
        lease: Duration,
        order: Option<RenewOrder<A>>,
        actions: &mut Vec<Action<A>>,
    ) {
        if self.expect_no_more_than(now, lease) {
            actions.push(Action::Publish(self.held()));
        }
        // Where another way to the server can be tried, an attempt is short; otherwise its answer is all there is.
        let term_at = self.plan.term_at();
        let until = if self.outlives_connection { term_at.min(now + ATTEMPT) } else { term_at };
        self.state = State::Renewing { until, order, leaving: None };
        actions.push(Action::Do(Work::Renew { lease, until }));
    }

    /// A request for `lease` leaves. It may be carried out though nobody hears the answer: so if that leaves less
    /// time, it is less from now on. Says whether it is.
    fn expect_no_more_than(&mut self, now: Moment, lease: Duration) -> bool {
        let mut shorter = self.plan.clone();
        shorter.renewed(now, lease, 0);
        let is_less = shorter.dead_at() < self.plan.dead_at();
        if is_less {
            self.plan = shorter;
        }
        is_less
    }

    /// Why there is no time left.
    fn too_late(&self, now: Moment) -> String {
        if !self.plan.is_over_for_lateness(now) {
            return NOT_IN_TIME.to_owned();
        }
        let worst = self.lateness.starved().as_secs_f64();
        if self.lateness.is_told() {
            format!("this machine does not give dflock enough processor time: it had to wait {worst:.1}s for some")
        } else {
            format!("dflock did not run for {worst:.1}s, and more than once: stopped, or for want of processor time")
        }
    }

    fn next_look(&self, now: Moment) -> Moment {
        let term_at = self.plan.term_at();
        let look_at = now + (self.plan.lease() / LOOKS).clamp(LOOK_AFTER_LEAST, LOOK_AFTER_MOST);
        let own = match &self.state {
            State::Idle => self.plan.renew_at().min(term_at).min(look_at),
            State::Renewing { until, order, leaving } => {
                let order = order.as_ref().map_or(Moment::NEVER, |order| order.answer_by);
                let leaving = leaving.as_ref().map_or(Moment::NEVER, |leaving| leaving.begin_by);
                term_at.min(*until).min(order).min(leaving).min(look_at)
            }
            State::Restoring => term_at.min(look_at),
            State::GivingBack { until, .. } => *until,
            State::Lost { .. } | State::Over => Moment::NEVER,
        };
        self.waiting.iter().map(|order| order.answer_by).fold(own, Moment::min)
    }
}

fn lost(why: &str) -> Failure {
    Failure::new(Kind::Lost, format!("the lock was lost: {why}"))
}

pub(super) fn released() -> Failure {
    Failure::new(Kind::Lost, "the lock was released")
}

fn no_answer() -> Failure {
    Failure::new(Kind::Unreachable, "the server does not answer at the moment")
        .hint("the lock is still held; dflock goes on trying")
}

#[cfg(test)]
mod tests;
