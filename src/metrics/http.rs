//! The metrics of requests, each of which is looked up once and then kept: by its route in a small table that no
//! lock guards, by its method and status in a list.

use std::{
    hash::{BuildHasher as _, RandomState},
    iter,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use super::{Book, Metrics, histogram};

/// Room for routes: several times as many as there are.
const ROUTES: usize = 256;

/// Room for different statuses of one route and method.
const STATUSES: usize = 24;

/// What is counted as a route where none fits.
const UNMATCHED: &str = "unmatched";

/// The status of a request whose client left before it was answered; nginx made up the number.
const LEFT: u16 = 499;

const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS];
const OTHER: &str = "other";

/// The labels of a [`Place`].
const PLACE: &[&str] = &["method", "route"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Place {
    method: &'static str,
    route: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ending {
    method: &'static str,
    route: Arc<str>,
    status: u16,
}

pub(super) struct Http {
    requests: Family<Ending, Counter>,
    duration: Family<Place, Histogram, fn() -> Histogram>,
    received: Family<Place, Counter>,
    sent: Family<Place, Counter>,
    in_flight: Gauge,
    pub(super) limit: Gauge,
    hasher: RandomState,
    /// A route is at the first free place from where its hash points to.
    routes: Box<[OnceLock<Route>]>,
    unmatched: Route,
}

/// A route's template, and what is known of it by method; at the end, by all other methods.
struct Route {
    name: Arc<str>,
    methods: [OnceLock<Endpoint>; METHODS.len() + 1],
}

struct Endpoint {
    place: Place,
    duration: Histogram,
    received: Counter,
    sent: Counter,
    statuses: [OnceLock<(u16, Counter)>; STATUSES],
}

impl Route {
    fn new(name: &str) -> Self {
        Self { name: name.into(), methods: Default::default() }
    }
}

impl Http {
    pub(super) fn new(book: &mut Book) -> Self {
        let http = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(histogram),
            received: Family::default(),
            sent: Family::default(),
            in_flight: book.gauge("http_requests_in_flight", "Requests worked on"),
            limit: book.gauge("http_requests_limit", "How many there may be"),
            hasher: RandomState::new(),
            routes: iter::repeat_with(OnceLock::new).take(ROUTES).collect(),
            unmatched: Route::new(UNMATCHED),
        };
        book.add(
            "http_requests",
            "counter",
            &["method", "route", "status"],
            "Requests that have ended; 499: the client left",
            http.requests.clone(),
        );
        book.add(
            "http_request_duration_seconds",
            "histogram",
            PLACE,
            "From a request's head to its answer's",
            http.duration.clone(),
        );
        book.add("http_received_bytes", "counter", PLACE, "Bytes of requests' bodies", http.received.clone());
        book.add("http_sent_bytes", "counter", PLACE, "Bytes of answers' bodies", http.sent.clone());
        http
    }

    fn endpoint(&self, method: &Method, route: Option<&str>) -> &Endpoint {
        let route = route.map_or(&self.unmatched, |route| self.route(route));
        let index = METHODS.iter().position(|known| known == method).unwrap_or(METHODS.len());
        route.methods[index].get_or_init(|| {
            let method = METHODS.get(index).map_or(OTHER, |method| method_name(method));
            let place = Place { method, route: Arc::clone(&route.name) };
            Endpoint {
                duration: self.duration.get_or_create_owned(&place),
                received: self.received.get_or_create_owned(&place),
                sent: self.sent.get_or_create_owned(&place),
                statuses: Default::default(),
                place,
            }
        })
    }

    fn route(&self, name: &str) -> &Route {
        let start = usize::try_from(self.hasher.hash_one(name) % ROUTES as u64).unwrap_or_default();
        let places = self.routes[start..].iter().chain(&self.routes[..start]);
        places
            .map(|place| place.get_or_init(|| Route::new(name)))
            .find(|route| &*route.name == name)
            .unwrap_or(&self.unmatched)
    }

    fn ended(&self, endpoint: &Endpoint, status: u16) {
        let counter = || {
            let Place { method, route } = endpoint.place.clone();
            self.requests.get_or_create_owned(&Ending { method, route, status })
        };
        let mut known = endpoint.statuses.iter().map(|place| place.get_or_init(|| (status, counter())));
        match known.find(|(known, _)| *known == status) {
            Some((_, requests)) => requests.inc(),
            None => counter().inc(),
        };
    }
}

/// The name of one of [`METHODS`], for good.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => OTHER,
    }
}

