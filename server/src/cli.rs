//! The command line: what can be typed, and what each command does with the parts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use leasehold_config::{Config, Size, check_host_port};
use leasehold_core::account::AccountState;
use leasehold_core::id::StorageIndex;
use leasehold_core::leasedb::{AccountChange, LeaseDb};
use leasehold_core::share::ShareState;
use leasehold_core::store::Collected;
use leasehold_leasedb::AnyLeaseDb;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::accounts::Accounts;
use crate::check::{Level, check};
use crate::datadir::{DataDir, Published};
use crate::identity::Identity;
use crate::output::{Output, account_json, account_table, handout_text, shown_json, shown_text, table, time_text};
use crate::places::{migrate_database, open_backend, open_lease_db, open_store};
use crate::{serve, telemetry};

/// Threads for file work: enough to keep a disk busy, few enough that their memory stays small.
const BLOCKING_THREADS_MAX: usize = 32;
/// The exit code by which shells know an interrupted program: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Storage for Tahoe-LAFS with accounts, quotas and exact usage.
///
/// `leasehold serve` starts a server; it prints an address (NURL) and the path of a file that any Tahoe-LAFS client
/// can use. The other commands work on the server's data directory, while it runs or not.
#[derive(Debug, Parser)]
#[command(name = "leasehold", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a storage server
    ///
    /// On first start it makes an identity and an account, and prints what a client needs. Shares, leases and identity
    /// are all in the data directory, unless the configuration names an S3 bucket and a database. SIGTERM ends it so that clients do not
    /// notice, which takes a minute or so; Ctrl-C ends it at once, but lets requests in flight finish.
    Serve(ServeArgs),
    /// Create, list, change and delete accounts
    #[command(subcommand)]
    Account(AccountCommand),
    /// Look at shares
    #[command(subcommand)]
    Share(ShareCommand),
    /// Say what is wrong with a configuration or data directory
    ///
    /// Changes nothing. Exits with 2 if something does not work.
    Check(Common),
    /// Bring the schema of the configured PostgreSQL database up to date
    ///
    /// Run it as the schema's owner before new servers start; older ones go on serving meanwhile. Gives the roles of
    /// the configuration their rights.
    Migrate(Common),
    /// End overdue uploads, delete what is due, merge pieces; then exit
    ///
    /// Any number of these may run at once, beside any number of servers.
    Collect(Common),
}

