//! The members of one cluster: which one is asked, who is asked next, and our login.
//!
//! Everything that is asked here may be asked twice: reading, keeping a lease alive and revoking it are so by
//! nature; the lease's number and with it the key are chosen by us, and a key is put, marked or deleted by a
//! transaction that compares its create revision. So a request without an answer goes to the next member.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tonic::Streaming;

use super::link::{Link, LoginToken};
use super::messages::{Answer, AuthenticateRequest, Call, WatchRequest, WatchResponse};
use super::trouble::Trouble;
use crate::client::cluster::Patience;
use crate::client::retry::Backoff;
use crate::clock::{self, Moment};
use crate::net::{Address, Tls};

/// How long one member may take to answer while there are others; and at least.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const ANSWER_LEAST: Duration = Duration::from_millis(50);

/// A member that was silent for so long is taken for frozen, and the connection to it cut.
const FROZEN: Duration = Duration::from_secs(1);

/// What every connection is made with.
#[derive(Clone)]
pub struct Access {
    pub tls: Option<Tls>,
    pub login: Option<Login>,
    pub allow_plaintext_login: bool,
    pub connect_timeout: Duration,
    /// How long unreachable members are tried again.
    pub connect_retry: Duration,
}

#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: Vec<u8>,
}

pub struct Cluster {
    pub(super) members: Vec<Address>,
    pub(super) access: Access,
    state: Mutex<State>,
    /// Held by whoever connects to a member: two who come at once share one connection.
    dialling: Vec<tokio::sync::Mutex<()>>,
    /// Leases of attempts that were dropped: see `Ticket`.
    leftovers: Mutex<Vec<i64>>,
}

struct State {
    seats: Vec<Seat>,
    /// Who is asked first: whoever answered last.
    first: usize,
    login: Option<LoginToken>,
    /// The server wants no login.
    is_open: bool,
    cluster_id: Option<u64>,
}

/// What is known of one member.
#[derive(Clone, Default)]
struct Seat {
    link: Option<Link>,
    /// Asked after the others until then.
    rests_until: Option<Moment>,
    backoff: Backoff,
}

/// A request that was answered.
pub(super) struct Answered<A> {
    pub(super) answer: A,
    /// When the request left.
    pub(super) asked: Moment,
    pub(super) revision: i64,
    /// The term of the leader, as far as the member knew.
    pub(super) term: u64,
}

/// What is done with a member once there is a connection to it.
trait Exchange: Sync {
    type Said: Send;

    fn with(
        &self,
        cluster: &Cluster,
        link: &Link,
        login: Option<&LoginToken>,
        within: Duration,
    ) -> impl Future<Output = Result<Self::Said, Trouble>> + Send;
}

/// One request, one answer.
struct One<'a, Q> {
    request: &'a Q,
    /// How often it was sent. One whose answer was not heard may have been obeyed.
    sent: AtomicUsize,
}

impl<Q: Call> Exchange for One<'_, Q> {
    type Said = Answered<Q::Answer>;

    async fn with(
        &self,
        cluster: &Cluster,
        link: &Link,
        login: Option<&LoginToken>,
        within: Duration,
    ) -> Result<Self::Said, Trouble> {
        let asked = clock::now();
        self.sent.fetch_add(1, Ordering::Relaxed);
        let answer = timeout(within, link.call(self.request.clone(), login)).await;
        let answer = answer.map_err(|_| Trouble::Silent)??;
        let header = answer.header().cloned().filter(|header| header.cluster_id != 0);
        let header =
            header.ok_or_else(|| Trouble::Strange("its answer does not say which cluster it is of".to_owned()))?;
        cluster.know(header.cluster_id)?;
        Ok(Answered { answer, asked, revision: header.revision, term: header.raft_term })
    }
}

/// Requests to watch, and the beginning of a stream.
struct Stream<'a>(&'a [WatchRequest]);

impl Exchange for Stream<'_> {
    type Said = Streaming<WatchResponse>;

    async fn with(
        &self,
        _cluster: &Cluster,
        link: &Link,
        login: Option<&LoginToken>,
        within: Duration,
    ) -> Result<Self::Said, Trouble> {
        let stream = timeout(within, link.watch(self.0.to_vec(), login)).await;
        stream.map_err(|_| Trouble::Silent)?
    }
}

