//! One connection to one member: gRPC by tonic, HTTP/2 by hyper, over the house's own streams.

use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{PathAndQuery, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::messages::{Call, WATCH, WatchRequest, WatchResponse};
use super::trouble::Trouble;
use crate::net::dial::explain_alert;
use crate::net::{Address, Tls, dial};

/// How often a connection with a stream on it is asked whether it lives. etcd cuts off who asks more often
/// than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);
const PONG_WITHIN: Duration = Duration::from_secs(4);

/// The most bytes of an answer, unless more keys were asked for than are in them: what is read takes many times its size.
const MOST: usize = 1024 * 1024;
/// What one key in an answer may take; ours need a quarter of it.
const MOST_OF_A_KEY: usize = 4096;

/// What a login is sent as.
pub(super) type LoginToken = MetadataValue<Ascii>;

#[derive(Clone)]
pub(super) struct Link {
    requests: SendRequest<Body>,
    origin: Uri,
    tasks: Tasks,
    has_answered: Arc<AtomicBool>,
}

/// What hyper runs beside us for one connection. It lets a broken-off connection live on for the streams that
/// are on it; one that is cut ends with all of them, and whoever waits for an answer hears of that.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<Vec<AbortHandle>>>);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(future).abort_handle());
    }
}

impl Link {
    /// Connects, TLS included, within `limit`.
    pub(super) async fn open(address: &Address, tls: Option<&Tls>, limit: Duration) -> Result<Link, Trouble> {
        let stream = dial(address, tls, limit).await?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let authority = match address {
            Address::Tcp { .. } => address.to_string(),
            Address::Unix(_) => address.host().to_owned(),
        };
        let origin = Uri::from_str(&format!("{scheme}://{authority}"));
        let origin = origin.map_err(|why| Trouble::Strange(why.to_string()))?;
        let tasks = Tasks::default();
        let shaken = Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN)
            .handshake(TokioIo::new(stream))
            .await;
        let (requests, connection) = shaken.map_err(|why| Trouble::Broken(why.to_string()))?;
        // Ends with its last user, or when it breaks.
        tasks.execute(async { drop(connection.await) });
        Ok(Link { requests, origin, tasks, has_answered: Arc::default() })
    }

    /// Of TLS a server says only after the handshake what it thinks of our certificate, and closes: whoever
    /// writes then hears of a broken pipe alone. So another connection is made and listened to.
    pub(super) async fn refusal(address: &Address, tls: &Tls, limit: Duration) -> Option<Trouble> {
        let mut stream = dial(address, Some(tls), limit).await.ok()?;
        let said = timeout(limit, stream.read(&mut [0])).await.ok()?;
        explain_alert(&said.err()?).map(Trouble::Dial)
    }

    /// Whether anything was ever answered on it.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Breaks it for all its users.
    pub(super) fn cut(&self) {
        self.tasks.0.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(AbortHandle::abort);
    }

    /// One request and its answer.
    pub(super) async fn call<Q: Call>(&self, request: Q, login: Option<&LoginToken>) -> Result<Q::Answer, Trouble> {
        let path = PathAndQuery::from_static(Q::PATH);
        let codec = ProstCodec::<Q, Q::Answer>::default();
        let most = MOST.max(request.keys().saturating_mul(MOST_OF_A_KEY));
        let mut request = Request::new(request);
        sign(&mut request, login);
        let answer = self.grpc(most).unary(request, path, codec).await;
        self.judge(answer)
    }

    /// Watches several keys on one stream. A member that has lost its leader ends it.
    pub(super) async fn watch(
        &self,
        requests: Vec<WatchRequest>,
        login: Option<&LoginToken>,
    ) -> Result<Streaming<WatchResponse>, Trouble> {
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let mut request = Request::new(tokio_stream::iter(requests));
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        sign(&mut request, login);
        let answer = self.grpc(MOST).streaming(request, PathAndQuery::from_static(WATCH), codec).await;
        self.judge(answer)
    }

    fn judge<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Trouble> {
        let answer = answer.map(Response::into_inner).map_err(|status| Trouble::from(&status));
        if !matches!(answer, Err(Trouble::Broken(_))) {
            self.has_answered.store(true, Ordering::Relaxed);
        }
        answer
    }

    fn grpc(&self, most: usize) -> Grpc<Link> {
        Grpc::with_origin(self.clone(), self.origin.clone()).max_decoding_message_size(most)
    }
}

fn sign<T>(request: &mut Request<T>, login: Option<&LoginToken>) {
    if let Some(login) = login {
        request.metadata_mut().insert("token", login.clone());
    }
}

impl GrpcService<Body> for Link {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}
