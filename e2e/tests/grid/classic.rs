//! Moving from the released Python server to ours, and back.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use leasehold_e2e::leasehold::Server;
use leasehold_e2e::process::{Explain, run_ok};
use leasehold_e2e::reference::{PythonServer, storage_of};
use leasehold_e2e::tahoe::{Check, Client, Encoding, Format};
use serde_json::{Value, json};

use super::{KIB, MIB, Scratch, bytes, ensure_same, venv};

/// One server that holds all shares.
const ALL_ON_ONE: Encoding = Encoding { needed: 2, happy: 1, total: 3 };
const SCRIPT: &str = include_str!("../../python/classic_tree.py");

/// A client that does not know which server it uses: both have the same tub id and server id, as after a move of the identity.
struct Move {
    client: Client,
    ours: Server,
    directory: Scratch,
}

/// What a client has stored.
struct Files {
    immutable: Vec<(String, Vec<u8>)>,
    mutable: Vec<(String, Vec<u8>)>,
    folder: String,
}

impl Move {
    fn begin(name: &str) -> Result<Self> {
        let directory = Scratch::new(name)?;
        let mut ours = Server::start("ours", directory.path(), None)?;
        ours.terminate()?;
        let client = Client::create(venv()?, "client", directory.path(), &ALL_ON_ONE)?;
        Ok(Self { client, ours, directory })
    }

    /// Starts the Python server over what is in its storage folder, with the client at it.
    fn move_to_python(&mut self, name: &str) -> Result<PythonServer> {
        let python = PythonServer::start(venv()?, name, self.directory.path())?;
        let file = self.directory.path().join("servers-of-python.yaml");
        python.stand_in_for(&self.ours.announcement().credentials, &file)?;
        self.connect(&file)?;
        Ok(python)
    }

    /// Starts our server, with the client at it.
    fn move_to_ours(&mut self) -> Result<()> {
        self.ours.begin_anew()?;
        let file = self.ours.announcement().credentials.servers_yaml.clone();
        self.connect(&file)
    }

    fn connect(&mut self, servers_yaml: &Path) -> Result<()> {
        self.client.set_servers(&[servers_yaml])?;
        self.client.start(1)
    }

    fn story(&mut self, story: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let outcome = story(self);
        outcome.explain(|| format!("=== ours\n{}\n=== client\n{}", self.ours.log_tail(), self.client.log_tail()))
    }
}

impl Files {
    fn store(client: &Client) -> Result<Self> {
        let mut files = Self { immutable: Vec::new(), mutable: Vec::new(), folder: String::new() };
        for (seed, length) in [(900, 2000), (901, 300 * KIB), (902, 2 * MIB)] {
            let data = bytes(seed, length);
            files.immutable.push((client.upload(&data)?, data));
        }
        for (seed, format, length) in
            [(910, Format::Sdmf, 5000), (911, Format::Mdmf, 400 * KIB), (912, Format::Sdmf, 900)]
        {
            let data = bytes(seed, length);
            files.mutable.push((client.create_mutable(format, &data)?, data));
        }
        files.folder = client.make_directory(Format::Sdmf, &json!({}))?;
        client.upload_child(&files.folder, "letter.txt", &bytes(920, 3000))?;
        Ok(files)
    }

    fn are_readable(&self, client: &Client) -> Result<()> {
        for (capability, data) in self.immutable.iter().chain(&self.mutable) {
            ensure_same("a file of before", &client.download(capability)?, data)?;
        }
        ensure_same("a file in a folder", &client.download_path(&self.folder, "letter.txt")?, &bytes(920, 3000))
    }

    /// Changes the first two mutable files, whole and in part, and the folder.
    fn change(&mut self, client: &Client, seed: u64) -> Result<()> {
        self.mutable[0].1 = bytes(seed, 7000);
        client.overwrite(&self.mutable[0].0, &self.mutable[0].1)?;
        let part = bytes(seed + 1, 1000);
        self.mutable[1].1[200_000..201_000].copy_from_slice(&part);
        client.overwrite_at(&self.mutable[1].0, 200_000, &part)?;
        client.upload_child(&self.folder, &format!("{seed}.txt"), &bytes(seed, 4000)).map(drop)
    }
}

/// The tree's shares as Python reads them, by path.
fn describe(tree: &Path) -> Result<serde_json::Map<String, Value>> {
    let text = run_script(&["describe", &tree.display().to_string()])?;
    serde_json::from_str::<Value>(&text)?.as_object().cloned().context("an object")
}

fn run_script(arguments: &[&str]) -> Result<String> {
    let mut command = venv()?.python();
    run_ok(command.arg("-c").arg(SCRIPT).args(arguments), std::time::Duration::from_secs(60))
}

/// Moves a Python server's storage folder to where our server keeps its data, and our server's identity into it.
fn take_over(all: &Move, storage: &Path) -> Result<()> {
    let data = all.ours.data_dir();
    fs::rename(data.join("identity"), storage.join("identity"))?;
    fs::rename(&data, data.with_extension("unused"))?;
    Ok(fs::rename(storage, &data)?)
}

fn leaseholders(server: &Server, storage_index: &str) -> Result<Vec<String>> {
    let shown = server.show_shares(storage_index)?;
    let shares = shown["shares"].as_array().context("shares")?;
    let leases = shares.iter().filter_map(|share| share["leases"].as_array()).flatten();
    Ok(leases.filter_map(|lease| lease["account"].as_str().map(str::to_owned)).collect())
}

