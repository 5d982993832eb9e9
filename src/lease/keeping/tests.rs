//! The machine that keeps a lock: by hand, exhaustively for short histories, and by thousands of seeds.

use super::*;

const T0: Moment = Moment::from_nanos(1_000_000_000_000);

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn at(seconds: f64) -> Moment {
    T0 + secs(seconds)
}

/// Of our own server: the lock outlives its connection for as long as the lease.
fn kept_for(asked: Moment, lease: f64) -> Terms {
    let lease = secs(lease);
    Terms { asked, lease, unheard_limit: Some(lease), outlives_connection: true }
}

/// Of the original: the lock ends with its connection.
fn tied(asked: Moment, lease: f64) -> Terms {
    Terms { asked, lease: secs(lease), unheard_limit: None, outlives_connection: false }
}

/// A machine, and all that it has said so far.
#[derive(Clone)]
struct Desk {
    keeping: Keeping<u32>,
    now: Moment,
    work: Work,
    news: LeaseNews,
    answers: Vec<(u32, Outcome)>,
    orders: Vec<(u32, Moment)>,
    is_over: bool,
    /// When the machine, or this process, went on after a pause.
    paused_until: Moment,
}

impl Desk {
    fn new(terms: Terms) -> Desk {
        let keeping = Keeping::new(terms, Duration::ZERO);
        let news = keeping.held();
        let (answers, orders) = (Vec::new(), Vec::new());
        let (now, work, is_over, paused_until) = (terms.asked, Work::Listen, false, terms.asked - RELEASE_WITHIN);
        Desk { keeping, now, work, news, answers, orders, is_over, paused_until }
    }

    /// What is true whatever happens is looked at after every event.
    fn feed(&mut self, event: Event<u32>) -> &mut Desk {
        if let Event::Ordered(_, number) = &event {
            self.orders.push((*number, self.now));
        }
        let before = self.work;
        for action in self.keeping.next(self.now, event) {
            assert!(!self.is_over, "{action:?} after the end");
            match action {
                Action::Do(work) => {
                    assert!(before != Work::Rest || matches!(work, Work::GiveBack { .. }), "{work:?} after a loss");
                    assert!(!matches!(before, Work::GiveBack { .. }), "{work:?} after the release began");
                    self.work = work;
                }
                Action::Publish(news) => {
                    assert!(!self.is_lost(), "{news:?} after a loss");
                    self.news = news;
                }
                Action::Answer(number, outcome) => {
                    assert!(self.answer(number).is_none(), "{number} is answered twice");
                    self.answers.push((number, outcome));
                }
                Action::End => self.is_over = true,
            }
        }
        assert!(self.keeping.wake_at() > self.now || self.is_over, "it would be woken at once, for ever");
        for (number, ordered) in &self.orders {
            // After a pause there is still time for a release.
            let late = self.now >= (*ordered + ORDER_WITHIN).max(self.paused_until + RELEASE_WITHIN);
            assert!(!late || self.answer(*number).is_some(), "{number} waits for longer than it may");
            assert!(!self.is_over || self.answer(*number).is_some(), "{number} is forgotten");
        }
        let relied_on = matches!(self.work, Work::Listen | Work::Renew { .. } | Work::Restore { .. });
        if let LeaseNews::Held { term_at, .. } | LeaseNews::InDanger { term_at, .. } = &self.news {
            assert!(!relied_on || self.now < *term_at, "it is relied on past its time");
        }
        self
    }

    fn wait_until(&mut self, moment: Moment) -> &mut Desk {
        while self.keeping.wake_at() <= moment {
            self.now = self.keeping.wake_at();
            self.feed(Event::Due);
        }
        self.now = moment;
        self
    }

    /// Nothing runs for so long.
    fn pause(&mut self, time: Duration) -> &mut Desk {
        self.now = self.now + time;
        self.paused_until = self.now;
        self.feed(Event::Due)
    }

