//! Mistakes on the command line get one clear line and the exit code 2, and change nothing.

use std::fs;

use anyhow::{Result, ensure};
use leasehold_e2e::leasehold::{Server, run_program};

use super::Scratch;

/// What a mistake at the command line, in the configuration or in a name ends with.
const BAD_INPUT: i32 = 2;

#[test]
fn mistakes_are_told_in_one_line() -> Result<()> {
    let directory = Scratch::new("commands")?;
    let server = Server::start("server", directory.path(), None)?;
    let data_dir = server.data_dir().to_string_lossy().into_owned();
    let before = server.account(&["list"])?;
    let cases: [(&[&str], &str); 9] = [
        (&["account", "create", "one", "--quota", "lots"], "lots"),
        (&["account", "create", ""], ""),
        (&["account", "show", "nobody"], "nobody"),
        (&["account", "set", "nobody", "--quota", "1GiB"], "nobody"),
        (&["account", "rotate", "nobody"], "nobody"),
        (&["account", "suspend", "nobody"], "nobody"),
        (&["account", "delete", "nobody"], "nobody"),
        (&["share", "show", "not-a-storage-index"], "not-a-storage-index"),
        (&["share", "show", "aaaaaaaaaaaaaaaaaaaaaaaaab"], "aaaaaaaaaaaaaaaaaaaaaaaaab"),
    ];
    for (arguments, name) in cases {
        let mut all = arguments.to_vec();
        all.extend(["--data-dir", &data_dir]);
        ensure_told(&all, name)?;
    }
    server.create_account("twice", None)?;
    ensure_told(&["account", "create", "twice", "--data-dir", &data_dir], "twice")?;
    server.account(&["delete", "twice"])?;
    let after = server.account(&["list"])?;
    ensure!(count(&before) <= count(&after) && count(&after) <= count(&before) + 1, "{before} became {after}");
    ensure!(server.admin_page("/healthz/live").is_ok(), "the server suffered from somebody's mistakes");
    Ok(())
}

#[test]
fn bad_configuration_is_refused_by_name() -> Result<()> {
    let directory = Scratch::new("configuration")?;
    let data_dir = directory.path().join("data").to_string_lossy().into_owned();
    let config = directory.path().join("config.toml");
    let path = config.to_string_lossy().into_owned();
    ensure_told(&["serve", "--data-dir", &data_dir, "--config", &path], "config.toml")?;
    let cases = [
        ("[limits]\nconnections_maximum = 5\n", "connections_maximum"),
        ("[uploads]\nidle_timeout_seconds = \"soon\"\n", "idle_timeout_seconds"),
        ("this is no TOML", "config.toml"),
    ];
    for (text, name) in cases {
        fs::write(&config, text)?;
        for command in ["serve", "check"] {
            ensure_told(&[command, "--data-dir", &data_dir, "--config", &path], name)?;
        }
    }
    for listen in ["nowhere", "127.0.0.1", "127.0.0.1:99999"] {
        ensure_told(&["serve", "--data-dir", &data_dir, "--listen", listen], listen)?;
    }
    ensure!(!directory.path().join("data").exists(), "a refused start has made a data directory");
    Ok(())
}

#[test]
fn data_directory_belongs_to_one_server() -> Result<()> {
    let directory = Scratch::new("twice")?;
    let mut server = Server::start("server", directory.path(), None)?;
    let data_dir = server.data_dir().to_string_lossy().into_owned();
    let free = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let (code, told) = run_program(&[&["serve", "--data-dir", &data_dir], &free[..]].concat())?;
    ensure!(
        code.is_some_and(|code| code != 0),
        "a second server on the same data directory ended with {code:?}: {told}"
    );
    server.expect_running()?;
    ensure!(server.account(&["list"]).is_ok(), "the first server's data directory cannot be read any more");
    Ok(())
}

/// Demands the exit code for bad input, and an explanation that has `name` in it and is not a crash.
fn ensure_told(arguments: &[&str], name: &str) -> Result<()> {
    let (code, told) = run_program(arguments)?;
    ensure!(code == Some(BAD_INPUT), "{arguments:?} ended with {code:?}: {told}");
    ensure!(told.contains(name), "{arguments:?} did not name {name}: {told}");
    ensure!(!told.contains("panicked"), "{arguments:?}: {told}");
    ensure!(told.lines().count() <= 8, "{arguments:?} was told at length: {told}");
    Ok(())
}

fn count(accounts: &serde_json::Value) -> usize {
    let list = accounts.as_array().or_else(|| accounts["accounts"].as_array());
    list.map_or(0, Vec::len)
}
