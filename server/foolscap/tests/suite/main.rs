//! The wire as a whole: recorded bytes of the real library, whole connections, hostile peers.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod banana;
mod connections;
mod hostile;
mod node;
mod script;
mod support;
mod transcripts;
