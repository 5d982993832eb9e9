//! The only place that renews: a loop that carries out what [`Keeping`] says, and tells the owner of a lock what
//! became of its lease.

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::keeping::{Action, Event, Keeping, Order, Outcome, Work, released};
pub use super::keeping::{LeaseNews, ORDER_WITHIN, RELEASE_WITHIN};
use super::lateness::Lateness;
use super::timer::BoottimeTimer;
use crate::backend::{Hold, Renewal, Terms};
use crate::clock::{self, Moment};
use crate::error::{Failure, Kind};
use crate::lock::{Grant, Key};

/// How long the server may take to agree on keeping a lock when the connection breaks.
const AGREE_WITHIN: Duration = Duration::from_secs(2);

/// A lock that was taken, as a backend has it.
pub trait KeptLock {
    fn terms(&self) -> Terms;
    /// A duplicate of the connection that the lock is tied to, if it is tied to one.
    fn lifeline(&self) -> Option<OwnedFd> {
        None
    }
    fn broken(&mut self) -> impl Future<Output = String>;
    fn renew(&mut self, lease: Duration, until: Moment) -> impl Future<Output = Renewal>;
    fn restore(&mut self, lease: Duration, until: Moment) -> impl Future<Output = Renewal>;
    fn give_back(&mut self, until: Moment) -> impl Future<Output = Result<(), Failure>>;
}

/// The clock that leases are counted on.
pub trait LeaseClock {
    fn now(&self) -> Moment;
    /// For how long we have been refused a processor so far, where the system tells.
    fn refused(&self) -> Option<Duration> {
        None
    }
    /// Returns at `moment` or soon after it, whatever the machine did in between.
    fn wait_until(&mut self, moment: Moment) -> impl Future<Output = ()>;
}

/// Before anybody relies on a lock: the next hiccup of the network must not end it, where the server can see to
/// that. One for which that fails is to be given back.
pub async fn make_resumable(hold: &mut Hold, key: &Key) -> Result<(), Failure> {
    let why = match hold.make_resumable(clock::now() + AGREE_WITHIN).await {
        Renewal::Renewed(_) => return Ok(()),
        Renewal::Gone => "the server gave it away".to_owned(),
        Renewal::Unknown(why) => why,
    };
    let failure = Failure::new(Kind::Unreachable, format!("cannot keep {key}: {why}"));
    Err(failure.hint("the server went away just now: try again"))
}

/// A duplicate of a connection, kept open for the lock's sake.
pub type Lifeline = Option<Arc<OwnedFd>>;

type Reply = oneshot::Sender<Outcome>;

/// The owner's end of a lock that is being kept. Dropping it gives the lock back, but nobody hears how that went.
pub struct Keeper {
    pub news: watch::Receiver<LeaseNews>,
    /// The connection on which it was taken over since, if it is tied to one. Changes before there are news of that.
    pub lifeline: watch::Receiver<Lifeline>,
    /// What it was at the start.
    pub grant: Grant,
    /// Whether another process can take the lock over with its token.
    pub can_move: bool,
    orders: mpsc::Sender<(Order, Reply)>,
}

impl Keeper {
    /// Keeps `hold` from now on; `grace` is how long before the end of the lease news of its loss are needed, and
    /// `lateness` what is known of how late we wake.
    pub fn start(hold: Hold, grace: Duration, lateness: Lateness) -> Keeper {
        let grant = hold.grant().clone();
        let (keeper, keeping) = Keeper::of(hold, grant, grace, BoottimeTimer::new(), lateness);
        tokio::spawn(keeping);
        keeper
    }

    /// The same for any lock and clock: what keeps it is to be run.
    pub fn of<L: KeptLock, C: LeaseClock>(
        lock: L,
        grant: Grant,
        grace: Duration,
        clock: C,
        lateness: Lateness,
    ) -> (Keeper, impl Future<Output = ()> + use<L, C>) {
        let terms = lock.terms();
        let mut keeping = Keeping::new(terms, grace);
        keeping.begin(clock.now(), clock.refused(), lateness);
        let (tell, news) = watch::channel(keeping.held());
        let (orders, inbox) = mpsc::channel(4);
        let (relink, lifeline) = watch::channel(None);
        let keeper = Keeper { news, lifeline, grant, can_move: terms.outlives_connection, orders };
        (keeper, keep(lock, keeping, clock, Teller { tell, relink, is_done: false }, inbox))
    }

    /// Renews now, for `lease` or as long as before; says how long the lease is then.
    pub fn renew(&self, lease: Option<Duration>) -> impl Future<Output = Outcome> + use<> {
        let (orders, news) = (self.orders.clone(), self.news.clone());
        async move { order(&orders, &news, Order::Renew { lease }).await }
    }

    /// Ends without giving the lock back: another process has taken it over.
    pub async fn leave(self) {
        // It may have ended by itself, which is as good.
        let _ = order(&self.orders, &self.news, Order::Leave).await;
    }

