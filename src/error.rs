//! What can go wrong, in the words of the domain. `http/error.rs` alone gives each its status.

use crate::auth::Denied;

/// The result of a domain operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything the domain refuses or fails at. The message is for the caller; what is for the log alone is the
/// `source`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed; the text says how and what to do.
    #[error("{0}")]
    Invalid(String),
    /// The request is well-formed but cannot be processed; the text says why.
    #[error("{0}")]
    Unprocessable(String),
    /// No package of this name.
    #[error("package `{0}` does not exist")]
    NotFound(String),
    /// A package of this name exists and the caller did not ask to replace it.
    #[error("package `{0}` already exists; delete it first, or upload with `?overwrite=true`")]
    AlreadyExists(String),
    /// The package changed while the operation ran; nothing was done.
    #[error("package `{0}` changed while this request ran; look at it and try again")]
    Changed(String),
    /// A field of a release or an asset is wrong, or taken.
    #[error("{0}")]
    Breach(Breach),
    /// The body is larger than the limit, in bytes.
    #[error("the file is larger than the limit of {0} bytes (`max_upload_bytes`)")]
    TooLarge(u64),
    /// The declared digest is not that of the bytes received. Both in lower-case hex.
    #[error(
        "the SHA-256 of the received bytes is `{actual}`, but `{declared}` was declared; nothing was stored"
    )]
    DigestMismatch {
        /// What the client declared.
        declared: String,
        /// What was received.
        actual: String,
    },
    /// The caller may not do this.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The operator lets nothing be changed for now; the same request will succeed later.
    #[error(
        "the server is read-only at the moment, for maintenance; nothing was changed, try again in a few minutes"
    )]
    ReadOnly,
    /// The store does not answer, or not in time; the same request may succeed later.
    #[error("the storage is not available at the moment; try again shortly")]
    Unavailable(#[source] anyhow::Error),
    /// A defect or a broken machine.
    #[error("something went wrong on the server; its log has the cause")]
    Internal(#[source] anyhow::Error),
}

impl Error {
    /// The message with all its causes, for the log alone.
    pub(crate) fn with_causes(self) -> String {
        format!("{:#}", anyhow::Error::new(self))
    }
}

/// What is wrong with which field of what, in GitHub's words for it
/// ([errors of its API](https://docs.github.com/en/rest/using-the-rest-api/troubleshooting-the-rest-api#validation-failed)).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Breach {
    /// `Release` or `ReleaseAsset`.
    pub resource: &'static str,
    /// The field's name.
    pub field: &'static str,
    /// `already_exists`, `missing_field`, `invalid` or `custom`.
    pub code: &'static str,
    /// What is wrong, and what to do about it.
    pub message: String,
}