impl Metrics {
    /// A request has come; [`Self::end`] must follow.
    pub(crate) fn begin(self) {
        if let Some(inner) = self.0 {
            inner.http.in_flight.inc();
        }
    }

    /// A request is over: `status` and `latency` are of its answer's head, if there was one.
    pub(crate) fn end(
        self,
        method: &Method,
        route: Option<&str>,
        status: Option<StatusCode>,
        latency: Duration,
        sent_bytes: u64,
    ) {
        let Some(inner) = self.0 else { return };
        inner.http.in_flight.dec();
        let endpoint = inner.http.endpoint(method, route);
        inner.http.ended(endpoint, status.map_or(LEFT, |status| status.as_u16()));
        endpoint.duration.observe(latency.as_secs_f64());
        endpoint.sent.inc_by(sent_bytes);
    }

    pub(super) fn received(self, method: &Method, route: Option<&str>, bytes: u64) {
        if let Some(inner) = self.0 {
            inner.http.endpoint(method, route).received.inc_by(bytes);
        }
    }

    /// The request's body, counted as it passes.
    pub(crate) fn counted(self, method: &Method, route: Option<&str>, body: Body) -> Body {
        if !self.is_on() || body.is_end_stream() {
            return body;
        }
        let (method, route) = (method.clone(), route.map(Into::into));
        Body::new(Counted { body, metrics: self, method, route, bytes: 0 })
    }
}

struct Counted {
    body: Body,
    metrics: Metrics,
    method: Method,
    route: Option<Box<str>>,
    bytes: u64,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.received(&self.method, self.route.as_deref(), self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(metrics: Metrics, method: &str, route: &str, status: u16) -> Option<u64> {
        let series = format!(
            "release_server_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} "
        );
        metrics.render().lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
    }

    fn end(metrics: Metrics, method: &Method, route: Option<&str>, status: u16) {
        metrics.begin();
        metrics.end(method, route, StatusCode::from_u16(status).ok(), Duration::from_millis(3), 10);
    }

    #[test]
    fn requests_are_told_apart_by_method_route_and_status() {
        let metrics = Metrics::on();
        end(metrics, &Method::GET, Some("/a/{name}"), 200);
        end(metrics, &Method::GET, Some("/a/{name}"), 200);
        end(metrics, &Method::GET, Some("/a/{name}"), 404);
        end(metrics, &Method::PUT, Some("/a/{name}"), 200);
        end(metrics, &Method::from_bytes(b"BREW").unwrap(), None, 405);
        metrics.begin();
        metrics.end(&Method::GET, Some("/b"), None, Duration::ZERO, 0);
        assert_eq!(requests(metrics, "GET", "/a/{name}", 200), Some(2));
        assert_eq!(requests(metrics, "GET", "/a/{name}", 404), Some(1));
        assert_eq!(requests(metrics, "PUT", "/a/{name}", 200), Some(1));
        assert_eq!(requests(metrics, "other", "unmatched", 405), Some(1));
        assert_eq!(requests(metrics, "GET", "/b", 499), Some(1));
    }

    #[test]
    fn more_routes_and_statuses_than_there_is_room_for_are_still_counted() {
        let metrics = Metrics::on();
        let routes: Vec<_> = (0..2 * ROUTES).map(|number| format!("/{number}")).collect();
        for route in &routes {
            end(metrics, &Method::GET, Some(route), 200);
        }
        let kept: Option<u64> =
            routes.iter().map(|route| requests(metrics, "GET", route, 200).or(Some(0))).sum();
        assert_eq!(kept, Some(ROUTES as u64));
        assert_eq!(requests(metrics, "GET", UNMATCHED, 200), Some(ROUTES as u64));
        for status in 400..460 {
            end(metrics, &Method::GET, Some(&routes[0]), status);
        }
        let counted = (400..460).filter(|&status| {
            requests(metrics, "GET", &routes[0], status) == Some(1)
                || requests(metrics, "GET", UNMATCHED, status) == Some(1)
        });
        assert_eq!(counted.count(), 60);
    }

    #[test]
    fn threads_that_meet_at_a_new_route_count_the_same_series() {
        let metrics = Metrics::on();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1000).for_each(|_| end(metrics, &Method::GET, Some("/x"), 200)));
            }
        });
        assert_eq!(requests(metrics, "GET", "/x", 200), Some(8000));
        assert!(metrics.render().contains("release_server_http_requests_in_flight 0\n"));
    }
}
