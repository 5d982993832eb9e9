//! One connection to one member: gRPC by tonic, HTTP/2 by hyper, over the house's own streams.

use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{PathAndQuery, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::AbortHandle;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::messages::{Call, WATCH, WatchRequest, WatchResponse};
use super::trouble::Trouble;
use crate::net::{Address, Tls, dial};

/// How often a connection with a stream on it is asked whether it lives. etcd cuts off who asks more often
/// than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);
const PONG_WITHIN: Duration = Duration::from_secs(4);

/// The largest answer: a page of a list, or the holders of a large semaphore.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// What a login is sent as.
pub(super) type LoginToken = MetadataValue<Ascii>;

#[derive(Clone)]
pub(super) struct Link {
    requests: SendRequest<Body>,
    origin: Uri,
    driver: AbortHandle,
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
        let shaken = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN)
            .handshake(TokioIo::new(stream))
            .await;
        let (requests, connection) = shaken.map_err(|why| Trouble::Broken(why.to_string()))?;
        // Ends with its last user, or when it breaks; whoever waits for an answer hears of that.
        let driver = tokio::spawn(async { drop(connection.await) }).abort_handle();
        Ok(Link { requests, origin, driver })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Breaks it for all its users.
    pub(super) fn cut(&self) {
        self.driver.abort();
    }

    /// One request and its answer.
    pub(super) async fn call<Q: Call>(&self, request: Q, login: Option<&LoginToken>) -> Result<Q::Answer, Status> {
        let path = PathAndQuery::from_static(Q::PATH);
        let codec = ProstCodec::<Q, Q::Answer>::default();
        let mut request = Request::new(request);
        sign(&mut request, login);
        self.grpc().unary(request, path, codec).await.map(tonic::Response::into_inner)
    }

    /// Watches several keys on one stream. A member that has lost its leader ends it.
    pub(super) async fn watch(
        &self,
        requests: Vec<WatchRequest>,
        login: Option<&LoginToken>,
    ) -> Result<Streaming<WatchResponse>, Status> {
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let mut request = Request::new(tokio_stream::iter(requests));
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        sign(&mut request, login);
        let answer = self.grpc().streaming(request, PathAndQuery::from_static(WATCH), codec).await;
        answer.map(tonic::Response::into_inner)
    }

    fn grpc(&self) -> Grpc<Link> {
        Grpc::with_origin(self.clone(), self.origin.clone()).max_decoding_message_size(MAX_ANSWER)
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
