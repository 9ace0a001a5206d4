//! What people do with the released Tahoe-LAFS client, done on a grid of five servers.
//!
//! Every server is a process with an identity and a data directory of its own. Stories that break nothing share one
//! grid; those that kill servers or change accounts have their own.

// Real processes take real time.
#![allow(clippy::disallowed_methods)]

mod grid;
