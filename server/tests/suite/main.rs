//! Tests of the server against real sockets, a real lease database and a real directory.

mod cached_blocks;
mod commands;
mod contract_backend;
mod contract_leasedb;
mod gbs;
mod hostile;
mod model;
mod places;
mod store;
mod support;
mod uninvited;
