//! Accounts of a server on one machine: made, changed and shown on its data directory, while it runs or not.
//!
//! The lease database keeps hashes only. The swissnum itself is written to the account's folder before the database
//! learns its hash, so that a crash in between leaves a credential that opens nothing, never one that nobody knows.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};
use leasehold_core::account::{Account, Usage, check_name};
use leasehold_core::clock::Entropy;
use leasehold_core::id::AccountId;
use leasehold_core::leasedb::{AccountChange, CreateOutcome, Credential, LeaseDb};
use leasehold_core::secret::Swissnum;
use leasehold_identity::Name;
use serde::Serialize;

use crate::datadir::{DataDir, Published};
use crate::identity::{Identity, write_private};

/// The name of the account that a new server begins with.
pub const FIRST_ACCOUNT: &str = "default";
const PAGE: u32 = 500;

/// What an account's owner is handed.
#[derive(Clone, Debug, Serialize)]
pub struct Handout {
    /// The account's number; opaque to programs.
    pub account_id: String,
    /// The account's name.
    pub name: String,
    /// Address for clients that speak HTTPS.
    pub nurl: String,
    /// Address for clients that speak Foolscap; every client takes the tub id from it.
    pub furl: String,
    /// A file ready for a client's `private` folder.
    pub servers_yaml: PathBuf,
}

/// An account with all that an operator may see of it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The account.
    pub account: Account,
    /// What it uses.
    pub usage: Usage,
    /// Its credentials, newest first.
    pub credentials: Vec<Credential>,
}

/// The accounts of a data directory.
#[derive(Debug)]
pub struct Accounts<L> {
    db: L,
    folder: PathBuf,
    identity: Identity,
    published: Published,
    entropy: Entropy,
}

impl<L: LeaseDb> Accounts<L> {
    /// Puts together what account commands need.
    pub fn new(db: L, data: &DataDir, identity: Identity, published: Published) -> Self {
        Self { db, folder: data.accounts_folder(), identity, published, entropy: Entropy::from_os() }
    }

    /// Makes an account.
    ///
    /// # Errors
    /// The name is bad or taken, or files cannot be written.
    pub async fn create(&self, name: &str, change: AccountChange) -> anyhow::Result<Handout> {
        check_name(name).map_err(anyhow::Error::msg)?;
        if matches!(name, "anonymous" | "starter") || self.db.find_account(name.to_owned()).await?.is_some() {
            bail!("there is already an account {name:?}");
        }
        let swissnum = Swissnum::generate(&self.entropy);
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        drop(fs::remove_file(folder.join("swissnum.retiring")));
        self.write_secret(name, "swissnum", &swissnum)?;
        match self.db.create_account(name.to_owned(), change, swissnum.credential_hash()).await? {
            CreateOutcome::Created(account) => self.hand_out(&account),
            CreateOutcome::NameTaken => bail!("there is already an account {name:?}"),
        }
    }

    /// The account of this name.
    ///
    /// # Errors
    /// There is none.
    pub async fn find(&self, name: &str) -> anyhow::Result<Account> {
        let found = self.db.find_account(name.to_owned()).await?;
        found.with_context(|| format!("there is no account {name:?}; `leasehold account list` shows all"))
    }