    fn order(&mut self, number: u32, order: Order) -> &mut Desk {
        self.feed(Event::Ordered(order, number))
    }

    fn answer(&self, number: u32) -> Option<&Outcome> {
        self.answers.iter().find(|(to, _)| *to == number).map(|(_, outcome)| outcome)
    }

    /// The kind of failure with which an order was answered.
    fn failure(&self, number: u32) -> Option<Kind> {
        self.answer(number)?.as_ref().err().map(|failure| failure.kind)
    }

    fn is_lost(&self) -> bool {
        matches!(self.news, LeaseNews::Lost { .. })
    }
}

#[test]
fn who_wakes_late_publishes_that_there_is_less_time() {
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.keeping.woke(at(0.2), Some(secs(1.0)));
    desk.wait_until(at(0.5));
    let due = desk.keeping.wake_at();
    desk.now = due + secs(4.0);
    desk.keeping.woke(desk.now, Some(secs(5.0)));
    desk.feed(Event::Due);
    let shorter = LeaseNews::Held { term_at: at(18.0), dead_at: at(18.0), ends_at: at(30.0), lease: secs(30.0) };
    assert_eq!(desk.news, shorter);
    // A renewal gives no more than that as long as it is remembered.
    desk.wait_until(at(10.0)).feed(renewed(kept_for(at(10.0), 30.0)));
    assert!(matches!(desk.news, LeaseNews::Held { dead_at, .. } if dead_at == at(28.0)), "{:?}", desk.news);
    // There is no time at all.
    desk.now = desk.keeping.wake_at() + secs(12.0);
    desk.keeping.woke(desk.now, Some(secs(17.0)));
    desk.feed(Event::Due);
    let LeaseNews::Lost { proved: false, why, .. } = &desk.news else { panic!("{:?}", desk.news) };
    assert!(why.contains("processor time: it had to wait 12.0s"), "{why}");
}

#[test]
fn a_pause_takes_nothing_of_the_next_lease() {
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.wait_until(at(0.5));
    desk.now = at(20.0);
    desk.keeping.woke(at(20.0), Some(Duration::ZERO));
    desk.feed(Event::Due);
    assert!(matches!(desk.news, LeaseNews::Held { dead_at, .. } if dead_at == at(27.0)), "{:?}", desk.news);
    assert!(matches!(desk.work, Work::Renew { .. }));
}

const RENEW: Order = Order::Renew { lease: None };

fn unknown() -> Event<u32> {
    Event::Answered(Renewal::Unknown("x".to_owned()))
}

fn renewed(terms: Terms) -> Event<u32> {
    Event::Answered(Renewal::Renewed(terms))
}

#[test]
fn a_renewal_is_due_after_a_third_and_the_lease_runs_from_its_request() {
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.wait_until(at(10.0));
    let Work::Renew { lease, until } = desk.work else { panic!("{:?}", desk.work) };
    assert_eq!(lease, secs(30.0));
    assert!(until <= at(12.0), "an attempt is short");
    desk.feed(renewed(kept_for(at(10.0), 30.0)));
    assert_eq!(desk.work, Work::Listen);
    assert_eq!(
        desk.news,
        LeaseNews::Held { term_at: at(37.0), dead_at: at(37.0), ends_at: at(40.0), lease: secs(30.0) }
    );
}

#[test]
fn what_the_server_gives_is_believed_and_all_is_asked_for_again() {
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.wait_until(at(10.0)).feed(renewed(kept_for(at(10.0), 6.0)));
    assert_eq!(
        desk.news,
        LeaseNews::Held { term_at: at(15.4), dead_at: at(15.4), ends_at: at(16.0), lease: secs(6.0) }
    );
    desk.wait_until(at(12.0));
    assert!(matches!(desk.work, Work::Renew { lease, .. } if lease == secs(30.0)), "{:?}", desk.work);
    // Nothing at all is a loss, with no time left.
    desk.feed(renewed(kept_for(at(12.0), 0.0)));
    assert!(matches!(&desk.news, LeaseNews::Lost { proved: false, dead_at, .. } if *dead_at == at(12.0)));
    // As much as a number can say is no more than that.
    let mut desk = Desk::new(kept_for(T0, 1e9));
    desk.pause(secs(3.4e8)).feed(renewed(Terms { lease: Duration::MAX, ..kept_for(at(3.4e8), 1e9) }));
    assert!(!desk.is_lost());
}

