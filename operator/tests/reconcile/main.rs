//! Reconciles against an API server in memory and a real lease database.

mod accounts;
mod api_server;
mod beginning;
mod crashes;
mod monitoring;
mod resting;
mod rights;
mod servers;
mod world;
