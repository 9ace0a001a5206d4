//! PostgreSQL and MinIO beside the cluster: the managed services that it stands next to in production.
//!
//! Pods reach them at the node's address, through proxies by which tests make them fail.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use leasehold_e2e_services::postgres::PostgresTls;
use leasehold_e2e_services::{Minio, MinioOptions, Postgres, PostgresOptions, TcpProxy};

use super::layout::NODE_ADDRESS;
use super::objects;

/// What the database is called within its namespace.
pub const POSTGRES: &str = "postgres";
/// What the object store is called within its namespace.
pub const MINIO: &str = "minio";

/// Running services. They end when this is dropped, or with the process.
pub struct Managed {
    namespace: String,
    /// The way from pods to the database.
    pub database_proxy: TcpProxy,
    /// The way from pods to the object store.
    pub store_proxy: TcpProxy,
    /// The database; it demands passwords and speaks TLS.
    pub database: Postgres,
    /// The object store; it speaks TLS.
    pub store: Minio,
}

impl Managed {
    /// Starts empty services; returns when they answer. Pods call them by their names in `namespace`, or the node's address.
    pub fn start(namespace: &str) -> Result<Self> {
        let own = ["127.0.0.1".to_owned(), "localhost".to_owned(), NODE_ADDRESS.to_string()];
        let of_pods = [POSTGRES, MINIO].map(|name| objects::name_of(namespace, name));
        let names: Vec<String> = own.into_iter().chain(of_pods).collect();
        let database = Postgres::start(&PostgresOptions {
            password: true,
            tls: Some(PostgresTls { names: names.clone(), required: true }),
            ..PostgresOptions::default()
        })?;
        let store = Minio::start(&MinioOptions { tls_names: Some(names) })?;
        let proxy = |target: SocketAddr| TcpProxy::start_at(IpAddr::V4(NODE_ADDRESS), target);
        Ok(Self {
            namespace: namespace.to_owned(),
            database_proxy: proxy(database.address())?,
            store_proxy: proxy(store.address())?,
            database,
            store,
        })
    }

    /// The name of the database for pods.
    pub fn database_host(&self) -> String {
        objects::name_of(&self.namespace, POSTGRES)
    }

    /// The name of the object store for pods.
    pub fn store_host(&self) -> String {
        objects::name_of(&self.namespace, MINIO)
    }

    /// Who vouches for the database, as PEM.
    pub fn database_authority(&self) -> Result<String> {
        let path = self.database.authority_file().context("the database speaks no TLS")?;
        std::fs::read_to_string(path).context("read the database's authority")
    }

    /// Who vouches for the object store, as PEM.
    pub fn store_authority(&self) -> Result<String> {
        let path = self.store.authority_file().context("the object store speaks no TLS")?;
        std::fs::read_to_string(path).context("read the object store's authority")
    }
}
