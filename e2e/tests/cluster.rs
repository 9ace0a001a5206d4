//! Stories on a real Kubernetes: real pods, the real client outside, PostgreSQL and MinIO as managed services.
//!
//! The cluster must run (`cargo dev cluster up`; `cargo dev test cluster` starts it and ends it). Clients connect to node
//! ports at 127.0.0.1, so that nothing leaves the machine. Times are printed, for people, and demanded of nobody.

// Real processes take real time.
#![allow(clippy::disallowed_methods)]

mod cluster {
    mod accounts;
    mod autoscaling;
    mod by_hand;
    mod clients;
    mod deletion;
    mod draining;
    mod dying;
    mod expiry;
    mod foundation;
    mod gbs;
    mod handed_out;
    mod install;
    mod limits;
    mod lost;
    mod many;
    mod migrating;
    mod monitoring;
    mod operated;
    mod operator;
    mod pods;
    mod racing;
    mod rebuilt;
    mod refused;
    mod release;
    mod replacing;
    mod resources;
    mod rotation;
    mod secrets;
    mod updates;
    mod wire;
    mod world;
}
