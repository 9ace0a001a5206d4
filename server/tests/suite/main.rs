//! Tests of the server against real sockets, a real lease database, a real directory and a real S3 server.

mod cached_blocks;
mod commands;
mod contract_backend;
mod contract_leasedb;
mod drain;
mod foreign;
mod gbs;
mod ground;
mod hostile;
mod model;
mod outage;
mod pg;
mod places;
mod s3;
mod s3_bucket;
mod s3_faults;
mod store;
mod support;
mod watched;
