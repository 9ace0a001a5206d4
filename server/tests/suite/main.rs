//! Tests of the server against real sockets, a real lease database and a real directory.

mod contract_backend;
mod contract_leasedb;
mod model;
mod places;
mod store;