    /// All accounts with their usage, by number.
    ///
    /// # Errors
    /// The lease database does not answer.
    pub async fn list(&self) -> anyhow::Result<Vec<(Account, Usage)>> {
        let mut all = Vec::new();
        loop {
            let after = all.last().map(|(account, _): &(Account, Usage)| account.id);
            let page = self.db.list_accounts(after, PAGE).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// Everything about one account but its secrets.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn show(&self, name: &str) -> anyhow::Result<Shown> {
        let account = self.find(name).await?;
        let usage = self.db.usage(account.id).await?;
        let credentials = self.db.list_credentials(account.id).await?;
        Ok(Shown { account, usage, credentials })
    }

    /// Changes an account's settings.
    ///
    /// # Errors
    /// There is none of this name.
    pub async fn change(&self, name: &str, change: AccountChange) -> anyhow::Result<Account> {
        let account = self.find(name).await?;
        if account.id == AccountId::STARTER {
            bail!("the starter account holds the leases of shares that nobody else leases; it has no settings");
        }
        if !self.db.change_account(account.id, change).await? {
            bail!("the account {name:?} was deleted meanwhile");
        }
        self.find(name).await
    }

    /// Gives an account a new swissnum; the one before stays valid for `overlap_seconds`.
    ///
    /// # Errors
    /// There is none of this name, or files cannot be written.
    pub async fn rotate(&self, name: &str, overlap_seconds: i64) -> anyhow::Result<Handout> {
        let account = self.find(name).await?;
        if account.id == AccountId::STARTER {
            bail!("nobody can log in to the starter account");
        }
        let swissnum = Swissnum::generate(&self.entropy);
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let (newest, retiring) = (folder.join("swissnum"), folder.join("swissnum.retiring"));
        self.write_secret(name, "swissnum.next", &swissnum)?;
        if !self.db.rotate_credential(account.id, swissnum.credential_hash(), overlap_seconds).await? {
            bail!("the account {name:?} was deleted meanwhile");
        }
        if overlap_seconds > 0 && newest.exists() {
            fs::rename(&newest, &retiring)?;
        } else {
            drop(fs::remove_file(&retiring));
        }
        fs::rename(folder.join("swissnum.next"), &newest)?;
        self.hand_out(&account)
    }

    /// Revokes an account's credentials and closes it. Its leases age away, or end in `release_seconds` at the latest.
    ///
    /// # Errors
    /// There is none of this name, or it is built in.
    pub async fn delete(&self, name: &str, release_seconds: Option<i64>) -> anyhow::Result<Account> {
        let account = self.find(name).await?;
        if account.id < AccountId::FIRST_DECLARED {
            bail!("the account {name:?} is built in; `leasehold account set {name} --access read-only` limits it");
        }
        if !self.db.close_account(account.id, release_seconds).await? {
            bail!("the account {name:?} was deleted meanwhile");
        }
        drop(fs::remove_dir_all(self.folder.join(name)));
        Ok(account)
    }

    /// Writes an account's files anew and tells what to hand to its owner.
    ///
    /// # Errors
    /// The swissnum was not kept, or files cannot be written.
    pub fn hand_out(&self, account: &Account) -> anyhow::Result<Handout> {
        let folder = self.folder.join(&account.name);
        let read = |file: &str| fs::read_to_string(folder.join(file)).map(|text| text.trim().to_owned());
        let newest = read("swissnum").with_context(|| {
            format!("the swissnum of {:?} is not kept here; `leasehold account rotate` makes another", account.name)
        })?;
        let addresses = [self.published.advertise.clone()];
        let name = Name { identity: &self.identity.public, addresses: &addresses, nickname: &self.published.nickname };
        let addresses = name.handout(&newest, read("swissnum.retiring").ok().as_deref());
        let servers_yaml = folder.join("servers.yaml");
        write_private(&servers_yaml, name.servers_yaml(&addresses).as_bytes())
            .with_context(|| format!("cannot write {}", servers_yaml.display()))?;
        let servers_yaml = fs::canonicalize(&servers_yaml)?;
        let leasehold_identity::Handout { mut nurls, furl } = addresses;
        let nurl = nurls.swap_remove(0);
        Ok(Handout { account_id: account.id.to_string(), name: account.name.clone(), nurl, furl, servers_yaml })
    }

    fn write_secret(&self, name: &str, file: &str, swissnum: &Swissnum) -> anyhow::Result<()> {
        let path = self.folder.join(name).join(file);
        write_private(&path, format!("{}\n", swissnum.reveal()).as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
