//! Several server processes of one identity over one PostgreSQL and one S3 bucket, behind a balancer: what a deployment
//! is, with proxies in between by which a test makes services fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use leasehold_e2e_services::postgres::{SUPERUSER, StandbyOptions};
use leasehold_e2e_services::{Balancer, Minio, Postgres, PostgresOptions, S3Proxy, TcpProxy};

use crate::gbs::Nurl;
use crate::leasehold::{Credentials, Server, binary};
use crate::process::run_ok;

/// The database of a deployment.
pub const DATABASE: &str = "leasehold";

const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// What a deployment is made of.
#[derive(Debug, Clone)]
pub struct PodsOptions {
    /// How many processes.
    pub pods: usize,
    /// Whether PostgreSQL has a synchronous standby that can take over.
    pub standby: bool,
    /// Whether PostgreSQL syncs its commits to the disk, as in production.
    pub durable: bool,
    /// Whether pods reach the services without a proxy, for measurements.
    pub direct: bool,
    /// Connections that each process may have to PostgreSQL.
    pub connections_max: usize,
    /// More lines of the table `[server]` of the pods' configuration.
    pub server: String,
    /// More lines of the table `[storage.s3]`.
    pub s3: String,
    /// More configuration of the pods, as TOML: other tables.
    pub config: String,
}

impl Default for PodsOptions {
    fn default() -> Self {
        Self {
            pods: 3,
            standby: false,
            durable: false,
            direct: false,
            connections_max: 16,
            server: String::new(),
            s3: String::new(),
            config: String::new(),
        }
    }
}

/// What pods need, and the ways to it.
pub struct Services {
    /// The way to the database.
    pub database: TcpProxy,
    /// The way to the object store.
    pub s3: S3Proxy,
    /// The database.
    pub primary: Postgres,
    /// What can take its place.
    pub standby: Option<Postgres>,
    /// The object store, which other tests use as well.
    pub store: &'static Minio,
    /// The S3 bucket of this deployment.
    pub bucket: String,
}

/// A deployment. Everything ends when it is dropped.
pub struct Pods {
    /// The processes.
    pub servers: Vec<Server>,
    /// What clients connect to.
    pub balancer: Balancer,
    /// What the processes need.
    pub services: Services,
    nurl: Nurl,
}

impl Services {
    fn start(name: &str, options: &PodsOptions) -> Result<Self> {
        static BUCKETS: AtomicU32 = AtomicU32::new(0);
        let store = Minio::shared()?;
        let bucket = format!("{name}-{}", BUCKETS.fetch_add(1, Ordering::Relaxed));
        store.make_bucket(&bucket)?;
        let primary = Postgres::start(&PostgresOptions { durable: options.durable, ..PostgresOptions::default() })?;
        primary.create_database(DATABASE)?;
        let (database, s3) = (TcpProxy::start(primary.address())?, S3Proxy::start(store)?);
        let mut services = Self { database, s3, primary, standby: None, store, bucket };
        if options.standby {
            services.add_standby()?;
        }
        Ok(services)
    }

    /// Lets the database die and its standby take over; then there is a new standby.
    ///
    /// # Errors
    /// If there is no standby or it does not take over.
    pub fn fail_over(&mut self) -> Result<()> {
        let standby = self.standby.take().context("there is no standby")?;
        // A primary that was killed and started again shows commits for whose standby nobody waited; losing it before
        // the standby has them is what no setting of PostgreSQL protects from.
        self.primary.wait_replicated()?;
        self.primary.kill()?;
        standby.promote()?;
        self.database.set_target(standby.address());
        self.database.cut_all();
        self.primary = standby;
        self.add_standby()
    }

    fn add_standby(&mut self) -> Result<()> {
        self.standby = Some(self.primary.standby(&StandbyOptions { synchronous: true, through: None })?);
        Ok(())
    }

    /// The part of the configuration that tells a pod where its services are. Secrets are in files in `folder`.
    fn config(&self, folder: &Path, options: &PodsOptions) -> Result<String> {
        let file = |name: &str, secret: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, secret).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        let credentials = self.store.credentials();
        let (database, endpoint) = if options.direct {
            (self.primary.address(), self.store.endpoint())
        } else {
            (self.database.address(), self.s3.endpoint())
        };
        Ok(format!(
            "[database]\nhost = \"{}\"\nport = {}\nname = \"{DATABASE}\"\nuser = \"{SUPERUSER}\"\ntls = \"disable\"\n\
             connections_max = {}\nsynchronous_standby = {}\n\
             [storage.s3]\nbucket = \"{}\"\nendpoint = \"{}\"\nallow_insecure = true\n\
             access_key_id_file = {:?}\nsecret_access_key_file = {:?}\n{}\n",
            database.ip(),
            database.port(),
            options.connections_max,
            self.standby.is_some(),
            self.bucket,
            endpoint,
            file("access-key-id", &credentials.access_key)?,
            file("secret-access-key", &credentials.secret_key)?,
            options.s3,
        ))
    }
}

impl Pods {
    /// Starts services and pods, with what they have below `parent`. All pods accept connections then.
    ///
    /// # Errors
    /// If something does not start; then with the end of its log.
    pub fn start(name: &str, parent: &Path, options: &PodsOptions) -> Result<Self> {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        let services = Services::start(name, options)?;
        let balancer = Balancer::start(&[])?;
        let server = format!("[server]\nadvertise = \"{}\"\n{}\n", balancer.address(), options.server);
        let config = format!("{server}{}{}", services.config(parent, options)?, options.config);
        let prepared = parent.join("prepared");
        let credentials = prepare(&prepared, &config)?;
        let mut servers = Vec::new();
        for number in 0..options.pods {
            let pod = format!("pod-{number}");
            copy_folder(&prepared, &parent.join(&pod).join("data"))?;
            let server = Server::start(&pod, parent, Some(&config))?;
            balancer.add_pod(server.announcement().listen.parse()?);
            servers.push(server);
        }
        Ok(Self { servers, balancer, services, nurl: credentials.nurl.parse()? })
    }

    /// The address of the first account, through the balancer.
    pub fn nurl(&self) -> &Nurl {
        &self.nurl
    }

    /// The ends of all logs, for a failure message.
    pub fn log_tails(&self) -> String {
        self.servers.iter().map(|server| format!("=== {} ===\n{}\n", server.name(), server.log_tail())).collect()
    }
}

/// What an operator does before the first pod starts: makes the schema, and an account; with it comes the identity.
fn prepare(data: &Path, config: &str) -> Result<Credentials> {
    let file = data.with_extension("toml");
    fs::write(&file, config).with_context(|| format!("write {}", file.display()))?;
    let leasehold = |arguments: &[&str]| {
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("--config").arg(&file).arg("--data-dir").arg(data).args(["--output", "json"]);
        run_ok(&mut command, COMMAND_TIMEOUT)
    };
    leasehold(&["migrate"])?;
    Ok(serde_json::from_str(&leasehold(&["account", "create", "default"])?)?)
}

/// Copies a folder and all that is in it.
pub fn copy_folder(from: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("create {}", into.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let into = into.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &into)?;
        } else {
            fs::copy(entry.path(), into)?;
        }
    }
    Ok(())
}
