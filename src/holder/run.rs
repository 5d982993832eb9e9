//! A holder's loop: lease news, requests, its owner's death, its own end.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::caller::{Caller, Heard, tell};
use super::control::{Reply, Request, State, Status};
use super::door::{Asked, accept};
use super::lock::{Change, Lock};
use super::owner::Watch;
use super::registry::{Entry, Registry};
use super::witness::Witness;
use super::{Job, Report};
use crate::backend::{Ask, Backend, Hold, Joined, Place, Wait};
use crate::clock::{self, Moment};
use crate::error::{Failure, Kind};
use crate::lease::keeper::{LeaseNews, ORDER_WITHIN, RELEASE_WITHIN, make_resumable};
use crate::lease::timer::BoottimeTimer;
use crate::lock::Key;

/// How long a holder that lost its lock stays to say so, if nothing else ends it.
const REMEMBER_LOSS: Duration = Duration::from_secs(24 * 3600);

/// How long a release may take as a whole: whoever asked for it waits a little longer.
const ANSWER_WITHIN: Duration = ORDER_WITHIN;

struct Holder {
    job: Job,
    /// Whoever tells the owner of a loss, if that is wanted.
    witness: Option<Box<dyn Witness>>,
    backend: Arc<Backend>,
    lock: Lock,
    caller: Caller,
    /// Commands that wait for the turn, and until when.
    waiting: Vec<(Moment, oneshot::Sender<Reply>)>,
    /// Of a place of nobody: whether somebody waits for its turn, or did. It is theirs then.
    is_promised: bool,
    ends_at: Moment,
}

