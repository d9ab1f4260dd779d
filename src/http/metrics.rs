//! `GET /metrics`, on a listener of its own: what it says is for operators, and a busy server must still answer it.

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};

use crate::{metrics::CONTENT_TYPE, packages::Packages};

/// All there is on that listener.
pub fn app(packages: Packages) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(packages)
}

async fn metrics(State(packages): State<Packages>) -> impl IntoResponse {
    packages.report();
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], packages.metrics().render())
}
