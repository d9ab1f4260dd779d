//! Errors as GitHub words them: clients look for its messages, and at the first entry of `errors` alone.
//!
//! A 404 says no more than that, a 422 is "Validation Failed" with the field and a code, a token that is not valid is
//! "Bad credentials". What there is to say beyond that is in the entry's own message.

use aide::{OperationOutput, generate::GenContext, openapi};
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

use super::JSON;
use crate::{
    auth::Denied,
    error::{Breach, Error},
};

pub(super) type Result<T, E = Refusal> = std::result::Result<T, E>;

/// An error on its way to a client of the GitHub API.
#[derive(Debug)]
pub(super) enum Refusal {
    Domain(Error),
    /// The body of the request is no JSON.
    Syntax,
}

impl Refusal {
    pub(super) fn not_found() -> Self {
        Self::Domain(Error::NotFound(String::new()))
    }

    /// A field of a release that is wrong; `code` is `missing_field`, `invalid` or `custom`.
    pub(super) fn field(field: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self::Domain(Error::Breach(Breach { resource: "Release", field, code, message: message.into() }))
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Domain(error)
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::Domain(denied.into())
    }
}

/// What every error answer of the GitHub API says.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GitHubError")]
pub(super) struct Body {
    /// What went wrong: `Not Found`, `Bad credentials`, `Validation Failed` or a sentence.
    message: String,
    /// Which field is wrong, the decisive one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Entry>,
    /// Where the API is described.
    documentation_url: &'static str,
    /// The status code, as text.
    status: String,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "GitHubErrorEntry")]
struct Entry {
    /// `Release` or `ReleaseAsset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<&'static str>,
    /// `already_exists`, `missing_field`, `invalid` or `custom`.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// The field.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
    /// What is wrong with it, and what to do.
    message: String,
}

impl From<&Breach> for Entry {
    fn from(breach: &Breach) -> Self {
        Self {
            resource: Some(breach.resource),
            code: Some(breach.code),
            field: Some(breach.field),
            message: breach.message.clone(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = match self {
            Self::Domain(error) => error,
            Self::Syntax => return answer(StatusCode::BAD_REQUEST, "Problems parsing JSON", Vec::new()),
        };
        error.log();
        let more = |message: String| vec![Entry { message, ..Entry::default() }];
        let status = error.status();
        let mut response = match &error {
            Error::Breach(breach) => answer(status, "Validation Failed", vec![breach.into()]),
            Error::TooLarge(limit) => {
                let breach = Breach {
                    resource: "ReleaseAsset",
                    field: "size",
                    code: "custom",
                    message: format!("size must be less than or equal to {limit}"),
                };
                answer(StatusCode::UNPROCESSABLE_ENTITY, "Validation Failed", vec![(&breach).into()])
            }
            Error::NotFound(_) | Error::Denied(Denied::Hidden) => answer(status, "Not Found", Vec::new()),
            Error::Denied(Denied::Missing) => {
                answer(status, "Requires authentication", more(error.to_string()))
            }
            Error::Denied(Denied::Invalid(why)) => answer(status, "Bad credentials", more(why.clone())),
            _ => answer(status, &error.to_string(), Vec::new()),
        };
        error.add_headers(&mut response);
        response
    }
}

fn answer(status: StatusCode, message: &str, errors: Vec<Entry>) -> Response {
    let body = Body {
        message: message.to_owned(),
        errors,
        documentation_url: "/docs",
        status: status.as_u16().to_string(),
    };
    // Plain texts always serialize; the default keeps this free of a panic all the same.
    let body = serde_json::to_string_pretty(&body).unwrap_or_default() + "\n";
    let fields =
        [(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"))];
    (status, fields, body).into_response()
}

/// Documents every status that an operation does not describe itself.
impl OperationOutput for Refusal {
    type Inner = Body;

    fn operation_response(
        ctx: &mut GenContext,
        operation: &mut openapi::Operation,
    ) -> Option<openapi::Response> {
        Json::<Body>::operation_response(ctx, operation)
    }

    fn inferred_responses(
        ctx: &mut GenContext,
        operation: &mut openapi::Operation,
    ) -> Vec<(Option<u16>, openapi::Response)> {
        Self::operation_response(ctx, operation).map(|response| (None, response)).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn text(refusal: Refusal) -> String {
        let body = refusal.into_response().into_body();
        String::from_utf8(to_bytes(body, 4096).await.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_breach_has_the_code_in_its_first_entry() {
        insta::assert_snapshot!(text(Refusal::field("tag_name", "missing_field", "send one")).await, @r#"
        {
          "message": "Validation Failed",
          "errors": [
            {
              "resource": "Release",
              "code": "missing_field",
              "field": "tag_name",
              "message": "send one"
            }
          ],
          "documentation_url": "/docs",
          "status": "422"
        }
        "#);
    }

    #[tokio::test]
    async fn what_is_hidden_looks_like_what_is_missing() {
        assert_eq!(text(Refusal::not_found()).await, text(Denied::Hidden.into()).await);
        assert!(text(Denied::Invalid("expired".into()).into()).await.contains("\"Bad credentials\""));
    }
}
