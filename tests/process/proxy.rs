//! A proxy between a server and its store, at which a test decides what becomes of each request.
//!
//! A request that was passed on does its work even if its sender has gone, as on a real network.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, RwLock},
};

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, Response, StatusCode, header, request::Parts},
};
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture, stream};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::DropGuard, task::TaskTracker};

/// What becomes of a request.
pub(crate) enum Verdict {
    Pass,
    /// The store is said to be busy; it hears nothing of it.
    Busy,
    /// The connection breaks; the store hears nothing of it.
    Cut,
    /// It is passed on, and the connection breaks before the reply.
    LoseReply,
    /// The connection breaks in the middle of the reply's body.
    CutReply,
    /// The connection breaks, and it is passed on only later.
    Late(BoxFuture<'static, ()>),
    /// It is passed on and answered, and later passed on again.
    Twice(BoxFuture<'static, ()>),
}

/// A request, as the judge sees it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
}

impl Asked {
    /// Whether it may change something.
    pub(crate) fn writes(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
    }
}

type Judge = Arc<dyn Fn(Asked) -> BoxFuture<'static, Verdict> + Send + Sync>;

/// A running proxy; dropped, it breaks its connections.
pub(crate) struct Proxy {
    pub(crate) url: String,
    inner: Arc<Inner>,
    _stop: DropGuard,
}

struct Inner {
    upstream: String,
    client: reqwest::Client,
    judge: RwLock<Judge>,
    /// Requests that the store works on.
    passing: TaskTracker,
}

impl Proxy {
    /// In front of `upstream`, a URL without a path. Everything passes at first.
    pub(crate) async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let client = reqwest::Client::builder().no_proxy().retry(reqwest::retry::never());
        let inner = Arc::new(Inner {
            upstream: upstream.to_owned(),
            client: client.redirect(reqwest::redirect::Policy::none()).build().unwrap(),
            judge: RwLock::new(Arc::new(|_| async { Verdict::Pass }.boxed())),
            passing: TaskTracker::new(),
        });
        let stop = tokio_util::sync::CancellationToken::new();
        tokio::spawn(
            stop.clone().run_until_cancelled_owned(Arc::clone(&inner).accept(listener, stop.clone())),
        );
        Self { url: format!("http://{address}"), inner, _stop: stop.drop_guard() }
    }

    /// From now on `judge` decides; it may take its time.
    pub(crate) fn judge<F>(&self, judge: impl Fn(Asked) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        *self.inner.judge.write().unwrap() = Arc::new(move |asked| judge(asked).boxed());
    }

    /// From now on everything passes.
    pub(crate) fn behave(&self) {
        self.judge(|_| async { Verdict::Pass });
    }

    /// Waits until the store has answered all that was passed on, now or late.
    pub(crate) async fn settled(&self) {
        self.inner.passing.close();
        self.inner.passing.wait().await;
        self.inner.passing.reopen();
    }
}

/// The connection breaks here.
#[derive(Debug, thiserror::Error)]
#[error("the connection breaks")]
struct Broken;

/// What the store answered.
type Answer = (StatusCode, HeaderMap, Bytes);

impl Inner {
    async fn accept(self: Arc<Self>, listener: TcpListener, stop: tokio_util::sync::CancellationToken) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(stop.clone().run_until_cancelled_owned(Arc::clone(&self).converse(stream)));
        }
    }

    async fn converse(self: Arc<Self>, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let service = service_fn(|request| Arc::clone(&self).serve(request));
        let mut http = http1::Builder::new();
        // It breaks whenever a verdict says so.
        let _ = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    }

    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
        let asked = Asked {
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
        };
        let judge = Arc::clone(&self.judge.read().unwrap());
        let verdict = judge(asked).await;
        if let Verdict::Busy = verdict {
            let body = "<Error><Code>SlowDown</Code><Message>try again</Message></Error>";
            return Ok(Response::builder()
                .status(StatusCode::SERVICE_UNAVAILABLE)
                .body(body.into())
                .unwrap());
        }
        if let Verdict::Cut = verdict {
            return Err(Broken);
        }
        if let Verdict::Late(moment) = verdict {
            self.pass_later(moment, head, body);
            return Err(Broken);
        }
        let passing = self.passing.spawn(Arc::clone(&self).pass(head.clone(), body.clone()));
        let (status, headers, reply) = passing.await.unwrap().ok_or(Broken)?;
        let reply = match verdict {
            Verdict::LoseReply => return Err(Broken),
            Verdict::CutReply => {
                let half = reply.slice(..reply.len() / 2);
                // The pause lets the half leave before the connection breaks.
                let broken = async {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    Err(Broken)
                };
                let half = stream::iter([Ok::<_, Broken>(half)]);
                Body::from_stream(futures_util::StreamExt::chain(half, stream::once(broken)))
            }
            Verdict::Twice(moment) => {
                self.pass_later(moment, head, body);
                reply.into()
            }
            _ => reply.into(),
        };
        let mut response = Response::new(reply);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    fn pass_later(self: Arc<Self>, moment: BoxFuture<'static, ()>, head: Parts, body: Bytes) {
        let passing = self.passing.clone();
        passing.spawn(async move {
            moment.await;
            self.pass(head, body).await
        });
    }

    /// `None` if the store cannot be reached, or breaks off.
    async fn pass(self: Arc<Self>, head: Parts, body: Bytes) -> Option<Answer> {
        let url = format!("{}{}", self.upstream, head.uri);
        let mut headers = head.headers;
        headers.remove(header::CONNECTION);
        let answer = self.client.request(head.method, url).headers(headers).body(body).send().await.ok()?;
        let (status, mut headers) = (answer.status(), answer.headers().clone());
        for hop in [header::CONNECTION, header::TRANSFER_ENCODING] {
            headers.remove(hop);
        }
        Some((status, headers, answer.bytes().await.ok()?))
    }
}