/// Lives as a holder until it lets go. The report goes to stdout, which is a pipe.
pub async fn run(job: Job, backend: Backend, witness: Option<Box<dyn Witness>>) {
    let (mut holder, entry, listener, watch) = match begin(job, backend, witness) {
        Ok(life) => life,
        Err(failure) => return drop(tell(&Err(failure))),
    };
    let (ask, asked) = mpsc::channel::<Asked>(16);
    let accepting = tokio::spawn(accept(listener, ask));
    let last_word = holder.live(asked, watch).await;
    // With it go the connections.
    drop(holder);
    // Whoever asked for the end looks for holders next: there must be none then.
    drop(entry);
    if let Some((reply, answer)) = last_word {
        let _ = reply.send(answer);
    }
    accepting.abort();
    let _ = accepting.await;
    // The conversations end with their answers written.
    let _ = timeout(Duration::from_secs(1), async {
        while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// The answer to the command that ended a holder.
type LastWord = Option<(oneshot::Sender<Reply>, Reply)>;

type Life = (Holder, Entry, UnixListener, Option<Watch>);

/// Everything that can fail for want of a place or an owner comes before the lock.
fn begin(job: Job, backend: Backend, mut witness: Option<Box<dyn Witness>>) -> Result<Life, Failure> {
    let entry = Registry::enter(&job.key, job.kind.space())?;
    let listener = entry.listen()?;
    let watch = match job.owner {
        None => None,
        Some(owner) => Some(Watch::start(owner).ok_or_else(|| {
            Failure::usage(format!("process {} that the lock was to be tied to has ended", owner.pid))
        })?),
    };
    if let (Some(witness), Some(watch), Some(signal)) = (&mut witness, &watch, job.signal_on_lost)
        && let Some(process) = watch.descriptor()
    {
        witness.watch_for(process, signal).map_err(|why| Failure::internal("tell the guardian", &why))?;
    }
    let caller = Caller::new().map_err(|why| Failure::internal("listen to whoever asked", &why))?;
    let (_, server) = backend.server_of(&job.key);
    let (stop, stopped) = oneshot::channel();
    let backend = Arc::new(backend);
    let task = tokio::spawn(join(job.clone(), backend.clone(), stopped));
    let ends_at = Moment::NEVER;
    let lock = Lock::Joining { task, stop, server };
    let holder = Holder { job, witness, backend, lock, caller, waiting: Vec::new(), is_promised: false, ends_at };
    Ok((holder, entry, listener, watch))
}

async fn join(job: Job, backend: Arc<Backend>, stopped: oneshot::Receiver<()>) -> Result<Joined, Failure> {
    let ask =
        Ask { key: job.key.clone(), kind: job.kind, lease: job.lease, wait: job.wait.map_or(Wait::Forever, Wait::For) };
    let asking = async {
        match job.inherited.clone() {
            Some(left) => backend.take_over(&job.key, job.kind, left).await.map(Joined::Held),
            None if job.two_phase => backend.enqueue(&ask).await,
            None => backend.acquire(&ask).await.map(Joined::Held),
        }
    };
    match unless_stopped(asking, stopped, &job.key).await? {
        Joined::Held(hold) => safe_to_tell(hold, &job.key).await.map(Joined::Held),
        queued => Ok(queued),
    }
}

async fn turn(place: Place, key: Key, stopped: oneshot::Receiver<()>) -> Result<Hold, Failure> {
    let hold = unless_stopped(place.wait(), stopped, &key).await?;
    safe_to_tell(hold, &key).await
}

/// Waits for a lock. What was granted before the wait was ended is returned all the same: it must be given back.
async fn unless_stopped<T>(
    waiting: impl Future<Output = Result<T, Failure>>,
    stopped: oneshot::Receiver<()>,
    key: &Key,
) -> Result<T, Failure> {
    tokio::select! {
        granted = waiting => granted,
        // With its connection the request goes, and the place in the queue.
        _ = stopped => Err(Failure::new(Kind::Lost, format!("the wait for {key} was ended"))),
    }
}

/// Nobody is told of a lock that the next hiccup of the network would end. One that is not told is given back: the
/// server may have agreed to keep it, and nobody would ever ask for it.
async fn safe_to_tell(mut hold: Hold, key: &Key) -> Result<Hold, Failure> {
    match make_resumable(&mut hold, key).await {
        Ok(()) => Ok(hold),
        Err(failure) => {
            // If that fails too, its lease ends it.
            let _ = hold.give_back(clock::now() + RELEASE_WITHIN).await;
            Err(failure)
        }
    }
}

async fn ended(watch: Option<&Watch>) {
    match watch {
        Some(watch) => watch.ended().await,
        None => std::future::pending().await,
    }
}

/// A witness that does not hear is replaced, or tells the owner too soon rather than too late.
fn held_until(witness: &mut Option<Box<dyn Witness>>, moment: Moment) {
    if let Some(witness) = witness {
        witness.held_until(moment);
    }
}

/// Ends a wait, and returns what was granted just then.
async fn stop_waiting<T>(mut waiting: JoinHandle<Result<T, Failure>>, stop: oneshot::Sender<()>) -> Option<T> {
    // It may be done already.
    let _ = stop.send(());
    let Ok(ended) = timeout(RELEASE_WITHIN, &mut waiting).await else {
        waiting.abort();
        return None;
    };
    ended.ok().and_then(Result::ok)
}

impl Holder {
    async fn live(&mut self, mut asked: mpsc::Receiver<Asked>, watch: Option<Watch>) -> LastWord {
        let mut timer = BoottimeTimer::new();
        let (Ok(mut terminate), Ok(mut child)) = (signal(SignalKind::terminate()), signal(SignalKind::child())) else {
            self.let_go().await;
            return None;
        };
        loop {
            if let Some(witness) = self.witness.as_mut().filter(|witness| clock::now() >= witness.attend_at()) {
                witness.attend();
            }
            let next = self.next_deadline();
            tokio::select! {
                () = ended(watch.as_ref()) => break,
                _ = terminate.recv() => {
                    self.tell_owner(watch.as_ref()).await;
                    break;
                }
                // The witness has stopped, or is gone.
                _ = child.recv() => {
                    if let Some(witness) = &mut self.witness {
                        witness.attend();
                    }
                }
                () = timer.wait_until(next) => {
                    if clock::now() >= self.ends_at {
                        self.tell_owner(watch.as_ref()).await;
                        break;
                    }
                    if self.give_up_waits() {
                        break;
                    }
                }
                change = self.lock.changed() => {
                    if !self.take(change, watch.as_ref()).await {
                        break;
                    }
                }
                heard = self.caller.hear() => match heard {
                    Heard::Thanks => self.caller.part(),
                    Heard::Gone => break,
                },
                Some((request, reply)) = asked.recv() => {
                    let end = self.answer(request, reply).await;
                    if end.is_some() {
                        return end;
                    }
                    if self.is_deserted() {
                        break;
                    }
                }
            }
        }
        self.let_go().await;
        if !self.caller.is_told {
            let why = format!("the wait for {} was ended", self.job.key);
            let _ = self.caller.tell(&Err(self.named(Kind::Lost, why)));
        }
        None
    }

    fn next_deadline(&self) -> Moment {
        let waits = self.waiting.iter().map(|(until, _)| *until).min().unwrap_or(Moment::NEVER);
        let attend_at = self.witness.as_ref().map_or(Moment::NEVER, |witness| witness.attend_at());
        waits.min(self.ends_at).min(attend_at)
    }

    /// The lock was granted or refused, the turn has come, or the keeper has news. `false`: that was all.
    async fn take(&mut self, change: Change, watch: Option<&Watch>) -> bool {
        let server = self.lock.server().to_owned();
        let lost = match change {
            Change::Joined(joined) => match *joined {
                Ok(Joined::Held(hold)) => {
                    self.hold(hold);
                    return self.caller.tell(&Ok(self.report()));
                }
                Ok(Joined::Queued(place)) => {
                    let (server, position) = (place.server(), place.position());
                    let (stop, stopped) = oneshot::channel();
                    let turn = tokio::spawn(turn(place, self.job.key.clone(), stopped));
                    self.lock = Lock::Waiting { turn, stop, server, position };
                    self.ends_at = self.end_of_holding();
                    return self.caller.tell(&Ok(self.report()));
                }
                Err(failure) => {
                    // The task is done, and must not be waited for again.
                    self.lock = Lock::Lost { why: failure.message.clone(), server, token: None };
                    let _ = self.caller.tell(&Err(failure));
                    return false;
                }
            },
            Change::Turn(turn) => match *turn {
                Ok(hold) => {
                    self.hold(hold);
                    None
                }
                Err(failure) => Some((failure.message, None)),
            },
            Change::News => match &mut self.lock {
                Lock::Held { keeper, held, .. } => {
                    if let Some(witness) = &mut self.witness
                        && keeper.lifeline.has_changed().unwrap_or(false)
                    {
                        witness.reconnected(&held.token, keeper.lifeline.borrow_and_update().clone());
                    }
                    match &*keeper.news.borrow_and_update() {
                        LeaseNews::Lost { why, .. } => Some((why.clone(), Some(held.token.clone()))),
                        LeaseNews::Held { lease, dead_at, .. } => {
                            held.lease = *lease;
                            held_until(&mut self.witness, *dead_at);
                            None
                        }
                        LeaseNews::InDanger { dead_at, .. } => {
                            held_until(&mut self.witness, *dead_at);
                            None
                        }
                    }
                }
                Lock::Joining { .. } | Lock::Waiting { .. } | Lock::Lost { .. } => None,
            },
        };
        if let Some((why, token)) = lost {
            self.tell_owner(watch).await;
            self.lock = Lock::Lost { why, server, token };
            self.ends_at = self.ends_at.min(clock::now() + REMEMBER_LOSS);
        }
        if !matches!(self.lock, Lock::Waiting { .. }) {
            for (_, reply) in std::mem::take(&mut self.waiting) {
                let _ = reply.send(self.turn_reply());
            }
        }
        true
    }

    fn hold(&mut self, hold: Hold) {
        let (token, lifeline) = (hold.grant().token.clone(), hold.lifeline());
        self.lock = Lock::hold(hold);
        if let (Some(witness), Lock::Held { keeper, .. }) = (&mut self.witness, &self.lock) {
            // One that is gone and cannot be replaced is missed only if we are killed too.
            let _ = witness.held(&token, lifeline);
            if let LeaseNews::Held { dead_at, .. } | LeaseNews::InDanger { dead_at, .. } = &*keeper.news.borrow() {
                witness.held_until(*dead_at);
            }
        }
        self.ends_at = self.end_of_holding();
    }

    fn end_of_holding(&self) -> Moment {
        self.job.max_hold.map_or(Moment::NEVER, |most| clock::now() + most)
    }

    /// The lock ends, and the owner did not ask for that. It is told once: by the witness, if there is one.
    async fn tell_owner(&mut self, watch: Option<&Watch>) {
        let is_ours = matches!(self.lock, Lock::Held { .. } | Lock::Waiting { .. });
        let Some(signal) = self.job.signal_on_lost.filter(|_| is_ours) else { return };
        let is_told = match &mut self.witness {
            Some(witness) => witness.tell().await,
            None => false,
        };
        if !is_told && let Some(witness) = self.witness.take() {
            // Before it can go on, and tell it again.
            witness.farewell();
        }
        if let Some(watch) = watch.filter(|_| !is_told) {
            // The owner may have ended in this moment, which is as good.
            let _ = watch.signal(signal);
        }
    }

    /// Those whose time is over get their answer; with the last of them the place in the queue goes.
    fn give_up_waits(&mut self) -> bool {
        let now = clock::now();
        let (over, still) = std::mem::take(&mut self.waiting).into_iter().partition(|(until, _)| *until <= now);
        self.waiting = still;
        let over: Vec<(Moment, oneshot::Sender<Reply>)> = over;
        let any = !over.is_empty();
        for (_, reply) in over {
            let _ = reply.send(Reply::Failed(self.busy()));
        }
        any && self.waiting.is_empty()
    }

    /// Whether those who waited for the turn have gone, so that nobody would hear of it.
    fn is_deserted(&mut self) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(_, reply)| !reply.is_closed());
        self.waiting.len() < before && self.waiting.is_empty() && matches!(self.lock, Lock::Waiting { .. })
    }

    /// Answers a command; with a last word if this holder has come to its end.
    async fn answer(&mut self, request: Request, reply: oneshot::Sender<Reply>) -> LastWord {
        let token = match &request {
            Request::Status => None,
            Request::Release { token } | Request::Renew { token, .. } | Request::Wait { token, .. } => token.as_ref(),
        };
        let mine = match (&self.lock, token) {
            (_, None) => true,
            (Lock::Held { held, .. }, Some(token)) => *token == held.token,
            (Lock::Lost { token: own, .. }, Some(token)) => own.as_ref() == Some(token),
            (Lock::Joining { .. } | Lock::Waiting { .. }, Some(_)) => false,
        };
        // Only a place that was joined for it can be waited for.
        let mine = mine && (self.job.two_phase || !matches!(request, Request::Wait { .. }));
        if !mine {
            let _ = reply.send(Reply::NotMine);
            return None;
        }
        let is_promised = matches!(request, Request::Wait { .. }) && self.job.owner.is_none();
        match request {
            Request::Status => drop(reply.send(Reply::Status(Box::new(self.status())))),
            Request::Wait { token: None, .. } if self.is_promised => {
                drop(reply.send(Reply::Failed(self.somebody_elses())))
            }
            Request::Wait { timeout, .. } => match self.lock {
                Lock::Joining { .. } | Lock::Waiting { .. } => {
                    let until = timeout.map_or(Moment::NEVER, |timeout| clock::now() + timeout);
                    self.waiting.push((until, reply));
                }
                Lock::Held { .. } | Lock::Lost { .. } => drop(reply.send(self.turn_reply())),
            },
            Request::Renew { lease, .. } => match &self.lock {
                Lock::Held { keeper, server, .. } => {
                    let (renewing, server) = (keeper.renew(lease), server.clone());
                    // A server that is slow to answer must not make us so.
                    tokio::spawn(async move {
                        let answer = match renewing.await {
                            Ok(lease) => Reply::Renewed { server, lease },
                            Err(failure) => Reply::Failed(failure),
                        };
                        reply.send(answer)
                    });
                }
                Lock::Joining { .. } | Lock::Waiting { .. } => drop(reply.send(Reply::Failed(self.not_yet()))),
                Lock::Lost { .. } => drop(reply.send(Reply::Failed(self.lost()))),
            },
            Request::Release { .. } => {
                let answer = self.release().await;
                return Some((reply, answer));
            }
        }
        self.is_promised |= is_promised;
        None
    }

    async fn release(&mut self) -> Reply {
        // From here on the lock ends because we want it to.
        if let Some(witness) = self.witness.take() {
            witness.farewell();
        }
        let until = clock::now() + ANSWER_WITHIN;
        let reply = self.give_up(until).await;
        // Where a queue is not left with a connection.
        self.backend.tidy(until).await;
        reply
    }

    async fn give_up(&mut self, until: Moment) -> Reply {
        let server = self.lock.server().to_owned();
        let lost = self.lost();
        let released = Lock::Lost { why: "it was released".to_owned(), server: server.clone(), token: None };
        match std::mem::replace(&mut self.lock, released) {
            Lock::Held { keeper, .. } => match keeper.release().await {
                Ok(()) => Reply::Released { server },
                Err(failure) => Reply::Failed(failure),
            },
            Lock::Joining { task, stop, .. } => {
                let joined = stop_waiting(task, stop).await;
                if let Some(Joined::Held(mut hold)) = joined {
                    // The lease ends it otherwise.
                    let _ = hold.give_back(until).await;
                }
                Reply::Released { server }
            }
            Lock::Waiting { turn, stop, .. } => {
                if let Some(mut hold) = stop_waiting(turn, stop).await {
                    // The same.
                    let _ = hold.give_back(until).await;
                }
                Reply::Released { server }
            }
            Lock::Lost { .. } => Reply::Failed(lost),
        }
    }

    async fn let_go(&mut self) {
        let _ = self.release().await;
    }

    fn turn_reply(&self) -> Reply {
        match &self.lock {
            Lock::Held { .. } => Reply::Granted(self.report()),
            Lock::Lost { .. } => Reply::Failed(self.lost()),
            Lock::Joining { .. } | Lock::Waiting { .. } => Reply::Failed(self.not_yet()),
        }
    }

    fn report(&self) -> Report {
        let grant = match &self.lock {
            Lock::Held { held, .. } => Some(held.clone()),
            Lock::Joining { .. } | Lock::Waiting { .. } | Lock::Lost { .. } => None,
        };
        let position = match &self.lock {
            Lock::Waiting { position, .. } => *position,
            Lock::Joining { .. } | Lock::Held { .. } | Lock::Lost { .. } => None,
        };
        Report { pid: std::process::id(), server: self.lock.server().to_owned(), grant, position }
    }

    fn status(&self) -> Status {
        let now = clock::now();
        let (state, held_for, lease_left, held) = match &self.lock {
            Lock::Joining { .. } | Lock::Waiting { .. } => (State::Waiting, None, None, None),
            Lock::Lost { why, .. } => (State::Lost { why: why.clone() }, None, None, None),
            Lock::Held { keeper, held, since, .. } => {
                let (state, term_at) = match &*keeper.news.borrow() {
                    LeaseNews::Held { term_at, .. } => (State::Held, *term_at),
                    LeaseNews::InDanger { term_at, why, .. } => (State::InDanger { why: why.clone() }, *term_at),
                    LeaseNews::Lost { why, .. } => (State::Lost { why: why.clone() }, now),
                };
                (state, Some(now.since(*since)), Some(term_at.since(now)), Some(held.clone()))
            }
        };
        Status {
            pid: std::process::id(),
            key: self.job.key.clone(),
            kind: self.job.kind,
            server: self.lock.server().to_owned(),
            state,
            owner: self.job.owner,
            two_phase: self.job.two_phase,
            owner_name: self.job.owner.and_then(|owner| owner.name()),
            held_for,
            lease_left,
            max_hold_left: self.job.max_hold.filter(|_| self.ends_at != Moment::NEVER).map(|_| self.ends_at.since(now)),
            held,
        }
    }

    fn named(&self, kind: Kind, message: String) -> Failure {
        let mut failure = Failure::new(kind, message);
        failure.key = Some(self.job.key.to_string());
        failure.server = Some(self.lock.server().to_owned());
        failure
    }

    fn lost(&self) -> Failure {
        let why = match &self.lock {
            Lock::Lost { why, .. } => why.as_str(),
            Lock::Joining { .. } | Lock::Held { .. } | Lock::Waiting { .. } => "",
        };
        self.named(Kind::Lost, format!("{} is not held any more: {why}", self.job.key))
    }

    fn busy(&self) -> Failure {
        self.named(Kind::Busy, format!("{} is held by somebody else (on {})", self.job.key, self.lock.server()))
            .hint("the place in its queue is given up")
    }

    /// Two who hear that it is their turn would work at once.
    fn somebody_elses(&self) -> Failure {
        self.named(Kind::Lost, format!("the place of {} is somebody else's, who waits for it, or did", self.job.key))
            .hint("each place can be waited for once; enqueue again")
    }

    fn not_yet(&self) -> Failure {
        self.named(Kind::Busy, format!("{} is not held yet: it is still waited for", self.job.key))
            .hint("dflock wait KEY waits for the turn")
    }
}
