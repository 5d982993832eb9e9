//! The only place that renews. Tells its owner what became of the lease.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::plan::{Plan, Step};
use super::timer::BoottimeTimer;
use crate::backend::{Hold, Renewal};
use crate::clock::{self, Moment};
use crate::error::{Failure, Kind};
use crate::lock::{Grant, Key};

/// How long one renewal may take where another way to the server can be tried after it.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How long the server may take to agree on keeping a lock when the connection breaks.
const AGREE_WITHIN: Duration = Duration::from_secs(2);

/// How long a release may take.
pub const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// The same, where it is only a kindness to those who wait.
const AFTER_LOSS_WITHIN: Duration = Duration::from_millis(500);

/// The lease, as far as it can be proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseNews {
    /// A child must be told to end at `term_at` and be dead by `dead_at`, unless better news come.
    Held { term_at: Moment, dead_at: Moment, lease: Duration },
    /// Renewing fails; it is still ours until `term_at`.
    InDanger { term_at: Moment, dead_at: Moment, why: String },
    /// The server gave it away, or may do so once `dead_at` is over.
    Lost { proved: bool, dead_at: Moment, why: String },
}

/// Before anybody relies on a lock: the next hiccup of the network must not end it, where the server can see to
/// that.
pub async fn make_resumable(hold: &mut Hold, key: &Key) -> Result<(), Failure> {
    let why = match hold.make_resumable(clock::now() + AGREE_WITHIN).await {
        Renewal::Renewed { .. } => return Ok(()),
        Renewal::Gone => "the server gave it away".to_owned(),
        Renewal::Unknown(why) => why,
    };
    let failure = Failure::new(Kind::Unreachable, format!("cannot keep {key}: {why}"));
    Err(failure.hint("the server went away just now: try again"))
}

enum Order {
    Renew {
        lease: Option<Duration>,
        answer: oneshot::Sender<Result<Duration, Failure>>,
    },
    Release {
        answer: oneshot::Sender<Result<(), Failure>>,
    },
    /// Somebody else keeps the lock now.
    Leave,
}

/// The owner's end of a lock that is being kept. Dropping it closes the connection.
pub struct Keeper {
    pub news: watch::Receiver<LeaseNews>,
    /// What it was at the start.
    pub grant: Grant,
    /// Whether another process can take the lock over with its token.
    pub can_move: bool,
    orders: mpsc::Sender<Order>,
}

impl Keeper {
    /// Keeps `hold` from now on; `grace` is how long before the end of the lease news of its loss are needed.
    pub fn start(hold: Hold, grace: Duration) -> Keeper {
        let grant = hold.grant().clone();
        let can_move = hold.outlives_connection();
        let plan = Plan::new(grant.asked, grant.lease, grace, hold.unheard_limit());
        let held = LeaseNews::Held { term_at: plan.term_at(), dead_at: plan.dead_at(), lease: plan.lease() };
        let (tell, news) = watch::channel(held);
        let (orders, inbox) = mpsc::channel(4);
        let wish = grant.lease;
        tokio::spawn(Keeping { hold, plan, wish, tell, inbox, delayed: None, timer: BoottimeTimer::new() }.run());
        Keeper { news, grant, can_move, orders }
    }

    /// Renews now, for `lease` or as long as before; says how long the lease is then.
    pub fn renew(&self, lease: Option<Duration>) -> impl Future<Output = Result<Duration, Failure>> + use<> {
        let (orders, news) = (self.orders.clone(), self.news.clone());
        async move {
            let (answer, result) = oneshot::channel();
            let sent = orders.send(Order::Renew { lease, answer }).await;
            if sent.is_err() { Err(lost(&news)) } else { result.await.unwrap_or_else(|_| Err(lost(&news))) }
        }
    }

    /// Ends without giving the lock back: another process has taken it over.
    pub async fn leave(self) {
        // It may have ended by itself, which is as good.
        let _ = self.orders.send(Order::Leave).await;
    }

    /// Gives the lock back.
    pub async fn release(self) -> Result<(), Failure> {
        let (answer, result) = oneshot::channel();
        let sent = self.orders.send(Order::Release { answer }).await;
        if sent.is_err() {
            return Err(lost(&self.news));
        }
        match tokio::time::timeout(RELEASE_WITHIN * 2, result).await {
            Ok(result) => result.unwrap_or_else(|_| Err(lost(&self.news))),
            Err(_) => Err(Failure::new(Kind::Unreachable, "the server does not answer")),
        }
    }
}

