//! Pure: when to renew, when a lease is in danger, when it must be held for lost.
//!
//! A lease of length T that was asked for at t0 is believed until t0 + T - M, with a margin M for clocks that
//! run at different speeds, and for a process that wakes late. A child must be dead by then, so it is told to end a
//! grace before.

use std::time::Duration;

use crate::clock::Moment;

/// Bounds of the margin.
const MARGIN_LEAST: Duration = Duration::from_millis(500);
const MARGIN_MOST: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Plan {
    lease: Duration,
    /// Between being told to end and being dead.
    grace: Duration,
    /// For how long the server keeps the lock of a client that it does not hear of, if not for the whole lease.
    unheard_limit: Option<Duration>,
    asked: Moment,
    renew_at: Moment,
    /// What those need who may wake late.
    late_margin: Duration,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    RenewAt(Moment),
    RenewNow,
    /// The lease can no longer be proved for long enough: whatever it protects ends now.
    GiveUp,
}

impl Plan {
    /// `asked` is when the request left, not when the answer came: the server counted from somewhere between.
    pub fn new(asked: Moment, lease: Duration, grace: Duration, unheard_limit: Option<Duration>) -> Plan {
        let mut plan = Plan { lease, grace, unheard_limit, asked, renew_at: asked, late_margin: Duration::ZERO };
        plan.renewed(asked, lease, 0);
        plan
    }

    /// The lease runs anew from `asked`; `random` is any number.
    pub fn renewed(&mut self, asked: Moment, lease: Duration, random: u64) {
        self.asked = asked;
        self.lease = lease;
        // Up to a tenth earlier, so that a fleet started together does not renew together.
        self.renew_at = asked + (self.believed() / 3).mul_f64(1.0 - (random % 1000) as f64 / 10_000.0);
        self.renew_in_time();
    }

    /// However large the margin: the answer takes its time too.
    fn renew_in_time(&mut self) {
        self.renew_at = self.renew_at.min(self.asked + self.term_at().since(self.asked) * 2 / 3);
    }

    pub fn set_unheard_limit(&mut self, unheard_limit: Option<Duration>) {
        self.unheard_limit = unheard_limit;
        self.renew_at = self.renew_at.min(self.asked + self.believed() / 3);
        self.renew_in_time();
    }

    pub fn set_late_margin(&mut self, late_margin: Duration) {
        self.late_margin = late_margin;
        self.renew_in_time();
    }

    pub fn late_margin(&self) -> Duration {
        self.late_margin
    }

    /// The part of the lease that does not depend on being heard of. When it was `asked` the server heard of us
    /// for sure; that it does so later, through whatever is between, only the next answer proves.
    fn believed(&self) -> Duration {
        self.lease.min(self.unheard_limit.unwrap_or(Duration::MAX))
    }

    pub fn renew_at(&self) -> Moment {
        self.renew_at
    }

    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// When the server may give the lock to somebody else.
    pub fn ends_at(&self) -> Moment {
        self.asked + self.believed()
    }

    /// When a child must be dead.
    pub fn dead_at(&self) -> Moment {
        let believed = self.believed();
        let for_clocks = (believed / 10).clamp(MARGIN_LEAST, MARGIN_MOST).min(believed / 2);
        self.asked + believed.saturating_sub(for_clocks.max(self.late_margin))
    }

    /// When a child is told to end.
    pub fn term_at(&self) -> Moment {
        let dead_at = self.dead_at();
        dead_at - self.grace.min(self.believed() / 4).min(dead_at.since(self.asked) / 2)
    }

    /// Whether nothing but late waking has used up the time.
    pub fn is_over_for_lateness(&self, now: Moment) -> bool {
        let mut awake = self.clone();
        awake.late_margin = Duration::ZERO;
        now >= self.term_at() && now < awake.term_at()
    }

