//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use kube::Client;
use leasehold_core::clock::{Clock, Entropy, SystemClock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::context::{Context, Settings};
use crate::leader::{self, Candidate};
use crate::metrics::Metrics;
use crate::{admin, controller, trial};

/// How often is looked whether custom resources are there.
const CRDS_EVERY: Duration = Duration::from_secs(5);

/// Leasehold's operator for Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "leasehold-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile custom resources until told to stop
    ///
    /// Any number of these may run; one of them acts. SIGTERM ends it when what is under way has come to its end.
    Run(RunArgs),
    /// Store a share with an Account of its own and read it back, as `helm test` does
    Trial {
        /// The StorageServer, as NAMESPACE/NAME; the first that is ready if not given
        #[arg(long, value_name = "SERVER")]
        server: Option<String>,
    },
    /// Print the custom resources as YAML
    ///
    /// With a folder, writes one file a kind into it; a test fails where the committed ones are stale.
    Crds {
        /// Where to write files
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The image of servers and jobs
    #[arg(long, value_name = "IMAGE", env = "LEASEHOLD_IMAGE")]
    image: String,
    /// The namespace of the operator itself
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    namespace: String,
    /// This process, among several operators
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: String,
    /// Where to serve metrics and health
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:9090")]
    admin_listen: SocketAddr,
    /// Notice at once when a customer's Secret is changed; needs the right to list and watch Secrets
    #[arg(long)]
    watch_secrets: bool,
    /// Where people find the runbook of the alerts, to which each alert is linked
    #[arg(long, value_name = "URL")]
    runbook_url: Option<String>,
    /// How long a leader may be silent before another operator takes over
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=600))]
    lease_seconds: u64,
    /// How often a leader says that it lives
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    renew_seconds: u64,
    /// How often everything is looked at again without a reason
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(60..=86_400))]
    resync_seconds: u64,
    /// What to log: `info`, `debug`, or a filter like `info,leasehold_operator=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", env = "LEASEHOLD_LOG")]
    log: String,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// One JSON object a line
    #[default]
    Json,
    /// For people
    Text,
}

/// Runs the command line: exit code 0 if all went well, 2 with one line on standard error if not.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leasehold-operator: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(arguments) => within_runtime(operate(arguments)),
        Command::Trial { server } => within_runtime(async {
            let client = Client::try_default().await.context("cannot find the API server")?;
            trial::run(&client, server.as_deref()).await
        }),
        Command::Crds { folder } => write_crds(folder),
    }
}

fn within_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(5));
    ended
}

fn write_crds(folder: Option<PathBuf>) -> anyhow::Result<()> {
    for definition in leasehold_crds::all() {
        let (name, text) = leasehold_crds::yaml(&definition);
        match &folder {
            Some(folder) => {
                let path = folder.join(name);
                std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            }
            None => print!("---\n{text}"),
        }
    }
    Ok(())
}

async fn operate(arguments: RunArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&arguments.log).with_context(|| format!("--log {:?}", arguments.log))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Json => subscriber.json().init(),
        LogFormat::Text => subscriber.init(),
    }
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // Everybody who could listen has ended already if this fails.
        let _ = stop.send(true);
    });
    let metrics = Arc::new(Metrics::default());
    let ready = Arc::new(AtomicBool::new(false));
    let admin = tokio::spawn(admin::serve(arguments.admin_listen, metrics.clone(), ready.clone()));
    let client = Client::try_default().await.context("cannot find the API server")?;
    let mut told = stopped.clone();
    tokio::select! {
        ended = admin => ended.context("the admin port")?,
        ended = lead(arguments, client, metrics, ready, stopped) => ended,
        _ = told.wait_for(|stop| *stop) => {
            // What is under way gets the time that a pod has; `lead` ends before that.
            tokio::time::sleep(Duration::from_secs(20)).await;
            Ok(())
        }
    }
}

/// Waits for the custom resources and for the lead, then reconciles.
async fn lead(
    arguments: RunArgs,
    client: Client,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let candidate = Candidate {
        namespace: arguments.namespace,
        identity: arguments.identity,
        lease: Duration::from_secs(arguments.lease_seconds),
        renew: Duration::from_secs(arguments.renew_seconds),
    };
    tokio::select! {
        () = wait_for_crds(&client, &metrics) => {}
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    }
    // Who waits for the lead is as ready as who has it: a rollout must not wait for it.
    ready.store(true, Ordering::Relaxed);
    tokio::select! {
        () = leader::wait(&client, &candidate, &*clock) => {}
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    }
    metrics.leader.set(1);
    tracing::info!(identity = candidate.identity, "leading");
    let controllers = controller::controllers(&client, arguments.watch_secrets);
    let settings = Settings {
        image: arguments.image,
        has_monitoring: has_monitoring(&client).await,
        runbook_url: arguments.runbook_url,
        resync: Duration::from_secs(arguments.resync_seconds),
        watches_secrets: arguments.watch_secrets,
    };
    let entropy = Entropy::from_os();
    let context =
        Arc::new(Context::new(client.clone(), controllers.stores(), settings, metrics.clone(), clock.clone(), entropy));
    let ended = tokio::select! {
        () = controllers.run(context, stopped) => Ok(()),
        () = leader::keep(&client, &candidate, &*clock) => Err(()),
    };
    metrics.leader.set(0);
    match ended {
        Ok(()) => {
            leader::release(&client, &candidate).await;
            Ok(())
        }
        Err(()) => bail!("another operator leads now; this one ends, to begin anew"),
    }
}

async fn wait_for_crds(client: &Client, metrics: &Metrics) {
    let kinds = ["storagebackends", "leasedatabases", "storageservers", "accounts"];
    loop {
        let version = format!("{}/{}", leasehold_crds::GROUP, leasehold_crds::VERSION);
        let missing = match client.list_api_group_resources(&version).await {
            Ok(found) => kinds.iter().any(|kind| !found.resources.iter().any(|resource| resource.name == *kind)),
            Err(error) => {
                tracing::debug!(%error, "the API server does not know our group");
                true
            }
        };
        metrics.crd_missing.set(i64::from(missing));
        if !missing {
            return;
        }
        tracing::warn!(
            "waiting for the custom resources; the chart installs them, or `leasehold-operator crds | kubectl apply -f -`"
        );
        tokio::time::sleep(CRDS_EVERY).await;
    }
}

/// Whether the cluster knows PodMonitors and PrometheusRules. One that learns them later needs a restart of the operator.
async fn has_monitoring(client: &Client) -> bool {
    let found = client.list_api_group_resources("monitoring.coreos.com/v1").await;
    found.is_ok_and(|found| {
        ["podmonitors", "prometheusrules"]
            .iter()
            .all(|kind| found.resources.iter().any(|resource| resource.name == *kind))
    })
}
