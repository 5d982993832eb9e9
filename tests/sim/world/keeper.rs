//! The keeper of a lease: stands for `lease::keeper`. `lease::plan` decides.

use std::time::Duration;

use dflock::clock::Moment;
use dflock::lease::plan::{Plan, Step};
use tokio::sync::{mpsc, oneshot, watch};

use super::client::{Hold, Renewal};
use super::env::Env;
use super::{MS, Plant};

const ATTEMPT: Duration = Duration::from_secs(2);
pub const RELEASE_WITHIN: Duration = Duration::from_secs(2);
const AFTER_LOSS_WITHIN: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Held { term_at: Moment, dead_at: Moment },
    InDanger { term_at: Moment, dead_at: Moment },
    Lost { proved: bool },
}

pub struct Keeper {
    pub news: watch::Receiver<News>,
    orders: mpsc::Sender<oneshot::Sender<()>>,
}

impl Keeper {
    pub fn start(hold: Hold, grace: Duration) -> Keeper {
        let env = hold.site.env.clone();
        let plan = Plan::new(hold.asked, hold.lease, grace, hold.unheard_limit());
        let (tell, mut news) = watch::channel(News::Lost { proved: false });
        let (orders, inbox) = mpsc::channel(4);
        let keeping = Keeping { env: env.clone(), hold, plan, tell, inbox, delayed: None };
        keeping.hold_news();
        news.mark_unchanged();
        env.world.spawn(env.process, keeping.run());
        Keeper { news, orders }
    }

    /// Gives the lock back.
    pub async fn release(self, env: &Env) {
        let (answer, result) = oneshot::channel();
        if self.orders.send(answer).await.is_ok() {
            let _ = env.timeout(RELEASE_WITHIN * 2, result).await;
        }
    }
}

struct Keeping {
    env: Env,
    hold: Hold,
    plan: Plan,
    tell: watch::Sender<News>,
    inbox: mpsc::Receiver<oneshot::Sender<()>>,
    delayed: Option<oneshot::Sender<()>>,
}

enum End {
    Lost { proved: bool },
    Released,
}

impl Keeping {
    fn plan_times(&self) -> (Moment, Moment) {
        let (term_at, dead_at) = (self.plan.term_at(), self.plan.dead_at());
        if self.env.world.plant == Plant::MarginRemoved {
            let end = self.hold.asked + self.hold.lease;
            return (term_at.max(end - Duration::from_nanos(MS)), end.max(dead_at));
        }
        (term_at, dead_at)
    }

    /// Says how long the lock is believed to be held, to the owner and to the checks.
    fn hold_news(&self) {
        let (term_at, dead_at) = self.plan_times();
        let lease = (self.hold.site.key, self.hold.space(), self.hold.token.number);
        self.env.believes(self.hold.site.client, lease, dead_at, self.hold.outlives_connection());
        if let Some(link) = self.hold.link() {
            self.env.world.lease_on_link(link, self.hold.token.number);
        }
        self.tell.send_replace(News::Held { term_at, dead_at });
    }

    async fn run(mut self) {
        let fence = self.hold.token.number;
        let proved = match self.keep().await {
            End::Lost { proved } => proved,
            End::Released => return,
        };
        let client = self.hold.site.client;
        self.env.tell(&format!("client {client}"), || format!("the lock {fence} is lost (proved: {proved})"));
        self.env.world.told_of_loss(fence, proved);
        self.tell.send_replace(News::Lost { proved });
        loop {
            let order = match self.delayed.take() {
                Some(order) => Some(order),
                None => self.inbox.recv().await,
            };
            let Some(answer) = order else { return };
            if !proved {
                self.hold.give_back(self.env.now() + AFTER_LOSS_WITHIN).await;
            }
            let _ = answer.send(());
        }
    }

