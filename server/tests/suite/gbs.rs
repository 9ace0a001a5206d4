//! The HTTPS storage protocol over real sockets, beside what was recorded: statuses, account states, large bodies.

mod accounts;
mod recorded;
mod schema;
mod statuses;
mod transfers;
mod vectors;
