//! The status and the JSON body of every error.
//!
//! Promises: one shape for every error answer, one place that gives a domain error its status, and no cause of a
//! 5xx ever shown to a caller (it goes to the log, once). Leaves to `http/layers.rs`: turning what the framework
//! itself refuses into the same shape.

use std::borrow::Cow;

use aide::{OperationOutput, generate::GenContext, openapi};
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{auth::Denied, error::Error};

/// Where an error answer sends its reader, relative to the server's root.
const DOCUMENTATION: &str = "/docs";

/// After how many seconds a 503 may be tried again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// The same while the server is read-only: maintenance takes minutes, so clients need not keep asking.
const MAINTENANCE: HeaderValue = HeaderValue::from_static("60");

/// What every error answer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    #[serde(skip)]
    status: StatusCode,
    /// What went wrong, and what to do about it.
    message: Cow<'static, str>,
    /// Where the API is described.
    #[schemars(extend("const" = DOCUMENTATION))]
    documentation_url: &'static str,
}

impl Problem {
    /// A problem in its own words.
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), documentation_url: DOCUMENTATION }
    }

    /// A problem that its status says all about.
    pub fn of(status: StatusCode) -> Self {
        let message = match status {
            StatusCode::BAD_REQUEST => "the request is malformed".into(),
            StatusCode::NOT_FOUND => "there is nothing here".into(),
            StatusCode::METHOD_NOT_ALLOWED => {
                "this method is not allowed here; `Allow` names those that are".into()
            }
            StatusCode::REQUEST_TIMEOUT => "the request's body stopped arriving; send it again".into(),
            StatusCode::PRECONDITION_FAILED => "a condition of the request is not met".into(),
            StatusCode::PAYLOAD_TOO_LARGE => "the request's body is too large".into(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "this `Content-Type` is not understood here".into(),
            StatusCode::RANGE_NOT_SATISFIABLE => "the `Range` is outside of the file".into(),
            StatusCode::SERVICE_UNAVAILABLE => "the server is busy; try again shortly".into(),
            status if status.is_server_error() => {
                Cow::from("something went wrong on the server; its log has the cause")
            }
            status => status
                .canonical_reason()
                .map_or("the request was refused".into(), |reason| reason.to_lowercase().into()),
        };
        Self::new(status, message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // Text and a static string always serialize; the default keeps this free of a panic all the same.
        let body = serde_json::to_string_pretty(&self).unwrap_or_default() + "\n";
        // Not kept by a cache: what is missing now may be published in a moment.
        let fields = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
        let mut response = (self.status, fields, body).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

impl Error {
    /// Its status.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Unprocessable(_) | Self::Breach(_) | Self::DigestMismatch { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::NotFound(_) | Self::Denied(Denied::Hidden) => StatusCode::NOT_FOUND,
            Self::AlreadyExists(_) | Self::Changed(_) => StatusCode::CONFLICT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Denied(Denied::Missing | Denied::Invalid(_)) => StatusCode::UNAUTHORIZED,
            Self::Denied(Denied::Forbidden(_)) => StatusCode::FORBIDDEN,
            Self::Unavailable(_) | Self::ReadOnly | Self::Denied(Denied::Unavailable) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Writes the cause of a failure to the log.
    pub(super) fn log(&self) {
        if let Self::Unavailable(cause) | Self::Internal(cause) = self {
            let status = self.status().as_u16();
            tracing::error!(event = "error", status, error = format!("{cause:#}"), "{self}");
        }
    }

    /// The headers that go with its status.
    pub(super) fn add_headers(&self, response: &mut Response) {
        if let Self::Denied(denied) = self
            && let Some(challenge) = challenge(denied)
        {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            let after = if matches!(self, Self::ReadOnly) { MAINTENANCE } else { RETRY_AFTER };
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.log();
        let mut response = Problem::new(self.status(), self.to_string()).into_response();
        self.add_headers(&mut response);
        response
    }
}

/// What to authenticate with (RFC 6750, section 3). `Bearer` alone is asked for; a browser shall not open its
/// password window.
fn challenge(denied: &Denied) -> Option<HeaderValue> {
    let challenge = match denied {
        Denied::Missing => r#"Bearer realm="release-server""#,
        Denied::Invalid(_) => r#"Bearer realm="release-server", error="invalid_token""#,
        Denied::Forbidden(_) => r#"Bearer realm="release-server", error="insufficient_scope""#,
        Denied::Hidden | Denied::Unavailable => return None,
    };
    Some(HeaderValue::from_static(challenge))
}

impl OperationOutput for Problem {
    type Inner = Self;

    fn operation_response(
        ctx: &mut GenContext,
        operation: &mut openapi::Operation,
    ) -> Option<openapi::Response> {
        Json::<Self>::operation_response(ctx, operation)
    }
}

/// Documents every status that an operation does not describe itself.
impl OperationOutput for Error {
    type Inner = Problem;

    fn operation_response(
        ctx: &mut GenContext,
        operation: &mut openapi::Operation,
    ) -> Option<openapi::Response> {
        Problem::operation_response(ctx, operation)
    }

    fn inferred_responses(
        ctx: &mut GenContext,
        operation: &mut openapi::Operation,
    ) -> Vec<(Option<u16>, openapi::Response)> {
        Problem::operation_response(ctx, operation).map(|response| (None, response)).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn text(response: Response) -> String {
        String::from_utf8(to_bytes(response.into_body(), 4096).await.unwrap().to_vec()).unwrap()
    }

    #[test]
    fn every_error_has_its_status() {
        let cause = || anyhow::anyhow!("disk");
        let mismatch = Error::DigestMismatch { declared: "a".into(), actual: "b".into() };
        let table = [
            (Error::Invalid("x".into()), 400),
            (Error::Denied(Denied::Missing), 401),
            (Error::Denied(Denied::Invalid("x".into())), 401),
            (Error::Denied(Denied::Forbidden("x".into())), 403),
            (Error::NotFound("x".into()), 404),
            (Error::AlreadyExists("x".into()), 409),
            (Error::Changed("x".into()), 409),
            (Error::TooLarge(1), 413),
            (Error::Unprocessable("x".into()), 422),
            (mismatch, 422),
            (Error::Internal(cause()), 500),
            (Error::Unavailable(cause()), 503),
            (Error::ReadOnly, 503),
        ];
        for (error, status) in table {
            let name = format!("{error:?}");
            assert_eq!(error.into_response().status(), status, "{name}");
        }
    }

    #[tokio::test]
    async fn an_error_is_indented_json_with_a_link() {
        let response = Error::NotFound("a.zip".into()).into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        insta::assert_snapshot!(text(response).await, @r#"
        {
          "message": "package `a.zip` does not exist",
          "documentation_url": "/docs"
        }
        "#);
    }

    #[tokio::test]
    async fn the_cause_of_a_failure_is_not_shown() {
        let response =
            Error::Internal(anyhow::anyhow!("password is hunter2").context("opening")).into_response();
        let text = text(response).await;
        assert!(
            text.contains("its log has the cause") && !text.contains("hunter2") && !text.contains("opening"),
            "{text}"
        );
    }

    #[test]
    fn a_refusal_says_how_to_authenticate() {
        let table = [
            (Denied::Missing, r#"Bearer realm="release-server""#),
            (Denied::Invalid("expired".into()), r#"Bearer realm="release-server", error="invalid_token""#),
            (Denied::Forbidden("x".into()), r#"Bearer realm="release-server", error="insufficient_scope""#),
        ];
        for (denied, expected) in table {
            assert_eq!(Error::Denied(denied).into_response().headers()[header::WWW_AUTHENTICATE], expected);
        }
    }

    #[test]
    fn an_outage_says_when_to_come_back() {
        let response = Error::Unavailable(anyhow::anyhow!("down")).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(Error::ReadOnly.into_response().headers()[header::RETRY_AFTER], "60");
    }
}