#[test]
fn a_release_is_heard_during_a_renewal_and_a_renewal_that_was_ordered() {
    for order in [None, Some(RENEW)] {
        let mut desk = Desk::new(tied(T0, 30.0));
        match order {
            None => desk.wait_until(at(10.0)),
            Some(order) => desk.order(1, order).order(2, order),
        };
        assert!(matches!(desk.work, Work::Renew { .. }));
        let now = desk.now;
        desk.order(3, Order::Release);
        assert!(matches!(desk.work, Work::Renew { .. }), "its answer would be taken for that of the release");
        desk.wait_until(now + RENEWAL_FIRST);
        assert_eq!(desk.work, Work::GiveBack { until: now + RELEASE_WITHIN });
        desk.feed(Event::GaveBack(Ok(())));
        assert!(desk.is_over && desk.answer(3) == Some(&Ok(Duration::ZERO)) && !desk.is_lost());
        assert!(order.is_none() || desk.failure(1).is_some() && desk.failure(2) == Some(Kind::Lost));
    }
}

#[test]
fn a_release_follows_at_once_on_the_answer_of_a_renewal() {
    let mut desk = Desk::new(tied(T0, 30.0));
    desk.wait_until(at(10.0)).order(1, Order::Release).feed(renewed(tied(at(10.0), 30.0)));
    assert_eq!(desk.work, Work::GiveBack { until: at(12.0) });
    // And on its failure: by the token, on another connection.
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.wait_until(at(10.0)).order(1, Order::Release).feed(unknown());
    assert_eq!(desk.work, Work::GiveBack { until: at(12.0) });
    // A server that says that it is gone has nothing to be given back.
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.wait_until(at(10.0)).order(1, Order::Release).feed(Event::Answered(Renewal::Gone));
    assert!(desk.is_over && desk.failure(1) == Some(Kind::Lost));
}

#[test]
fn a_release_asks_the_server_after_a_loss_that_is_not_proved() {
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.feed(Event::Broken("x".to_owned())).wait_until(at(30.0));
    assert!(desk.is_lost() && desk.work == Work::Rest);
    desk.order(1, RENEW).order(2, Order::Release);
    assert_eq!(desk.work, Work::GiveBack { until: at(30.5) });
    desk.wait_until(at(31.0));
    assert!(desk.is_over && desk.failure(1) == Some(Kind::Lost) && desk.failure(2) == Some(Kind::Lost));
    // So it does for an owner that is gone; a loss that is proved leaves nothing to ask for.
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.feed(Event::Broken("x".to_owned())).wait_until(at(30.0)).feed(Event::OwnerGone);
    assert_eq!(desk.work, Work::GiveBack { until: at(30.5) });
    let mut desk = Desk::new(tied(T0, 30.0));
    desk.feed(Event::Broken("x".to_owned()));
    assert!(matches!(desk.news, LeaseNews::Lost { proved: true, .. }));
    desk.feed(Event::OwnerGone);
    assert!(desk.is_over && desk.work == Work::Rest);
}