#[test]
fn shares_are_imported_from_a_python_server_and_exported_to_one() -> Result<()> {
    let mut all = Move::begin("import")?;
    all.story(|all| {
        let python = all.move_to_python("before")?;
        let mut files = Files::store(&all.client)?;
        let storage = python.storage().to_owned();
        all.client.stop()?;
        python.stop()?;
        let tree = storage.display().to_string();
        let before = describe(&storage)?;

        let dry = all.ours.run(&["import", &tree, "--account", "default", "--dry-run"])?;
        ensure!(dry["shares_copied"] == before.len(), "a dry run said {dry}");
        let imported = all.ours.run(&["import", &tree, "--account", "default"])?;
        ensure!(imported["shares_copied"] == before.len(), "the import said {imported}");
        let again = all.ours.run(&["import", &tree, "--account", "default"])?;
        ensure!(again["shares_there"] == before.len() && again["shares_copied"] == 0, "again it said {again}");
        ensure!(describe(&storage)? == before, "the import changed what it read");

        all.move_to_ours()?;
        files.are_readable(&all.client)?;
        let index = all.client.storage_index(&files.immutable[1].0)?;
        ensure!(leaseholders(&all.ours, &index)? == ["default"; 3], "the account leases what it imported");
        files.change(&all.client, 930)?;
        files.are_readable(&all.client)?;
        let added = bytes(940, 100 * KIB);
        files.immutable.push((all.client.upload(&added)?, added));
        all.client.stop()?;
        all.ours.terminate()?;

        let back = storage_of("after", all.directory.path());
        let exported = all.ours.run(&["export", &back.display().to_string()])?;
        let exported_shares = describe(&back)?;
        ensure!(exported["totals"]["shares_written"] == exported_shares.len(), "the export said {exported}");
        ensure!(exported_shares.values().all(|share| share["leases"].as_array().is_some_and(|l| !l.is_empty())));
        let python = all.move_to_python("after")?;
        files.are_readable(&all.client)?;
        let (capability, data) = &files.immutable[2];
        let checked = all.client.check(capability, Check { verify: true, add_lease: true, ..Check::default() })?;
        ensure!(checked["results"]["healthy"] == true, "{checked}");
        ensure_same("once more", &all.client.download(capability)?, data)?;
        // Nobody knows the write enablers any longer, so the Python server lets nobody write, and nothing breaks.
        ensure!(all.client.overwrite(&files.mutable[0].0, b"not possible").is_err(), "a stranger's write enabler fits");
        files.are_readable(&all.client)?;
        python.stop()
    })
}

#[test]
fn a_python_server_is_taken_over_where_it_is() -> Result<()> {
    for version in [2, 1] {
        let mut all = Move::begin(&format!("take-over-{version}"))?;
        all.story(|all| is_taken_over(all, version)).with_context(|| format!("containers of version {version}"))?;
    }
    Ok(())
}

/// The whole life of a store that moves: served at once, changed, renewed, repaired, reconciled, and served by Python again.
fn is_taken_over(all: &mut Move, version: u32) -> Result<()> {
    let python = all.move_to_python("before")?;
    let mut files = Files::store(&all.client)?;
    let storage = python.storage().to_owned();
    all.client.stop()?;
    python.stop()?;
    if version == 1 {
        run_script(&["downgrade", &storage.display().to_string()])?;
    }
    let before = describe(&storage)?;
    ensure!(before.values().all(|share| share["version"] == version), "the tree is not of version {version}");
    // A disk that has lost something is no reason not to move.
    let index = all.client.storage_index(&files.immutable[2].0)?;
    fs::remove_file(storage.join("shares").join(&index[..2]).join(&index).join("1"))?;
    take_over(all, &storage)?;

    all.move_to_ours()?;
    files.are_readable(&all.client)?;
    let index = all.client.storage_index(&files.immutable[1].0)?;
    ensure!(leaseholders(&all.ours, &index)? == ["starter"; 3], "nobody has claimed these shares yet");
    let checked =
        all.client.check(&files.immutable[1].0, Check { verify: true, add_lease: true, ..Check::default() })?;
    ensure!(checked["results"]["healthy"] == true, "{checked}");
    ensure!(leaseholders(&all.ours, &index)?.iter().filter(|name| *name == "default").count() == 3, "now somebody has");
    files.change(&all.client, 950)?;
    files.are_readable(&all.client)?;
    let repaired = all.client.check(&files.immutable[2].0, Check { repair: true, ..Check::default() })?;
    ensure!(repaired["repair-successful"] == true, "{repaired}");
    let added = bytes(960, 100 * KIB);
    files.immutable.push((all.client.upload(&added)?, added));
    all.client.stop()?;
    all.ours.terminate()?;

    // Back again: what nobody has written to since keeps its container, and with it its write enabler.
    let back = storage_of("after", all.directory.path());
    let exported = all.ours.run(&["export", &back.display().to_string()])?;
    ensure!(exported["totals"]["shares_written"] == describe(&back)?.len(), "the export said {exported}");
    let python = all.move_to_python("after")?;
    files.are_readable(&all.client)?;
    files.mutable[2].1 = bytes(970, 1500);
    all.client.overwrite(&files.mutable[2].0, &files.mutable[2].1)?;
    files.are_readable(&all.client)?;
    python.stop()
}
