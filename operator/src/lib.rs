//! The operator: turns custom resources into running servers and accounts.
//!
//! One controller a kind; each reconciles in the same steps: read what the object refers to (`dereference`), check it
//! (`validate`), make what shall be (`build`), write it, say in the status what was found (`status`). What is built and what
//! the status says is decided by pure functions; [`apply`] alone writes to Kubernetes. A reconcile assumes nothing about
//! why it runs.

pub mod account;
pub mod admin;
pub mod apply;
pub mod backend;
pub mod cli;
pub mod condition;
pub mod config;
pub mod context;
pub mod controller;
pub mod database;
pub mod databases;
pub mod error;
pub mod job;
pub mod leader;
pub mod metrics;
pub mod names;
pub mod pod;
pub mod quantity;
pub mod server;
pub mod sweep;
pub mod trial;