#[test]
fn an_order_is_carried_out_when_the_way_to_the_server_is_found_again() {
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.feed(Event::Broken("x".to_owned()));
    assert!(matches!(desk.news, LeaseNews::InDanger { .. }));
    desk.order(1, Order::Renew { lease: Some(secs(60.0)) }).feed(renewed(kept_for(T0, 30.0)));
    assert!(matches!(desk.work, Work::Renew { lease, .. } if lease == secs(60.0)));
    // It breaks once more: the order is not forgotten.
    desk.feed(unknown()).feed(renewed(kept_for(T0, 30.0)));
    assert!(matches!(desk.work, Work::Renew { lease, .. } if lease == secs(60.0)));
    desk.feed(renewed(kept_for(T0, 60.0)));
    assert_eq!(desk.answer(1), Some(&Ok(secs(60.0))));
    desk.wait_until(at(20.0));
    assert!(matches!(desk.work, Work::Renew { lease, .. } if lease == secs(60.0)), "as before");
}

#[test]
fn an_order_that_takes_too_long_is_answered_and_wishes_for_nothing_any_more() {
    let mut desk = Desk::new(tied(T0, 30.0));
    desk.order(1, Order::Renew { lease: Some(secs(60.0)) });
    desk.wait_until(T0 + ORDER_WITHIN);
    assert_eq!(desk.failure(1), Some(Kind::Unreachable));
    assert!(matches!(desk.work, Work::Renew { .. }) && !desk.is_lost(), "it may still be answered");
    desk.feed(renewed(tied(T0, 60.0)));
    assert!(matches!(desk.news, LeaseNews::Held { lease, .. } if lease == secs(60.0)));
    desk.wait_until(at(20.0));
    assert!(matches!(desk.work, Work::Renew { lease, .. } if lease == secs(30.0)));
}

/// Answered or not, the server may have cut the lease when it read the request.
#[test]
fn a_shorter_lease_counts_from_when_it_is_asked_for() {
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.order(1, Order::Renew { lease: Some(secs(5.0)) });
    assert!(matches!(desk.news, LeaseNews::Held { dead_at, .. } if dead_at == at(4.5)), "{:?}", desk.news);
    desk.wait_until(at(2.0));
    assert!(matches!(desk.news, LeaseNews::InDanger { dead_at, .. } if dead_at == at(4.5)), "{:?}", desk.news);
    desk.wait_until(at(4.5));
    assert!(desk.is_lost());
    // The same for taking over again with the lease that is wished for, when a longer one is in force.
    let mut desk = Desk::new(tied(T0, 30.0));
    desk.order(1, Order::Renew { lease: Some(secs(300.0)) }).wait_until(T0 + ORDER_WITHIN);
    desk.feed(renewed(kept_for(T0, 300.0))).feed(Event::Broken("x".to_owned()));
    assert!(matches!(desk.news, LeaseNews::InDanger { dead_at, .. } if dead_at == at(31.0)), "{:?}", desk.news);
}

#[test]
fn a_renewal_without_an_answer_is_a_lost_lock_where_it_is_tied_to_its_connection() {
    let mut desk = Desk::new(tied(T0, 30.0));
    desk.wait_until(at(10.0)).feed(unknown());
    assert!(matches!(desk.news, LeaseNews::Lost { proved: true, .. }));
    // Silence proves nothing until the time is over.
    let mut desk = Desk::new(tied(T0, 30.0));
    desk.wait_until(at(26.9));
    assert!(matches!(desk.work, Work::Renew { .. }) && !desk.is_lost());
    desk.wait_until(at(27.0));
    assert!(matches!(desk.news, LeaseNews::Lost { proved: false, .. }));
}

#[test]
fn waking_from_a_long_pause_the_clock_comes_first() {
    for event in [Event::Due, Event::Broken("x".to_owned()), Event::Ordered(RENEW, 1)] {
        let mut desk = Desk::new(kept_for(T0, 30.0));
        desk.now = at(3600.0);
        desk.feed(event);
        assert!(matches!(desk.news, LeaseNews::Lost { proved: false, .. }), "{:?}", desk.news);
    }
    // An answer that was there before the pause proves no more than it did then.
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.wait_until(at(10.0));
    desk.now = at(3600.0);
    desk.feed(renewed(kept_for(at(10.0), 30.0)));
    assert!(desk.is_lost());
}