#[derive(Debug, Args)]
struct Common {
    /// The server's data directory
    #[arg(long, value_name = "DIR", default_value = "leasehold-data", env = "LEASEHOLD_DATA_DIR")]
    data_dir: PathBuf,
    /// A TOML file with further settings; options win over it
    #[arg(long, value_name = "FILE", env = "LEASEHOLD_CONFIG")]
    config: Option<PathBuf>,
    /// For whom to print
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Common {
    fn load_config(&self) -> anyhow::Result<Config> {
        self.config.as_ref().map_or_else(|| Ok(Config::default()), |path| Ok(Config::load(path)?))
    }
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    common: Common,
    /// Where to serve clients
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// What clients are told to connect to, if that is not the address served
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Where to serve metrics and health
    #[arg(long, value_name = "ADDR:PORT")]
    admin_listen: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// Make an account and print what its owner needs
    Create {
        /// The account's name: a-z, 0-9, '-', '_', '.'
        name: String,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        common: Common,
    },
    /// List all accounts with what they use
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Show one account: state, usage, quota, credentials
    Show {
        /// The account's name
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Change an account's settings
    Set {
        /// The account's name
        name: String,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        common: Common,
    },
    /// Give an account a new secret address; the old one stays valid for a while
    Rotate {
        /// The account's name
        name: String,
        /// How long the old address stays valid; 0 revokes it at once
        #[arg(long, value_name = "HOURS", default_value_t = 336)]
        overlap_hours: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Let an account only read; its leases do not lapse
    Suspend {
        /// The account's name
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Give a suspended or read-only account all rights again
    Resume {
        /// The account's name
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Revoke an account's addresses and close it; its leases age away
    Delete {
        /// The account's name
        name: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Settings {
    /// The most it may store, such as 50GiB; `none` lifts the limit
    #[arg(long, value_name = "SIZE")]
    quota: Option<Quota>,
    /// What it may do
    #[arg(long, value_enum)]
    access: Option<Access>,
    /// Days that a lease renewal grants it, where more than 31
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(31..=3650))]
    lease_days: Option<u32>,
    /// A text for its owner, shown by GET /account/v1
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quota(Option<u64>);

impl std::str::FromStr for Quota {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            text => text.parse::<Size>().map(|size| Self(Some(size.0))).map_err(|error| error.to_string()),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Access {
    /// Everything
    ReadWrite,
    /// Reads and lease renewals, no new bytes
    ReadOnly,
}

impl Settings {
    fn change(self) -> anyhow::Result<AccountChange> {
        let message = self.message;
        if message.as_ref().is_some_and(|text| text.len() > 256 || text.chars().any(char::is_control)) {
            bail!("--message may have at most 256 bytes and no control characters");
        }
        Ok(AccountChange {
            state: self.access.map(|access| match access {
                Access::ReadWrite => AccountState::Active,
                Access::ReadOnly => AccountState::ReadOnly,
            }),
            quota_bytes: self.quota.map(|quota| quota.0),
            lease_days: self.lease_days,
            message,
        })
    }
}

#[derive(Debug, Subcommand)]
enum ShareCommand {
    /// Show the shares of a storage index: sizes, leaseholders, expiry times
    Show {
        /// 26 base32 characters, as in a client's logs
        storage_index: StorageIndex,
        #[command(flatten)]
        common: Common,
    },
}

/// Runs the command line: exit code 0 if all went well, 2 with one line on standard error if not.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start")),
    };
    let result = runtime.block_on(run(cli.command));
    // Blocking work that is still stuck must not keep a stopped server alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result.unwrap_or_else(|error| fail(&error))
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("leasehold: {}", format!("{error:#}").replace('\n', " "));
    ExitCode::from(2)
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => run_serve(args).await,
        Command::Account(command) => run_account(command).await,
        Command::Share(ShareCommand::Show { storage_index, common }) => show_shares(storage_index, &common).await,
        Command::Check(common) => run_check(&common).await,
        Command::Migrate(common) => run_migrate(&common).await,
        Command::Collect(common) => run_collect(&common).await,
    }
}

async fn run_serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let mut config = args.common.load_config()?;
    if let Some(listen) = args.listen {
        config.server.listen = listen;
    }
    if let Some(admin_listen) = args.admin_listen {
        config.server.admin_listen = admin_listen;
    }
    if let Some(advertise) = args.advertise {
        check_host_port(&advertise).map_err(|problem| anyhow::anyhow!("--advertise {problem}"))?;
        config.server.advertise = Some(advertise);
    }
    telemetry::init(&config.log).map_err(anyhow::Error::msg)?;
    let signals = Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let running = serve::start(config, &args.common.data_dir).await?;
    let mut json = json!({ "listen": running.listen.to_string(), "admin": running.admin.to_string() });
    if let (Some(handout), Some(fields)) = (&running.handout, json.as_object_mut())
        && let serde_json::Value::Object(more) = serde_json::to_value(handout)?
    {
        fields.extend(more);
    }
    args.common.output.print(&json, || {
        let handout = running.handout.as_ref().map(handout_text).unwrap_or_default();
        format!("{handout}\nServing on {}, metrics on http://{}/metrics", running.listen, running.admin)
    });
    tracing::info!(listen = %running.listen, admin = %running.admin, "serving");
    Ok(signals.obey(running).await)
}

/// What tells a server to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// SIGTERM drains: it comes from supervisors, which may send it twice. SIGINT comes from a person who waits: the
    /// first one hurries, also in the middle of draining, the second does not even wait for requests in flight.
    async fn obey(mut self, mut running: serve::Running) -> ExitCode {
        let mut hurried = false;
        loop {
            tokio::select! {
                () = running.ended() => return ExitCode::SUCCESS,
                _ = self.terminate.recv() => {
                    tracing::info!("draining");
                    running.drain();
                }
                _ = self.interrupt.recv() => {
                    if std::mem::replace(&mut hurried, true) {
                        tracing::warn!("stopped amid requests");
                        return ExitCode::from(INTERRUPTED);
                    }
                    tracing::info!("stopping");
                    running.hurry();
                }
            }
        }
    }
}

/// What commands work on, outside any server.
async fn open(common: &Common) -> anyhow::Result<(Config, DataDir, AnyLeaseDb)> {
    let config = common.load_config()?;
    let data = match config.database {
        None => DataDir::existing(&common.data_dir)?,
        Some(_) => DataDir::create(&common.data_dir)?,
    };
    let db = open_lease_db(&config, &data, &mut Registry::default()).await?;
    Ok((config, data, db))
}

async fn open_accounts(common: &Common) -> anyhow::Result<Accounts<AnyLeaseDb>> {
    let (config, data, db) = open(common).await?;
    // With a database the first account may be made before the first server starts.
    let identity = match config.database {
        None => data.identity()?,
        Some(_) => Identity::load_or_create(&data.identity_folder())?,
    };
    let published = match config.server.advertise {
        Some(advertise) => Published { advertise, nickname: config.server.nickname },
        None => data.published()?,
    };
    Ok(Accounts::new(db, &data, identity, published))
}

async fn run_account(command: AccountCommand) -> anyhow::Result<ExitCode> {
    match command {
        AccountCommand::Create { name, settings, common } => {
            let handout = open_accounts(&common).await?.create(&name, settings.change()?).await?;
            common.output.print(&serde_json::to_value(&handout)?, || handout_text(&handout));
        }
        AccountCommand::List { common } => {
            let accounts = open_accounts(&common).await?.list().await?;
            let json = accounts.iter().map(|(account, usage)| account_json(account, usage)).collect();
            common.output.print(&json, || account_table(&accounts));
        }
        AccountCommand::Show { name, common } => show_account(&open_accounts(&common).await?, &name, &common).await?,
        AccountCommand::Set { name, settings, common } => change_account(&name, settings.change()?, &common).await?,
        AccountCommand::Suspend { name, common } => {
            let state = Some(AccountState::Suspended);
            change_account(&name, AccountChange { state, ..AccountChange::default() }, &common).await?;
        }
        AccountCommand::Resume { name, common } => {
            let state = Some(AccountState::Active);
            change_account(&name, AccountChange { state, ..AccountChange::default() }, &common).await?;
        }
        AccountCommand::Rotate { name, overlap_hours, common } => {
            let handout = open_accounts(&common).await?.rotate(&name, i64::from(overlap_hours) * 3600).await?;
            common.output.print(&serde_json::to_value(&handout)?, || handout_text(&handout));
        }
        AccountCommand::Delete { name, common } => {
            let account = open_accounts(&common).await?.delete(&name).await?;
            let json = json!({ "account_id": account.id.to_string(), "name": name, "state": "closed" });
            common.output.print(&json, || format!("account {name} is closed; its leases stay until they lapse"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn change_account(name: &str, change: AccountChange, common: &Common) -> anyhow::Result<()> {
    let accounts = open_accounts(common).await?;
    accounts.change(name, change).await?;
    show_account(&accounts, name, common).await
}

async fn show_account<L: LeaseDb>(accounts: &Accounts<L>, name: &str, common: &Common) -> anyhow::Result<()> {
    let shown = accounts.show(name).await?;
    common.output.print(&shown_json(&shown), || shown_text(&shown));
    Ok(())
}

async fn show_shares(index: StorageIndex, common: &Common) -> anyhow::Result<ExitCode> {
    let (_, _, db) = open(common).await?;
    let db = Arc::new(db);
    let rows = db.list_shares(index).await.context("cannot read the lease database")?;
    let leases = db.list_leases(index).await?;
    let state = |state| if state == ShareState::Stable { "stable" } else { "lost" };
    let mut shares = Vec::new();
    let mut lines = vec![["SHARE", "TYPE", "SIZE", "STATE", "LEASED BY", "UNTIL"].map(str::to_owned)];
    for row in &rows {
        let of_share = || leases.iter().filter(|lease| lease.number == row.number);
        let holders: Vec<_> = of_share()
            .map(|lease| json!({ "account": lease.account_name, "expires_at": time_text(lease.lease.expires_at) }))
            .collect();
        shares.push(json!({
            "share_number": row.number.get(),
            "type": row.kind.as_str(),
            "size_bytes": row.size_bytes,
            "state": state(row.state),
            "leases": holders,
        }));
        let cells = |holder: String, until: String| {
            let share = [row.number.to_string(), row.kind.as_str().to_owned(), row.size_bytes.to_string()];
            let [number, kind, size] = share;
            [number, kind, size, state(row.state).to_owned(), holder, until]
        };
        lines.extend(of_share().map(|l| cells(l.account_name.clone(), time_text(l.lease.expires_at))));
        if of_share().next().is_none() {
            lines.push(cells("nobody".to_owned(), "-".to_owned()));
        }
    }
    let json = json!({ "storage_index": index.to_string(), "shares": shares });
    common.output.print(
        &json,
        || {
            if rows.is_empty() { format!("there are no shares of {index}") } else { table(&lines) }
        },
    );
    Ok(ExitCode::SUCCESS)
}

async fn run_migrate(common: &Common) -> anyhow::Result<ExitCode> {
    let migrated = migrate_database(&common.load_config()?).await?;
    let json = json!({ "schema_version": migrated.version, "applied": migrated.applied });
    common.output.print(&json, || match migrated.applied.len() {
        0 => format!("the schema is up to date at version {}", migrated.version),
        count => format!("{count} migrations applied; the schema is at version {}", migrated.version),
    });
    Ok(ExitCode::SUCCESS)
}

async fn run_collect(common: &Common) -> anyhow::Result<ExitCode> {
    let (config, data, db) = open(common).await?;
    telemetry::init(&config.log).map_err(anyhow::Error::msg)?;
    // A directory belongs to one process: that of its server, which collects by itself.
    let lock = if config.storage.s3.is_some() { None } else { Some(data.lock()?) };
    let backend = open_backend(&config, &data, &mut Registry::default())?;
    let store = open_store(&config, db, backend).await?;
    let progress = common.output.progress("collecting");
    let collected = store.collect(|so_far| progress.show(collected_text(so_far))).await?;
    progress.end();
    let json = json!({
        "uploads_ended": collected.uploads_ended,
        "uploads_completed": collected.uploads_completed,
        "objects_deleted": collected.objects_deleted,
        "shares_merged": collected.shares_merged,
    });
    common.output.print(&json, || collected_text(&collected));
    drop(lock);
    Ok(ExitCode::SUCCESS)
}

fn collected_text(collected: &Collected) -> String {
    format!(
        "{} overdue uploads ended, {} completed; {} objects deleted; {} shares merged",
        collected.uploads_ended, collected.uploads_completed, collected.objects_deleted, collected.shares_merged
    )
}

async fn run_check(common: &Common) -> anyhow::Result<ExitCode> {
    let config = common.load_config()?;
    let findings = check(&config, &common.data_dir).await;
    let json = findings.iter().map(|f| json!({ "level": f.level.as_str(), "text": f.text })).collect();
    common.output.print(&json, || {
        let lines: Vec<String> = findings.iter().map(|f| format!("{}: {}", f.level.as_str(), f.text)).collect();
        lines.join("\n")
    });
    let failed = findings.iter().any(|finding| finding.level == Level::Error);
    Ok(if failed { ExitCode::from(2) } else { ExitCode::SUCCESS })
}