    pub fn step(&self, now: Moment) -> Step {
        if now >= self.term_at() {
            Step::GiveUp
        } else if now >= self.renew_at {
            Step::RenewNow
        } else {
            Step::RenewAt(self.renew_at.min(self.term_at()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Moment = Moment::from_nanos(1_000_000_000_000);

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn plan(lease: f64, grace: f64) -> Plan {
        Plan::new(T0, secs(lease), secs(grace), None)
    }

    #[test]
    fn a_lease_of_ten_seconds() {
        let plan = plan(10.0, 5.0);
        assert_eq!(plan.dead_at(), T0 + secs(9.0));
        assert_eq!(plan.term_at(), T0 + secs(6.5));
        assert_eq!(plan.step(T0), Step::RenewAt(T0 + secs(10.0) / 3));
        assert_eq!(plan.step(T0 + secs(3.4)), Step::RenewNow);
        assert_eq!(plan.step(T0 + secs(6.5)), Step::GiveUp);
    }

    #[test]
    fn the_margin_has_bounds() {
        assert_eq!(plan(2.0, 5.0).dead_at(), T0 + secs(1.5));
        assert_eq!(plan(3600.0, 5.0).dead_at(), T0 + secs(3595.0));
        // Even where the margin would eat the lease something is left, and in order.
        let short = plan(0.6, 5.0);
        assert!(T0 < short.term_at() && short.term_at() < short.dead_at());
    }

    #[test]
    fn a_server_that_must_hear_of_us_bounds_any_lease() {
        let mut plan = Plan::new(T0, secs(3600.0), secs(5.0), Some(secs(21.0)));
        assert_eq!(plan.step(T0), Step::RenewAt(T0 + secs(7.0)));
        assert_eq!(plan.dead_at(), T0 + secs(18.9));
        for random in [0, 1, 500, 999, u64::MAX] {
            plan.renewed(T0, secs(3600.0), random);
            let Step::RenewAt(at) = plan.step(T0) else { panic!("not yet") };
            assert!(at <= T0 + secs(7.0) && at >= T0 + secs(6.3), "{at:?}");
        }
        plan.set_unheard_limit(Some(secs(3.0)));
        assert_eq!(plan.step(T0), Step::RenewAt(T0 + secs(1.0)));
        assert_eq!(plan.dead_at(), T0 + secs(2.5));
        plan.set_unheard_limit(None);
        assert_eq!(plan.dead_at(), T0 + secs(3595.0));
    }

    #[test]
    fn waking_from_a_long_pause_gives_up_first() {
        let plan = plan(10.0, 5.0);
        assert_eq!(plan.step(T0 + secs(3600.0)), Step::GiveUp);
    }

    #[test]
    fn who_wakes_late_stops_earlier_and_renews_earlier() {
        let mut plan = plan(10.0, 5.0);
        plan.set_late_margin(secs(0.9));
        assert_eq!((plan.dead_at(), plan.term_at()), (T0 + secs(9.0), T0 + secs(6.5)), "there is as much already");
        plan.set_late_margin(secs(6.0));
        assert_eq!((plan.dead_at(), plan.term_at()), (T0 + secs(4.0), T0 + secs(2.0)));
        assert_eq!(plan.step(T0), Step::RenewAt(T0 + secs(4.0) / 3));
        assert_eq!(plan.ends_at(), T0 + secs(10.0));
        // It stays as it is until it is found to be less.
        plan.renewed(T0 + secs(5.0), secs(10.0), 0);
        assert_eq!(plan.dead_at(), T0 + secs(9.0));
        plan.set_late_margin(Duration::ZERO);
        assert_eq!(plan.dead_at(), T0 + secs(14.0));
    }

    #[test]
    fn a_machine_that_leaves_no_time_is_named_as_the_reason() {
        let mut plan = plan(4.0, 5.0);
        assert!(!plan.is_over_for_lateness(T0));
        plan.set_late_margin(secs(6.0));
        assert_eq!((plan.step(T0), plan.dead_at()), (Step::GiveUp, T0));
        assert!(plan.is_over_for_lateness(T0));
        assert!(!plan.is_over_for_lateness(T0 + secs(3.0)), "it is over anyway");
    }

    /// However renewals go, what was promised for the lease last granted holds.
    #[test]
    fn thousands_of_histories_keep_the_order_of_things() {
        let mut number = 1u64;
        let mut random = move || {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            number >> 33
        };
        for _ in 0..5000 {
            let lease = Duration::from_millis(600 + random() % 100_000);
            let grace = Duration::from_millis(random() % 20_000);
            let unheard_limit = (random() % 2 == 0).then_some(secs(21.0));
            let mut plan = Plan::new(T0, lease, grace, unheard_limit);
            let (mut now, mut asked, mut lease) = (T0, T0, lease);
            for _ in 0..50 {
                if random() % 8 == 0 {
                    plan.set_late_margin(Duration::from_millis(random() % 60_000));
                }
                assert!(plan.term_at() <= plan.dead_at());
                assert!(plan.ends_at().since(plan.dead_at()) >= plan.late_margin().min(plan.ends_at().since(asked)));
                let kept = lease.min(unheard_limit.unwrap_or(lease));
                assert!(plan.dead_at() < asked + kept, "dead before the lease ends");
                match plan.step(now) {
                    Step::GiveUp => {
                        assert!(now >= plan.term_at());
                        break;
                    }
                    Step::RenewAt(at) => {
                        assert!(at > now && at <= plan.term_at());
                        // A pause of any length may come in between.
                        now = if random() % 10 == 0 { now + Duration::from_millis(random() % 200_000) } else { at };
                    }
                    Step::RenewNow => {
                        let sent = now;
                        now = now + Duration::from_millis(random() % 300);
                        lease = Duration::from_millis(600 + random() % 100_000);
                        asked = sent;
                        plan.renewed(sent, lease, random());
                    }
                }
            }
        }
    }
}
