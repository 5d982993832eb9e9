//! Keeps locks by the real `lease::keeper` and what decides for it, `lease::keeping`. What is planted here falsifies
//! what goes into that, or what comes out of it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use dflock::backend::{Renewal, Terms};
use dflock::clock::Moment;
use dflock::error::Failure;
use dflock::lease::keeper::{Keeper, KeptLock, LeaseClock, LeaseNews};
use dflock::lease::lateness::Lateness;
use dflock::lock::{Grant, Token};
use tokio::sync::watch;

use super::Plant;
use super::client::Hold;
use super::env::Env;

/// How long somebody waits who asks again because he does not believe the answer.
const ASK_AGAIN: Duration = Duration::from_secs(2);

pub fn start(hold: Hold, grace: Duration) -> Keeper {
    let env = hold.site.env.clone();
    let token = Token::new("0123").expect("it is one");
    let fence = Some(hold.token.number);
    let grant = Grant { token, fence, lease: hold.lease, asked: hold.asked, server: String::new() };
    let shown = Rc::new(Shown::default());
    let clock = Clock { env: env.clone(), shown: shown.clone() };
    let mut observer = Observer::of(&hold, &shown);
    let (mut keeper, keeping) = Keeper::of(Kept { shown, hold }, grant, grace, clock, Lateness::default());
    let mut said = keeper.news.clone();
    observer.hear(&said.borrow_and_update());
    let (tell, news) = watch::channel(said.borrow().clone());
    keeper.news = news;
    env.world.spawn(env.process, async move {
        let mut keeping = pin!(keeping);
        poll_fn(|cx| {
            let poll = keeping.as_mut().poll(cx);
            let said = said.borrow_and_update();
            if said.has_changed() {
                let news = observer.falsified(said.clone());
                observer.hear(&news);
                tell.send_replace(news);
            }
            poll
        })
        .await;
    });
    keeper
}

/// What can be seen of a lock while it is kept.
#[derive(Default)]
struct Shown {
    link: Cell<Option<usize>>,
    outlives_connection: Cell<bool>,
    /// What its keeper takes for the time, instead of the time.
    stands_at: Cell<Option<Moment>>,
    /// When it wanted to be awake.
    due: Cell<Option<Moment>>,
}

struct Kept {
    hold: Hold,
    shown: Rc<Shown>,
}

impl Kept {
    fn plant(&self) -> Plant {
        self.hold.site.env.world.plant
    }

    fn show(&self) {
        self.shown.link.set(self.hold.link());
        self.shown.outlives_connection.set(self.hold.outlives_connection());
    }

    fn falsified(&self, terms: Terms) -> Terms {
        match self.plant() {
            Plant::MarginRemoved => {
                Terms { lease: stretched(terms.lease), unheard_limit: terms.unheard_limit.map(stretched), ..terms }
            }
            Plant::BrokenIsNotLost => Terms { outlives_connection: true, ..terms },
            _ => terms,
        }
    }

    fn answered(&self, renewal: Renewal) -> Renewal {
        self.show();
        match renewal {
            Renewal::Renewed(terms) => Renewal::Renewed(self.falsified(terms)),
            other => other,
        }
    }

    /// What the server is really asked for.
    fn wish(&self, lease: Duration) -> Duration {
        if self.plant() == Plant::MarginRemoved { self.hold.lease } else { lease }
    }
}

/// A lease that is believed for as long as `lease` is, with its margin.
fn stretched(lease: Duration) -> Duration {
    let (least, most) = (Duration::from_millis(500), Duration::from_secs(5));
    lease + (lease / 9).clamp(least, most)
}

impl KeptLock for Kept {
    fn terms(&self) -> Terms {
        self.show();
        self.falsified(self.hold.terms())
    }

    async fn broken(&mut self) -> String {
        self.hold.broken().await
    }

    async fn renew(&mut self, lease: Duration, until: Moment) -> Renewal {
        let lease = self.wish(lease);
        let renewal = self.hold.renew(lease, until).await;
        self.answered(renewal)
    }

    async fn restore(&mut self, lease: Duration, until: Moment) -> Renewal {
        let (env, lease) = (self.hold.site.env.clone(), self.wish(lease));
        let has_no_deadline = self.plant() == Plant::ResumeAfterDeadline;
        let until = if has_no_deadline { Moment::NEVER } else { until };
        self.shown.stands_at.set(has_no_deadline.then(|| env.now()));
        let mut renewal = self.hold.restore(lease, until).await;
        while self.plant() == Plant::BrokenIsNotLost && renewal == Renewal::Gone {
            env.sleep(ASK_AGAIN).await;
            renewal = self.hold.restore(lease, until).await;
        }
        self.shown.stands_at.set(None);
        self.answered(renewal)
    }

    async fn give_back(&mut self, until: Moment) -> Result<(), Failure> {
        self.shown.stands_at.set(None);
        self.hold.site.env.world.gives_back(self.hold.token.number);
        self.hold.give_back(until).await
    }
}

struct Clock {
    env: Env,
    shown: Rc<Shown>,
}

impl LeaseClock for Clock {
    fn now(&self) -> Moment {
        let now = self.shown.stands_at.get().unwrap_or_else(|| self.env.now());
        match self.shown.due.get() {
            Some(due) if self.env.world.plant == Plant::LatenessIgnored => now.min(due),
            _ => now,
        }
    }

    fn refused(&self) -> Option<Duration> {
        Some(Duration::from_nanos(self.env.world.refused_so_far(self.env.process)))
    }

    async fn wait_until(&mut self, moment: Moment) {
        self.shown.due.set(Some(moment));
        match self.shown.stands_at.get() {
            Some(_) => std::future::pending().await,
            None => self.env.wait_until(moment).await,
        }
    }
}

/// Tells the checks what the owner of a lock is told.
struct Observer {
    env: Env,
    client: usize,
    lock: (u8, dflock::lock::Space, u64),
    shown: Rc<Shown>,
}

impl Observer {
    fn of(hold: &Hold, shown: &Rc<Shown>) -> Observer {
        let lock = (hold.site.key, hold.space(), hold.token.number);
        Observer { env: hold.site.env.clone(), client: hold.site.client, lock, shown: shown.clone() }
    }

    fn falsified(&self, news: LeaseNews) -> LeaseNews {
        match news {
            LeaseNews::InDanger { ends_at, why, .. } if self.env.world.plant == Plant::ResumeAfterDeadline => {
                LeaseNews::InDanger { term_at: Moment::NEVER, dead_at: Moment::NEVER, ends_at, why }
            }
            news => news,
        }
    }

    fn hear(&mut self, news: &LeaseNews) {
        let (client, fence, world) = (self.client, self.lock.2, &self.env.world);
        match news {
            LeaseNews::Held { dead_at, .. } | LeaseNews::InDanger { dead_at, .. } => {
                self.env.believes(client, self.lock, *dead_at, self.shown.outlives_connection.get());
                if let Some(link) = self.shown.link.get() {
                    world.lease_on_link(link, fence);
                }
            }
            LeaseNews::Lost { proved, why, .. } => {
                world.tell(&format!("client {client}"), || format!("{fence} is lost (proved: {proved}): {why}"));
                world.told_of_loss(fence, *proved);
            }
        }
    }
}