    /// Gives the lock back.
    pub async fn release(self) -> Result<(), Failure> {
        order(&self.orders, &self.news, Order::Release).await.map(drop)
    }
}

/// What becomes of an order. It is answered by a deadline: `Keeping` sees to that.
async fn order(orders: &mpsc::Sender<(Order, Reply)>, news: &watch::Receiver<LeaseNews>, order: Order) -> Outcome {
    let gone = || match &*news.borrow() {
        LeaseNews::Lost { why, .. } => Failure::new(Kind::Lost, format!("the lock was lost: {why}")),
        LeaseNews::Held { .. } | LeaseNews::InDanger { .. } => released(),
    };
    let (reply, outcome) = oneshot::channel();
    if orders.send((order, reply)).await.is_err() {
        return Err(gone());
    }
    outcome.await.unwrap_or_else(|_| Err(gone()))
}

async fn keep<L: KeptLock, C: LeaseClock>(
    mut lock: L,
    mut keeping: Keeping<Reply>,
    mut clock: C,
    mut teller: Teller,
    mut inbox: mpsc::Receiver<(Order, Reply)>,
) {
    let mut has_owner = true;
    let mut work = Work::Listen;
    loop {
        let mut working = pin!(carry_out(&mut lock, work, teller.relink.clone()));
        let mut is_working = true;
        let mut next = None;
        while next.is_none() {
            let event = tokio::select! {
                biased;
                () = clock.wait_until(keeping.wake_at()) => Event::Due,
                order = inbox.recv(), if has_owner => match order {
                    Some((order, reply)) => Event::Ordered(order, reply),
                    None => {
                        has_owner = false;
                        Event::OwnerGone
                    }
                },
                event = &mut working, if is_working => {
                    is_working = false;
                    event
                }
            };
            let now = clock.now();
            keeping.woke(now, clock.refused());
            for action in keeping.next(now, event) {
                match action {
                    Action::Do(work) => next = Some(work),
                    Action::Publish(news) => drop(teller.tell.send_replace(news)),
                    // Nobody may wait for it any more.
                    Action::Answer(reply, outcome) => drop(reply.send(outcome)),
                    Action::End => {
                        teller.is_done = true;
                        return;
                    }
                }
            }
        }
        work = next.unwrap_or(Work::Rest);
    }
}

async fn carry_out<L: KeptLock>(lock: &mut L, work: Work, relink: watch::Sender<Lifeline>) -> Event<Reply> {
    match work {
        Work::Listen => Event::Broken(lock.broken().await),
        Work::Renew { lease, until } => Event::Answered(lock.renew(lease, until).await),
        Work::Restore { lease, until } => {
            let renewal = lock.restore(lease, until).await;
            relink.send_replace(lock.lifeline().map(Arc::new));
            Event::Answered(renewal)
        }
        Work::GiveBack { until } => Event::GaveBack(lock.give_back(until).await),
        Work::Rest => std::future::pending().await,
    }
}

/// Tells the owner. If keeping ends in any other way than it should, by a panic, nobody renews any more: then the
/// lock counts as lost, and whoever waits for news hears of it.
struct Teller {
    tell: watch::Sender<LeaseNews>,
    relink: watch::Sender<Lifeline>,
    is_done: bool,
}

impl Drop for Teller {
    fn drop(&mut self) {
        let dead_at = match &*self.tell.borrow() {
            _ if self.is_done => return,
            LeaseNews::Lost { .. } => return,
            LeaseNews::Held { dead_at, .. } | LeaseNews::InDanger { dead_at, .. } => *dead_at,
        };
        let why = "what keeps it has failed inside dflock".to_owned();
        self.tell.send_replace(LeaseNews::Lost { proved: false, dead_at, why });
    }
}

impl KeptLock for Hold {
    fn terms(&self) -> Terms {
        Hold::terms(self)
    }

    fn lifeline(&self) -> Option<OwnedFd> {
        Hold::lifeline(self)
    }

    async fn broken(&mut self) -> String {
        Hold::broken(self).await
    }

    async fn renew(&mut self, lease: Duration, until: Moment) -> Renewal {
        Hold::renew(self, lease, until).await
    }

    async fn restore(&mut self, lease: Duration, until: Moment) -> Renewal {
        Hold::restore(self, lease, until).await
    }

    async fn give_back(&mut self, until: Moment) -> Result<(), Failure> {
        Hold::give_back(self, until).await
    }
}

impl LeaseClock for BoottimeTimer {
    fn now(&self) -> Moment {
        clock::now()
    }

    fn refused(&self) -> Option<Duration> {
        BoottimeTimer::refused(self)
    }

