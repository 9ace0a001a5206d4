//! `leasehold account …`.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use leasehold_config::Size;
use leasehold_core::account::AccountState;
use leasehold_core::expiry::KeepAlive;
use leasehold_core::lease::DAY_SECONDS;
use leasehold_core::leasedb::{AccountChange, LeaseDb};
use leasehold_leasedb::AnyLeaseDb;
use serde_json::json;

use super::{Common, open};
use crate::accounts::Accounts;
use crate::datadir::Published;
use crate::identity::Identity;
use crate::output::{account_json, account_table, handout_text, shown_json, shown_text};

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
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
    ///
    /// Leases end as they would have. Nothing else becomes of its shares, and nothing at all of those that others lease.
    Delete {
        /// The account's name
        name: String,
        /// End its leases soon, so that expiry frees what nobody else leases
        #[arg(long)]
        release: bool,
        /// How long its leases stay after all, with --release
        #[arg(long, value_name = "DAYS", default_value_t = 30, requires = "release")]
        grace_days: u32,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub(super) struct Settings {
    /// The most it may store, such as 50GiB; `none` lifts the limit
    #[arg(long, value_name = "SIZE")]
    quota: Option<Quota>,
    /// What it may do
    #[arg(long, value_enum)]
    access: Option<Access>,
    /// Days that a lease renewal grants it, where more than 31
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(31..=3650))]
    lease_days: Option<u32>,
    /// Days after its last use for which none of its leases ends; `never` lets none end, `none` lifts this
    #[arg(long, value_name = "DAYS")]
    keep_days: Option<Keep>,
    /// A text for its owner, shown by GET /account/v1
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota(Option<u64>);

impl std::str::FromStr for Quota {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            text => text.parse::<Size>().map(|size| Self(Some(size.0))).map_err(|error| error.to_string()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Keep(KeepAlive);

impl std::str::FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(KeepAlive::None)),
            "never" => Ok(Self(KeepAlive::Always)),
            text => match text.parse() {
                Ok(days @ 1..=3650) => Ok(Self(KeepAlive::Days(days))),
                _ => Err("must be 1 to 3650 days, `never` or `none`".to_owned()),
            },
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Access {
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
            keep_alive: self.keep_days.map(|keep| keep.0),
        })
    }
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

pub(super) async fn run(command: AccountCommand) -> anyhow::Result<ExitCode> {
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
        AccountCommand::Delete { name, release, grace_days, common } => {
            let seconds = release.then(|| i64::from(grace_days) * DAY_SECONDS);
            let account = open_accounts(&common).await?.delete(&name, seconds).await?;
            let days = release.then_some(grace_days);
            let json = json!({
                "account_id": account.id.to_string(),
                "name": name,
                "state": "closed",
                "released_in_days": days,
            });
            common.output.print(&json, || match days {
                None => format!("account {name} is closed; its leases stay until they end"),
                Some(days) => format!("account {name} is closed; its leases end in {days} days at the latest"),
            });
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