impl Cluster {
    pub fn new(members: Vec<Address>, access: Access) -> Cluster {
        let seats = vec![Seat::default(); members.len()];
        let state = State { seats, first: 0, login: None, is_open: false, cluster_id: None };
        let dialling = members.iter().map(|_| tokio::sync::Mutex::default()).collect();
        Cluster { members, access, state: Mutex::new(state), dialling, leftovers: Mutex::default() }
    }

    /// For an attempt that may last until `until`.
    pub(super) fn patience(&self, until: Moment) -> Patience {
        Patience { until, retry: self.access.connect_retry, outlasts_drain: false }
    }

    /// Asks one member after the other, again and again until the patience ends.
    pub(super) async fn ask<Q: Call>(
        &self,
        request: &Q,
        patience: Patience,
    ) -> Result<Answered<Q::Answer>, (Trouble, Address)> {
        self.ask_counted(request, patience).await.0
    }

    /// The same, and how often it was sent for that.
    pub(super) async fn ask_counted<Q: Call>(
        &self,
        request: &Q,
        patience: Patience,
    ) -> (Result<Answered<Q::Answer>, (Trouble, Address)>, usize) {
        let one = One { request, sent: AtomicUsize::new(0) };
        let answered = self.round(patience, &one).await;
        (answered, one.sent.into_inner())
    }

    /// Begins to watch, at whichever member can.
    pub(super) async fn watch(
        &self,
        requests: &[WatchRequest],
        patience: Patience,
    ) -> Result<Streaming<WatchResponse>, (Trouble, Address)> {
        self.round(patience, &Stream(requests)).await
    }