    async fn keep(&mut self) -> End {
        if !self.hold.outlives_connection() {
            let until = self.attempt_until();
            let secured = self.hold.make_resumable(until).await;
            if let Err(end) = self.note(secured).await {
                return end;
            }
        }
        loop {
            let step = match self.plan.step(self.env.now()) {
                // The plan's own margin is what is missing.
                Step::GiveUp if self.plan_times().0 > self.env.now() => Step::RenewNow,
                step => step,
            };
            match step {
                Step::GiveUp => return End::Lost { proved: false },
                Step::RenewNow => {
                    let renewed = self.renew_attentively().await;
                    if let Err(end) = self.note(renewed).await {
                        return end;
                    }
                }
                Step::RenewAt(_) if self.delayed.is_some() => {
                    let order = self.delayed.take();
                    return self.release(order).await;
                }
                Step::RenewAt(moment) => {
                    let order = tokio::select! {
                        biased;
                        () = self.env.wait_until(moment) => None,
                        order = self.inbox.recv() => Some(order),
                        () = self.hold.broken() => {
                            if let Err(end) = self.note(Renewal::Unknown).await {
                                return end;
                            }
                            None
                        }
                    };
                    if let Some(order) = order {
                        return self.release(order).await;
                    }
                }
            }
        }
    }

    async fn renew_attentively(&mut self) -> Renewal {
        let until = self.attempt_until();
        let Keeping { hold, inbox, delayed, .. } = self;
        tokio::select! {
            biased;
            renewed = hold.renew(until) => renewed,
            order = inbox.recv() => {
                *delayed = order;
                Renewal::Unknown
            }
        }
    }

    fn attempt_until(&self) -> Moment {
        let (term_at, _) = self.plan_times();
        if self.hold.outlives_connection() { term_at.min(self.env.now() + ATTEMPT) } else { term_at }
    }

    async fn note(&mut self, mut renewal: Renewal) -> Result<(), End> {
        while renewal == Renewal::Unknown {
            let (term_at, dead_at) = self.plan_times();
            if self.env.now() >= term_at {
                return Err(End::Lost { proved: false });
            }
            let stubborn = self.env.world.plant == Plant::BrokenIsNotLost;
            if !self.hold.outlives_connection() && !stubborn {
                return Err(End::Lost { proved: true });
            }
            let never = self.env.world.plant == Plant::ResumeAfterDeadline;
            let (term_at, dead_at) = if never { (Moment::NEVER, Moment::NEVER) } else { (term_at, dead_at) };
            self.tell.send_replace(News::InDanger { term_at, dead_at });
            if self.delayed.is_some() || self.inbox.is_closed() {
                let _ = self.env.timeout(RELEASE_WITHIN / 2, self.hold.restore(term_at)).await;
                let order = self.delayed.take();
                return Err(self.release(order).await);
            }
            let Keeping { env, hold, inbox, delayed, .. } = self;
            let restored = tokio::select! {
                biased;
                () = env.wait_until(term_at) => return Err(End::Lost { proved: false }),
                restored = hold.restore(term_at) => Ok(restored),
                order = inbox.recv() => Err(order),
            };
            match restored {
                // Where the lock was not kept for us, another connection proves nothing: what is planted.
                Ok(Renewal::Gone) if stubborn => env.sleep(ATTEMPT).await,
                Ok(Renewal::Unknown) => return Err(End::Lost { proved: false }),
                Ok(restored) => renewal = restored,
                Err(order) => *delayed = order,
            }
        }
        match renewal {
            Renewal::Renewed { asked } => {
                self.plan.set_unheard_limit(self.hold.unheard_limit());
                self.plan.renewed(asked, self.hold.lease, asked.as_nanos() / 1000);
                self.hold_news();
                Ok(())
            }
            Renewal::Gone => Err(End::Lost { proved: true }),
            Renewal::Unknown => Err(End::Lost { proved: false }),
        }
    }

    async fn release(&mut self, answer: Option<oneshot::Sender<()>>) -> End {
        self.env.world.gives_back(self.hold.token.number);
        self.hold.give_back(self.env.now() + RELEASE_WITHIN).await;
        if let Some(answer) = answer {
            let _ = answer.send(());
        }
        End::Released
    }
}