#[test]
fn whoever_leaves_is_told_when_nothing_touches_the_lock_any_more() {
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.order(1, RENEW).order(2, RENEW).order(3, Order::Leave);
    assert!(desk.is_over && desk.answer(3) == Some(&Ok(Duration::ZERO)));
    assert!(!matches!(desk.work, Work::GiveBack { .. }));
    assert!(desk.failure(1).is_some() && desk.failure(2).is_some());
}

#[test]
fn orders_that_cannot_be_are_refused_at_once() {
    let mut desk = Desk::new(kept_for(T0, 30.0));
    desk.order(1, Order::Renew { lease: Some(Duration::ZERO) });
    assert_eq!(desk.failure(1), Some(Kind::Usage));
    let most = u32::try_from(MOST_ORDERS).unwrap();
    for number in 2..most + 3 {
        desk.order(number, RENEW);
    }
    assert!(desk.answers.len() == 1, "one is under way, the others wait");
    desk.order(most + 3, RENEW);
    assert_eq!(desk.failure(most + 3), Some(Kind::Internal));
    // They hide nothing from the one that matters.
    desk.order(most + 4, Order::Release);
    assert_eq!(desk.answers.len(), MOST_ORDERS + 2);
}

/// What may happen next, in a world of few moments.
fn possible(desk: &Desk, step: u32) -> Vec<Event<u32>> {
    let terms = |lease| kept_for(desk.now, lease);
    let mut events = vec![
        Event::Ordered(RENEW, step),
        Event::Ordered(Order::Renew { lease: Some(secs(2.0)) }, step),
        Event::Ordered(Order::Release, step),
        Event::Ordered(Order::Leave, step),
        Event::OwnerGone,
    ];
    match desk.work {
        Work::Listen => events.push(Event::Broken("x".to_owned())),
        Work::Renew { lease, .. } | Work::Restore { lease, .. } => {
            events.extend([
                unknown(),
                Event::Answered(Renewal::Gone),
                renewed(terms(lease.as_secs_f64())),
                renewed(terms(1.0)),
                renewed(terms(0.0)),
                renewed(Terms { outlives_connection: false, ..terms(30.0) }),
            ]);
        }
        Work::GiveBack { .. } => {
            events.push(Event::GaveBack(Ok(())));
            events.push(Event::GaveBack(Err(Failure::new(Kind::Unreachable, "x"))));
        }
        Work::Rest => {}
    }
    events
}

/// Every history of up to four events, each at once, at the next moment that counts, or long after it. In the end
/// the owner goes, and that comes to an end.
#[test]
fn every_short_history_keeps_its_promises() {
    fn play(desk: &Desk, steps: u32, count: &mut u64) {
        *count += 1;
        let mut last = desk.clone();
        last.feed(Event::OwnerGone);
        last.wait_until(last.now + RELEASE_WITHIN);
        assert!(last.is_over);
        if steps == 0 || desk.is_over {
            return;
        }
        for pause in 0..3 {
            let mut waited = desk.clone();
            match pause {
                0 => {}
                1 => _ = waited.wait_until(desk.keeping.wake_at().min(desk.now + secs(60.0))),
                _ => _ = waited.pause(secs(60.0)),
            }
            let count_of = if waited.is_over { 0 } else { possible(&waited, steps).len() };
            for choice in 0..count_of {
                let mut next = waited.clone();
                next.feed(possible(&waited, steps).swap_remove(choice));
                play(&next, steps - 1, count);
            }
        }
    }
    let mut count = 0;
    for terms in [kept_for(T0, 9.0), tied(T0, 9.0)] {
        play(&Desk::new(terms), 4, &mut count);
    }
    println!("{count} histories");
    assert!(count > 10_000);
}

/// A server with a clock of its own, which may be late, cut leases, or never be heard of.
struct Model {
    lease_ends: Moment,
    /// It never gives more.
    most: Duration,
    is_tied: bool,
    is_freed: bool,
}