    async fn round<E: Exchange>(&self, patience: Patience, exchange: &E) -> Result<E::Said, (Trouble, Address)> {
        let mut backoff = Backoff::default();
        let mut failing_since = None;
        let mut quorum_until = Moment::from_nanos(0);
        loop {
            let mut last = None;
            let order = self.order();
            for (done, at) in order.iter().copied().enumerate() {
                let left = u32::try_from(order.len() - done).unwrap_or(u32::MAX);
                let share = patience.until.since(clock::now()) / left;
                let within = share.clamp(ANSWER_LEAST, ANSWER_WITHIN);
                match self.attempt(at, within, exchange).await {
                    Ok(answer) => {
                        self.praise(at);
                        return Ok(answer);
                    }
                    Err(trouble) if !trouble.passes() => return Err((trouble, self.members[at].clone())),
                    Err(trouble) => {
                        if trouble.is_of_the_living() {
                            // While somebody is there a quorum may come back.
                            quorum_until = clock::now() + self.access.connect_timeout;
                        }
                        self.blame(at, &trouble, within);
                        last = Some((trouble, self.members[at].clone()));
                    }
                }
                if clock::now() >= patience.until {
                    break;
                }
            }
            let now = clock::now();
            let reach_until = (*failing_since.get_or_insert(now) + patience.retry).max(quorum_until);
            let until = reach_until.min(patience.until);
            let pause = backoff.next(random());
            if now + pause >= until
                && let Some(last) = last
            {
                return Err(last);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One exchange with one member; a login that is not known any more is replaced once.
    async fn attempt<E: Exchange>(&self, at: usize, within: Duration, exchange: &E) -> Result<E::Said, Trouble> {
        let begin = clock::now();
        let left = || within.saturating_sub(clock::now().since(begin)).max(ANSWER_LEAST);
        let is_private = self.access.tls.is_some() || self.members[at].is_local();
        if self.access.login.is_some() && !is_private && !self.access.allow_plaintext_login {
            return Err(Trouble::LoginInTheOpen);
        }
        let link = self.link(at, within).await?;
        let login = self.login(&link, left()).await?;
        match exchange.with(self, &link, login.as_ref(), left()).await {
            Err(Trouble::LoginOver(_)) if login.is_some() => {
                self.state().login = None;
                let login = self.login(&link, left()).await?;
                exchange.with(self, &link, login.as_ref(), left()).await
            }
            Err(Trouble::Broken(why)) => match &self.access.tls {
                Some(tls) if !link.has_answered() => {
                    let refusal = Link::refusal(&self.members[at], tls, left()).await;
                    Err(refusal.unwrap_or(Trouble::Broken(why)))
                }
                _ => Err(Trouble::Broken(why)),
            },
            answer => answer,
        }
    }

    async fn link(&self, at: usize, within: Duration) -> Result<Link, Trouble> {
        let Ok(_turn) = timeout(within, self.dialling[at].lock()).await else { return Err(Trouble::Silent) };
        let known = self.state().seats[at].link.clone();
        if let Some(link) = known.filter(|link| !link.is_closed()) {
            return Ok(link);
        }
        let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let limit = within.min(self.access.connect_timeout / members);
        let link = Link::open(&self.members[at], self.access.tls.as_ref(), limit).await?;
        self.state().seats[at].link = Some(link.clone());
        Ok(link)
    }

    async fn login(&self, link: &Link, within: Duration) -> Result<Option<LoginToken>, Trouble> {
        let Some(Login { user, password }) = &self.access.login else { return Ok(None) };
        {
            let state = self.state();
            if state.is_open || state.login.is_some() {
                return Ok(state.login.clone());
            }
        }
        let Ok(password) = String::from_utf8(password.clone()) else { return Err(Trouble::WrongLogin) };
        let request = AuthenticateRequest { name: user.clone(), password };
        let answer = timeout(within, link.call(request, None)).await.map_err(|_| Trouble::Silent)?;
        let token = match answer {
            Ok(answer) => LoginToken::try_from(answer.token).map_err(|why| Trouble::Strange(why.to_string()))?,
            Err(Trouble::NoLogins) => {
                self.state().is_open = true;
                return Ok(None);
            }
            Err(trouble) => return Err(trouble),
        };
        self.state().login = Some(token.clone());
        Ok(Some(token))
    }

    /// A member of another cluster knows nothing of our lease, and has locks of its own.
    fn know(&self, cluster_id: u64) -> Result<(), Trouble> {
        let known = *self.state().cluster_id.get_or_insert(cluster_id);
        if known == cluster_id { Ok(()) } else { Err(Trouble::OtherCluster) }
    }

    /// Those that rest come last.
    fn order(&self) -> Vec<usize> {
        let (state, now) = (self.state(), clock::now());
        let count = self.members.len();
        let all = (0..count).map(|step| (state.first + step) % count);
        let (mut fit, resting): (Vec<usize>, Vec<usize>) =
            all.partition(|at| state.seats[*at].rests_until.is_none_or(|until| until <= now));
        fit.extend(resting);
        fit
    }

    fn praise(&self, at: usize) {
        let mut state = self.state();
        state.first = at;
        state.seats[at].rests_until = None;
        state.seats[at].backoff = Backoff::default();
    }

    fn blame(&self, at: usize, trouble: &Trouble, waited: Duration) {
        let mut state = self.state();
        if state.first == at {
            state.first = (at + 1) % self.members.len();
        }
        let seat = &mut state.seats[at];
        seat.rests_until = Some(clock::now() + seat.backoff.next(random()));
        if matches!(trouble, Trouble::Silent) && waited < FROZEN {
            return;
        }
        // What is lost with it is taken up on another one.
        if !matches!(trouble, Trouble::Unable(_))
            && let Some(link) = seat.link.take()
        {
            link.cut();
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A lease that nobody uses any more, but the server keeps.
    pub(super) fn leave_behind(&self, lease: i64) {
        self.leftovers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(lease);
    }

    pub(super) fn take_leftovers(&self) -> Vec<i64> {
        std::mem::take(&mut *self.leftovers.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("etcd://")?;
        for (at, member) in self.members.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(out, "{comma}{member}")?;
        }
        Ok(())
    }
}

/// A number that nobody else has; 63 bits, as etcd's leases.
pub(super) fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| clock::now().as_nanos())
}
