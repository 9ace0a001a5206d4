//! The command line: what can be typed, and what each command does with the parts.

mod account;
mod audit;
mod backup;
mod classic;
mod collect;
mod expire;
mod opened;
mod reconcile;
mod serve;
mod share;
mod upkeep;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use leasehold_config::Config;
use leasehold_core::run::{RunId, RunKind};

use self::account::AccountCommand;
use self::classic::{ExportArgs, ImportArgs};
use self::expire::{ExpireArgs, UndoArgs};
use self::opened::open;
use self::reconcile::{ForgetArgs, ReconcileArgs};
use self::serve::ServeArgs;
use self::share::ShareCommand;
use crate::output::Output;

/// Threads for file work: enough to keep a disk busy, few enough that their memory stays small.
const BLOCKING_THREADS_MAX: usize = 32;

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
    /// Remove leases that have ended, by the policy of the configuration
    ///
    /// Nothing is removed by the first run of each policy: it shows who would lose what. What was removed can be put back
    /// for a week.
    Expire(ExpireArgs),
    /// Put back shares or leases that were removed, for a week
    Undo(UndoArgs),
    /// Let the next run do, once, what a brake has kept this one from
    Allow {
        /// The number of the run
        run: RunId,
        #[command(flatten)]
        common: Common,
    },
    /// Show the last runs of jobs
    Runs {
        /// Only of one kind
        #[arg(long, value_name = "KIND", value_parser = RunKind::ALL.map(RunKind::as_str))]
        kind: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Retire shares that nobody leases, end overdue uploads, delete what is due, merge pieces; then exit
    ///
    /// Any number of these may run at once, beside any number of servers.
    Collect(Common),
    /// Compare the lease database with the backend, and make them agree
    ///
    /// Adopts shares that have no row, hides those whose bytes are gone, brings back what came back, and marks what nothing
    /// names for deletion in a week. After the lease database lost commits it finds what was lost. Any number of these share
    /// the work.
    Reconcile(ReconcileArgs),
    /// Forget a share whose bytes are gone for good
    ///
    /// Its leases go with it. Until then it comes back by itself if its bytes do.
    Forget(ForgetArgs),
    /// Put a copy of the lease database into the storage backend; then exit
    ///
    /// The copy is the database at one instant: accounts, credentials (their hashes), shares, leases, slots. A running
    /// server does this by itself every hour. Backups that are kept no longer are removed.
    Backup(backup::BackupArgs),
    /// Fill an empty lease database from a backup
    ///
    /// For when the database was lost or is damaged: move its file away, or make and migrate another database, and stop
    /// all servers. What clients stored since the backup is found again in the backend.
    Restore(backup::RestoreArgs),
    /// Count again what accounts hold, and correct counters that are wrong
    ///
    /// Needs the lease database only, and may run beside servers. There is never a difference unless a program was wrong or
    /// somebody changed rows by hand.
    Audit(Common),
    /// Copy the shares of a Tahoe-LAFS node into this server
    ///
    /// For a storage folder that is elsewhere. (A folder that becomes the data directory itself needs no import: its shares
    /// are served where they are.) The node must not run. What is there already is left as it is, so an import that broke off is
    /// simply repeated.
    Import(ImportArgs),
    /// Write all shares as a folder that a Tahoe-LAFS node can serve
    ///
    /// Everything can be read there. Mutable files can be written there only as long as nobody has written to them here:
    /// for a container needs the write enabler itself, and servers keep its hash only.
    Export(ExportArgs),
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
        Command::Serve(args) => serve::run(args).await,
        Command::Account(command) => account::run(command).await,
        Command::Share(command) => share::run(command).await,
        Command::Check(common) => upkeep::run_check(&common).await,
        Command::Migrate(common) => upkeep::run_migrate(&common).await,
        Command::Expire(args) => expire::run_expire(args).await,
        Command::Undo(args) => expire::run_undo(args).await,
        Command::Allow { run, common } => expire::run_allow(run, &common).await,
        Command::Runs { kind, common } => expire::run_runs(kind.as_deref(), &common).await,
        Command::Collect(common) => collect::run(&common).await,
        Command::Reconcile(args) => reconcile::run_reconcile(&args).await,
        Command::Forget(args) => reconcile::run_forget(&args).await,
        Command::Backup(args) => backup::run_backup(args).await,
        Command::Restore(args) => backup::run_restore(args).await,
        Command::Audit(common) => audit::run(&common).await,
        Command::Import(args) => classic::run_import(args).await,
        Command::Export(args) => classic::run_export(args).await,
    }
}
