//! Release Server: publishes and serves release packages from a directory or object storage, and answers
//! as GitHub Releases does.
//!
//! | where is …? | here |
//! |---|---|
//! | a URL | [`http`] |
//! | a setting and its default | `src/config.default.yaml`, read by [`config`] |
//! | the layout of the store | top of [`storage`] |
//! | what a package may be called | [`name`] |
//! | upload, listing, download, removal | [`packages`] |
//! | when the store is looked at, and when not | `src/packages/freshness.rs` |
//! | releases of repositories, and what counts as their latest | [`releases`] |
//! | what the sweep removes, and why | [`retention`]; who does it, and when: [`sweep`] |
//! | who may do what | top of [`auth`] |
//! | what the log says of a change | [`audit`] |
//! | what is counted, and its name | [`metrics`] |
//! | the status of an error | `src/http/error.rs` |
//!
//! Who calls whom: main → server → http, sweep, hasher → packages, releases → storage, and never back. What is plain data or
//! a pure rule (names, ids, digests, markers, retention) anybody may use.

mod apart;
pub mod audit;
pub mod auth;
pub mod client;
mod coalesce;
pub mod config;
mod detached;
pub mod digest;
pub mod error;
pub mod hasher;
pub mod http;
pub mod marker;
pub mod metrics;
pub mod name;
pub mod packages;
pub mod releases;
mod rendered;
pub mod retention;
pub mod server;
pub mod storage;
pub mod sweep;
pub mod telemetry;
