//! Whether the server lives, and whether it should get requests.

use axum::{Json, extract::State};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::{App, error::Problem};

/// `GET /healthz`: the process answers. Never touches the storage.
pub(super) async fn healthz() -> &'static str {
    "OK"
}

/// What `GET /health` says.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Health {
    /// Always `ok`.
    #[schemars(extend("const" = "ok"))]
    status: &'static str,
}

/// `GET /health`: the same in JSON.
pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// `GET /readyz`: the storage answers and the server is not about to stop.
pub(super) async fn readyz(State(app): State<App>) -> Result<&'static str, Problem> {
    let problem = if app.draining.is_draining() {
        "the server is stopping"
    } else if let Err(error) = app.packages.storage().check().await {
        tracing::warn!(event = "readiness", error = error.with_causes(), "the storage does not answer");
        "the storage does not answer"
    } else {
        return Ok("OK");
    };
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, problem))
}
