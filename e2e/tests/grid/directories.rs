//! Directories.

use anyhow::{Context, Result, ensure};
use leasehold_e2e::tahoe::{Format, Protocol};
use serde_json::{Map, Value, json};

use super::{Grid, bytes, ensure_same, over_both_protocols};

const ENTRIES: usize = 400;

over_both_protocols!(directory_keeps_many_entries);

fn directory_keeps_many_entries(protocol: Protocol) -> Result<()> {
    let grid = Grid::shared(protocol)?;
    grid.story(|| {
        let client = &grid.client;
        let data = bytes(70, 3_000);
        let file = client.upload(&data)?;
        for format in [Format::Sdmf, Format::Mdmf] {
            let directory = client.make_directory(format, &children("first", &file))?;
            client.add_children(&directory, &children("second", &file))?;
            client.upload_child(&directory, "alone", b"a small file that was put into the directory, by its name")?;
            client.remove_child(&directory, "first-000")?;
            let listed = client.list(&directory)?;
            ensure!(listed.len() == 2 * ENTRIES, "{format:?}: {} entries", listed.len());
            ensure!(!listed.contains_key("first-000"), "{format:?}: a removed entry is still there");
            for name in ["first-001", "second-399"] {
                let entry = listed.get(name).with_context(|| format!("{format:?}: no entry {name}"))?;
                ensure!(entry[1]["ro_uri"] == file.as_str(), "{format:?}: entry {name} is {entry}");
            }
            ensure_same("a file in a directory", &client.download_path(&directory, "second-123")?, &data)?;
        }
        Ok(())
    })
}

#[test]
fn directories_nest() -> Result<()> {
    let grid = Grid::shared(Protocol::Https)?;
    grid.story(|| {
        let client = &grid.client;
        let mut capability = client.make_directory(Format::Sdmf, &json!({}))?;
        client.upload_child(&capability, "leaf", &bytes(71, 500))?;
        for _ in 0..4 {
            let child = json!({ "down": ["dirnode", { "rw_uri": capability }] });
            capability = client.make_directory(Format::Sdmf, &child)?;
        }
        let got = client.download_path(&capability, "down/down/down/down/leaf")?;
        ensure_same("a file four directories down", &got, &bytes(71, 500))
    })
}

fn children(prefix: &str, file: &str) -> Value {
    let child = |index| (format!("{prefix}-{index:03}"), json!(["filenode", { "ro_uri": file }]));
    Value::Object((0..ENTRIES).map(child).collect::<Map<_, _>>())
}