    async fn wait_until(&mut self, moment: Moment) {
        BoottimeTimer::wait_until(self, moment).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::lock::Token;

    const T0: Moment = Moment::from_nanos(1_000_000_000_000);

    /// What a lock does about each thing that is wanted of it. Everything is written down.
    struct Scripted {
        heard: Arc<Mutex<Vec<String>>>,
        renewals: mpsc::UnboundedReceiver<Renewal>,
        /// Instead of an answer.
        panics: bool,
    }

    impl Scripted {
        fn hear(&self, what: &str) {
            self.heard.lock().unwrap().push(what.to_owned());
        }
    }

    fn terms(asked: Moment) -> Terms {
        let lease = Duration::from_secs(30);
        Terms { asked, lease, unheard_limit: None, outlives_connection: false }
    }

    impl KeptLock for Scripted {
        fn terms(&self) -> Terms {
            terms(T0)
        }

        async fn broken(&mut self) -> String {
            std::future::pending().await
        }

        async fn renew(&mut self, lease: Duration, _until: Moment) -> Renewal {
            self.hear(&format!("renew {}", lease.as_secs()));
            assert!(!self.panics, "a planted panic");
            match self.renewals.recv().await {
                Some(renewal) => renewal,
                None => std::future::pending().await,
            }
        }

        async fn restore(&mut self, _lease: Duration, _until: Moment) -> Renewal {
            self.hear("restore");
            std::future::pending().await
        }

        async fn give_back(&mut self, _until: Moment) -> Result<(), Failure> {
            self.hear("give back");
            Ok(())
        }
    }

    /// Shows what it was wound to.
    #[derive(Clone)]
    struct Wound(watch::Receiver<Moment>);

    impl LeaseClock for Wound {
        fn now(&self) -> Moment {
            *self.0.borrow()
        }

        async fn wait_until(&mut self, moment: Moment) {
            if self.0.wait_for(|now| *now >= moment).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    struct Desk {
        keeper: Keeper,
        heard: Arc<Mutex<Vec<String>>>,
        answer: mpsc::UnboundedSender<Renewal>,
        wind: watch::Sender<Moment>,
    }

    /// Keeps a lock on the runtime of the test.
    fn start(panics: bool) -> Desk {
        let (answer, renewals) = mpsc::unbounded_channel();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let (wind, shown) = watch::channel(T0);
        let lock = Scripted { heard: heard.clone(), renewals, panics };
        let token = Token::new("0123").unwrap();
        let grant = Grant { token, fence: None, lease: Duration::from_secs(30), asked: T0, server: "x".to_owned() };
        let (keeper, keeping) = Keeper::of(lock, grant, Duration::ZERO, Wound(shown), Lateness::default());
        tokio::spawn(keeping);
        Desk { keeper, heard, answer, wind }
    }

    impl Desk {
        /// Waits until all that was started has been done, as far as it can be.
        async fn settle(&self) {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }

        fn heard(&self) -> Vec<String> {
            self.heard.lock().unwrap().clone()
        }
    }

    #[tokio::test]
    async fn renews_when_it_is_due_and_tells() {
        let mut desk = start(false);
        desk.settle().await;
        assert!(desk.heard().is_empty());
        let later = T0 + Duration::from_secs(10);
        desk.wind.send_replace(later);
        desk.answer.send(Renewal::Renewed(terms(later))).unwrap();
        desk.keeper.news.changed().await.unwrap();
        let dead_at = later + Duration::from_secs(27);
        assert!(matches!(&*desk.keeper.news.borrow(), LeaseNews::Held { dead_at: told, .. } if *told == dead_at));
        assert_eq!(desk.heard(), ["renew 30"]);
    }

    /// A frozen server, a script that asks whether the lock is still its own, and then gives it back.
    #[tokio::test]
    async fn a_release_is_heard_behind_a_renewal_that_nobody_answers() {
        let desk = start(false);
        let renewing = tokio::spawn(desk.keeper.renew(None));
        let more = tokio::spawn(desk.keeper.renew(Some(Duration::from_secs(60))));
        desk.settle().await;
        let releasing = tokio::spawn(desk.keeper.release());
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        desk.wind.send_replace(T0 + Duration::from_secs(1));
        assert!(releasing.await.unwrap().is_ok());
        assert!(renewing.await.unwrap().is_err() && more.await.unwrap().is_err());
        assert_eq!(*desk.heard.lock().unwrap(), ["renew 30", "give back"]);
    }

    #[tokio::test]
    async fn an_owner_that_drops_its_end_gives_the_lock_back() {
        let Desk { keeper, heard, wind, answer } = start(false);
        let renewing = keeper.renew(None);
        drop(keeper);
        drop(renewing);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*heard.lock().unwrap(), ["give back"]);
        drop((wind, answer));
    }

    /// Nobody would renew any more, and whoever waits for news must not wait for ever, nor be woken for ever.
    #[tokio::test]
    async fn a_panic_while_keeping_is_a_loss() {
        let mut desk = start(true);
        let outcome = desk.keeper.renew(None).await;
        assert!(outcome.is_err_and(|failure| failure.kind == Kind::Lost));
        desk.keeper.news.changed().await.unwrap();
        let dead_at = T0 + Duration::from_secs(27);
        let news = desk.keeper.news.borrow_and_update().clone();
        assert!(matches!(news, LeaseNews::Lost { proved: false, dead_at: told, .. } if told == dead_at), "{news:?}");
        assert!(desk.keeper.release().await.is_err());
    }
}
