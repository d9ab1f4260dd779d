//! The server through HTTP, a file per behaviour.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]

mod audit;
mod auth;
mod digests;
mod directory;
mod download;
mod errors;
mod github;
mod graphql;
mod health;
mod latest;
mod links;
#[path = "../logs/mod.rs"]
mod logs;
mod metrics;
mod names;
mod openapi;
mod packages;
mod process;
mod program;
mod read_only;
mod retention;
mod server;
mod site;
mod specify;
mod takeover;
mod templates;
mod tls;
mod upload;
mod watch;