/// The failure that says what the last news was.
fn lost(news: &watch::Receiver<LeaseNews>) -> Failure {
    match &*news.borrow() {
        LeaseNews::Lost { why, .. } => Failure::new(Kind::Lost, format!("the lock was lost: {why}")),
        LeaseNews::Held { .. } | LeaseNews::InDanger { .. } => {
            Failure::new(Kind::Internal, "the keeper of the lock is gone")
        }
    }
}

struct Keeping {
    hold: Hold,
    plan: Plan,
    /// What is asked for each time. A server that gives less once may give it all the next time.
    wish: Duration,
    tell: watch::Sender<LeaseNews>,
    inbox: mpsc::Receiver<Order>,
    /// An order that came while something else was under way.
    delayed: Option<Order>,
    timer: BoottimeTimer,
}

/// How keeping ends.
enum End {
    Lost { proved: bool, why: String },
    Released,
}

impl Keeping {
    async fn run(mut self) {
        if let End::Lost { proved, why } = self.keep().await {
            self.tell.send_replace(LeaseNews::Lost { proved, dead_at: self.plan.dead_at(), why });
        } else {
            return;
        }
        // Never again in this run. Whoever asks hears of the loss.
        loop {
            let order = match self.delayed.take() {
                Some(order) => order,
                None => match self.inbox.recv().await {
                    Some(order) => order,
                    None => return,
                },
            };
            let (proved, why) = match &*self.tell.borrow() {
                LeaseNews::Lost { proved, why, .. } => (*proved, why.clone()),
                LeaseNews::Held { .. } | LeaseNews::InDanger { .. } => (true, String::new()),
            };
            let lost = Failure::new(Kind::Lost, format!("the lock was lost: {why}"));
            // Nobody may wait for the answer any more.
            let _ = match order {
                Order::Leave => Ok(()),
                Order::Renew { answer, .. } => answer.send(Err(lost)).map_err(drop),
                Order::Release { answer } => {
                    if !proved {
                        // The server may still keep it for us, to nobody's use.
                        let _ = self.hold.give_back(clock::now() + AFTER_LOSS_WITHIN).await;
                    }
                    answer.send(Err(lost)).map_err(drop)
                }
            };
        }
    }

    async fn keep(&mut self) -> End {
        if !self.hold.outlives_connection() {
            let agreed = self.hold.make_resumable(self.attempt_until()).await;
            if let Err(end) = self.note(agreed).await {
                return end;
            }
        }
        loop {
            // The deadline first, before sockets: this may be the waking from any pause.
            match self.plan.step(clock::now()) {
                Step::GiveUp => return self.given_up(),
                Step::RenewNow => {
                    let renewed = self.renew_attentively(self.wish).await;
                    if let Err(end) = self.note(renewed).await {
                        return end;
                    }
                }
                Step::RenewAt(_) if self.delayed.is_some() => {
                    let delayed = self.delayed.take();
                    if let Some(end) = self.obey(delayed).await {
                        return end;
                    }
                }
                Step::RenewAt(moment) => {
                    let order = tokio::select! {
                        biased;
                        () = self.timer.wait_until(moment) => None,
                        order = self.inbox.recv() => Some(order),
                        why = self.hold.broken() => {
                            if let Err(end) = self.note(Renewal::Unknown(why)).await {
                                return end;
                            }
                            None
                        }
                    };
                    if let Some(order) = order
                        && let Some(end) = self.obey(order).await
                    {
                        return end;
                    }
                }
            }
        }
    }

    /// Carries out an order; `None` is an owner that is gone without a word.
    async fn obey(&mut self, order: Option<Order>) -> Option<End> {
        match order {
            None => {
                let _ = self.hold.give_back(clock::now() + RELEASE_WITHIN).await;
                Some(End::Released)
            }
            Some(Order::Renew { lease, answer }) => self.renew_for(lease, answer).await,
            Some(Order::Release { answer }) => Some(self.release(answer).await),
            Some(Order::Leave) => Some(End::Released),
        }
    }

    /// Renews, but lets go at once if that is wanted meanwhile: a frozen server must not hold anybody up.
    async fn renew_attentively(&mut self, lease: Duration) -> Renewal {
        let until = self.attempt_until();
        let Keeping { hold, inbox, delayed, .. } = self;
        let mut renewing = std::pin::pin!(hold.renew(lease, until));
        loop {
            tokio::select! {
                biased;
                renewed = &mut renewing => return renewed,
                order = inbox.recv(), if delayed.is_none() => match order {
                    Some(Order::Renew { .. }) => *delayed = order,
                    Some(Order::Release { .. } | Order::Leave) => {
                        *delayed = order;
                        return Renewal::Unknown("it is let go of".to_owned());
                    }
                    None => return Renewal::Unknown("its owner is gone".to_owned()),
                },
            }
        }
    }

