//! Tests of the server against real sockets, a real lease database and a real directory.

mod commands;
mod contract_backend;
mod contract_leasedb;
mod drain;
mod gbs;
mod hostile;
mod model;
mod outage;
mod places;
mod store;
mod support;
mod watched;