impl Model {
    fn terms(&self, asked: Moment, lease: Duration) -> Terms {
        let unheard_limit = (!self.is_tied).then_some(lease);
        Terms { asked, lease, unheard_limit, outlives_connection: !self.is_tied }
    }

    /// Carries out a request for `lease` that left at `asked`.
    fn read(&mut self, now: Moment, asked: Moment, lease: Duration) -> Renewal {
        if self.is_freed || now >= self.lease_ends {
            return Renewal::Gone;
        }
        let given = lease.min(self.most);
        self.lease_ends = now + given;
        Renewal::Renewed(self.terms(asked, given))
    }
}

/// Thousands of histories against it: whoever relies on the lock is told of an end before it comes.
#[test]
fn no_history_relies_on_a_lease_that_may_have_ended() {
    for seed in 0..20_000u64 {
        let mut number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
        let mut random = move |end: u64| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (number >> 33) % end
        };
        let most = Duration::from_millis(1000 + random(40_000));
        let mut model = Model { lease_ends: T0 + most, most, is_tied: random(3) == 0, is_freed: false };
        let mut desk = Desk::new(model.terms(T0, most));
        let (mut asked, mut asked_for) = (T0, Work::Listen);
        let mut is_delivered = false;
        for step in 0..60u32 {
            if desk.is_over {
                break;
            }
            // As time passes the last news must stay true, until the machine says otherwise.
            let pause = if random(40) == 0 {
                Duration::from_millis(random(100_000))
            } else {
                Duration::from_millis(random(3000))
            };
            let until = (desk.now + pause).min(desk.keeping.wake_at() + Duration::from_millis(random(5)));
            if let LeaseNews::Held { dead_at, .. }
            | LeaseNews::InDanger { dead_at, .. }
            | LeaseNews::Lost { proved: false, dead_at, .. } = &desk.news
            {
                let is_given_back = matches!(desk.work, Work::GiveBack { .. });
                assert!(
                    *dead_at <= model.lease_ends || model.is_freed || is_given_back,
                    "seed {seed}, step {step}: {:?}",
                    desk.news
                );
            }
            desk.now = until;
            if desk.work != asked_for {
                (asked, asked_for, is_delivered) = (desk.now, desk.work, false);
            }
            let event = match random(12) {
                _ if desk.now >= desk.keeping.wake_at() => Event::Due,
                0 => Event::Ordered(RENEW, step),
                1 => Event::Ordered(Order::Renew { lease: Some(Duration::from_millis(1000 + random(60_000))) }, step),
                2 if random(8) == 0 => Event::Ordered(Order::Release, step),
                _ => match asked_for {
                    Work::Listen if random(6) == 0 => {
                        model.is_freed |= model.is_tied;
                        Event::Broken("x".to_owned())
                    }
                    Work::Renew { lease, .. } | Work::Restore { lease, .. } => match random(4) {
                        // It is carried out, and the answer is lost; or it is never read at all.
                        0 if !is_delivered => {
                            is_delivered = true;
                            let _ = model.read(desk.now, asked, lease);
                            Event::Due
                        }
                        1 => {
                            model.is_freed |= model.is_tied;
                            unknown()
                        }
                        2 => Event::Due,
                        _ => Event::Answered(model.read(desk.now, asked, lease)),
                    },
                    Work::GiveBack { .. } => Event::GaveBack(Ok(())),
                    Work::Listen | Work::Rest => Event::Due,
                },
            };
            desk.feed(event);
            if desk.work != asked_for {
                (asked, asked_for, is_delivered) = (desk.now, desk.work, false);
            }
        }
        if !desk.is_over {
            desk.feed(Event::OwnerGone);
            desk.wait_until(desk.now + RELEASE_WITHIN);
            assert!(desk.is_over, "seed {seed} does not end");
        }
    }
}