    /// Where another way to the server can be tried, an attempt is short; otherwise its answer is all there is.
    fn attempt_until(&self) -> Moment {
        let term_at = self.plan.term_at();
        if self.hold.outlives_connection() { term_at.min(clock::now() + ATTEMPT) } else { term_at }
    }

    /// Takes what came of an attempt into the plan. Without a connection the lock is taken over on another
    /// one, if the server keeps it for that; otherwise it is lost.
    async fn note(&mut self, mut renewal: Renewal) -> Result<(), End> {
        if let Renewal::Unknown(why) = renewal {
            if clock::now() >= self.plan.term_at() {
                return Err(self.given_up());
            }
            if !self.hold.outlives_connection() {
                return Err(End::Lost { proved: true, why });
            }
            self.plan.failed(clock::now());
            let (term_at, dead_at) = (self.plan.term_at(), self.plan.dead_at());
            self.tell.send_replace(LeaseNews::InDanger { term_at, dead_at, why });
            if matches!(self.delayed, Some(Order::Leave)) {
                return Err(End::Released);
            }
            // A release does not wait for a server that may never come back.
            if matches!(self.delayed, Some(Order::Release { .. })) || self.inbox.is_closed() {
                let _ = tokio::time::timeout(RELEASE_WITHIN / 2, self.hold.restore(self.wish, term_at)).await;
                return Err(match self.delayed.take() {
                    Some(Order::Release { answer }) => self.release(answer).await,
                    _ => {
                        let _ = self.hold.give_back(clock::now() + RELEASE_WITHIN).await;
                        End::Released
                    }
                });
            }
            let Keeping { hold, wish, inbox, delayed, timer, .. } = self;
            let restored = tokio::select! {
                biased;
                () = timer.wait_until(term_at) => return Err(self.given_up()),
                restored = hold.restore(*wish, term_at) => Ok(restored),
                order = inbox.recv(), if delayed.is_none() => Err(order),
            };
            renewal = match restored {
                Ok(restored) => restored,
                Err(order) => {
                    if let Some(Order::Renew { answer, .. }) = order {
                        let failure = Failure::new(Kind::Unreachable, "the server cannot be reached at the moment");
                        // Nobody may wait for the answer any more.
                        let _ = answer.send(Err(failure.hint("the lock is still held; dflock goes on trying")));
                    } else {
                        self.delayed = order;
                    }
                    return Box::pin(self.note(Renewal::Unknown("the server cannot be reached".to_owned()))).await;
                }
            };
        }
        match renewal {
            Renewal::Renewed { asked } => {
                let lease = self.hold.grant().lease;
                self.plan.set_unheard_limit(self.hold.unheard_limit());
                self.plan.renewed(asked, lease, asked.as_nanos() / 1000);
                let (term_at, dead_at) = (self.plan.term_at(), self.plan.dead_at());
                self.tell.send_replace(LeaseNews::Held { term_at, dead_at, lease });
                Ok(())
            }
            Renewal::Gone => {
                Err(End::Lost { proved: true, why: "the server says that its lease has ended".to_owned() })
            }
            Renewal::Unknown(_) => Err(self.given_up()),
        }
    }

    async fn renew_for(
        &mut self,
        lease: Option<Duration>,
        answer: oneshot::Sender<Result<Duration, Failure>>,
    ) -> Option<End> {
        let lease = lease.unwrap_or(self.wish);
        let renewed = self.renew_attentively(lease).await;
        if matches!(renewed, Renewal::Renewed { .. }) {
            self.wish = lease;
        }
        let noted = self.note(renewed).await;
        let result = match &noted {
            Ok(()) => Ok(self.plan.lease()),
            Err(End::Lost { why, .. }) => Err(Failure::new(Kind::Lost, format!("the lock was lost: {why}"))),
            Err(End::Released) => Err(Failure::new(Kind::Lost, "the lock was released")),
        };
        // Nobody may wait for the answer any more.
        let _ = answer.send(result);
        noted.err()
    }

    async fn release(&mut self, answer: oneshot::Sender<Result<(), Failure>>) -> End {
        let released = self.hold.give_back(clock::now() + RELEASE_WITHIN).await;
        // Nobody may wait for the answer any more.
        let _ = answer.send(released);
        End::Released
    }

    fn given_up(&self) -> End {
        End::Lost { proved: false, why: "it could not be renewed in time".to_owned() }
    }
}
