//! `tahoe backup` of a folder and its restoration, with the client's own command line.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Grid, KIB, bytes, ensure_same};

#[test]
fn backup_comes_back() -> Result<()> {
    let grid = Grid::shared(leasehold_e2e::tahoe::Protocol::Https)?;
    grid.story(|| {
        let client = &grid.client;
        let source = grid.directory.path().join("backup-source");
        let files = [("letter.txt", 20), ("photos/one.jpg", 300 * KIB), ("photos/old/two.jpg", 90_000), ("empty", 0)];
        for (seed, (name, length)) in files.iter().enumerate() {
            write(&source.join(name), &bytes(80 + seed as u64, *length))?;
        }
        client.cli(&["create-alias", "home"])?;
        client.cli(&["backup", text(&source)?, "home:backups"])?;

        let changed = bytes(90, 40_000);
        write(&source.join("letter.txt"), &changed)?;
        let report = client.cli(&["backup", "--verbose", text(&source)?, "home:backups"])?;
        ensure!(report.contains("3 reused") || report.contains("files reused"), "second backup said: {report}");

        let target = grid.directory.path().join("backup-target");
        client.cli(&["cp", "--recursive", "home:backups/Latest", text(&target)?])?;
        let restored = fs::read_dir(&target)?.next().context("nothing was restored")??.path();
        let root = if target.join("letter.txt").exists() { target } else { restored };
        ensure_same("the changed file", &fs::read(root.join("letter.txt"))?, &changed)?;
        for (seed, (name, length)) in files.iter().enumerate().skip(1) {
            ensure_same(name, &fs::read(root.join(name))?, &bytes(80 + seed as u64, *length))?;
        }
        let verified = client.cli(&["deep-check", "--verify", "--add-lease", "home:"])?;
        ensure!(verified.contains("done:"), "deep-check said: {verified}");
        ensure!(!verified.contains("Not Healthy"), "deep-check said: {verified}");
        Ok(())
    })
}

fn write(path: &Path, data: &[u8]) -> Result<()> {
    fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
    Ok(fs::write(path, data)?)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("temporary folders have plain names")
}
