//! Faults put into a real history, to see that the checker finds them there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// What is done to the lines of a history; `None` if it has no place for this fault.
type Plant = fn(&mut Lines) -> Option<()>;
type Lines = Vec<Value>;

/// All of them, by name.
pub const FAULTS: &[(&str, Plant)] = &[
    ("stale read", stale_read),
    ("lost update", lost_update),
    ("write that nobody made", write_of_nobody),
    ("torn write of several shares", torn_write),
    ("false 404 of a slot", false_absence_of_slot),
    ("false 404 of an immutable share", false_absence_of_share),
    ("second 201", second_finish),
    ("share number granted twice", second_grant),
];

/// Writes the history with a fault to another file.
///
/// # Errors
/// If the history has no place for it.
pub fn plant(history: &Path, fault: Plant, into: &Path) -> Result<()> {
    let text = fs::read_to_string(history)?;
    let mut lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let before = lines.clone();
    fault(&mut lines).context("the history has no place for this fault")?;
    ensure!(lines != before, "the fault changes nothing");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Ok(fs::write(into, text)?)
}

fn is(line: &Value, model: &str, kind: &str) -> bool {
    line["model"] == model && line["kind"] == kind && line["return"].is_u64()
}

fn succeeded(line: &Value) -> bool {
    is(line, "slot", "read_test_write") && line["output"]["success"] == true
}

fn writes(line: &Value) -> bool {
    succeeded(line) && line["input"]["shares"].as_array().is_some_and(|shares| !shares.is_empty())
}

/// The last read of a slot that saw something.
fn last_look(lines: &[Value]) -> Option<usize> {
    let sees = |line: &Value| line["output"]["data"].as_object().is_some_and(|data| !data.is_empty());
    lines.iter().rposition(|line| succeeded(line) && !writes(line) && sees(line))
}

/// The write of one block in the beginning of the share with this number, if the line makes it.
fn first_id(line: &Value, share: &Value) -> Option<Value> {
    let vectors = line["input"]["shares"].as_array()?.iter().find(|vectors| vectors["share"] == *share)?;
    let whole = vectors["writes"].as_array()?.iter().find(|write| write["offset"] == 0)?;
    (vectors["length"] != 0).then(|| whole["blocks"][0].clone())
}

/// A read of a slot gives what the slot held long before.
fn stale_read(lines: &mut Lines) -> Option<()> {
    let first = |line: &Value| line["output"]["data"].as_object()?.values().next()?[0][0].as_i64();
    for at in (0..lines.len()).rev().filter(|&at| succeeded(&lines[at]) && !writes(&lines[at])) {
        let look = &lines[at];
        let Some(now) = first(look) else { continue };
        let earlier = lines.iter().find(|line| {
            let same = line["key"] == look["key"] && line["input"]["reads"] == look["input"]["reads"];
            same && succeeded(line) && first(line).is_some_and(|then| then > 0 && then != now)
        });
        if let Some(stale) = earlier.filter(|line| line["return"].as_u64() < look["call"].as_u64()) {
            lines[at]["output"]["data"] = stale["output"]["data"].clone();
            return Some(());
        }
    }
    None
}

/// A second write succeeds on the version that another has replaced.
fn lost_update(lines: &mut Lines) -> Option<()> {
    let first = lines.iter().find(|line| {
        let vectors = &line["input"]["shares"][0];
        let tested = vectors["tests"][0]["specimen"][0].is_u64() && vectors["tests"][0]["offset"] == 0;
        writes(line) && tested && first_id(line, &vectors["share"]).is_some()
    })?;
    let mut second = first.clone();
    let id = first_id(first, &first["input"]["shares"][0]["share"])?;
    let text = second["input"].to_string().replace(&id.to_string(), "999999999");
    second["input"] = serde_json::from_str(&text).ok()?;
    lines.push(second);
    Some(())
}

/// What wrote the content of a slot is not in the history.
fn write_of_nobody(lines: &mut Lines) -> Option<()> {
    let look = lines[last_look(lines)?].clone();
    let (share, reads) = look["output"]["data"].as_object()?.iter().next()?;
    let share = json!(share.parse::<u64>().ok()?);
    let id = &reads[0][0];
    let made = lines.iter().position(|line| {
        line["key"] == look["key"] && line["kind"] == "read_test_write" && first_id(line, &share).as_ref() == Some(id)
    })?;
    lines.remove(made);
    Some(())
}

/// Of a write of several shares that was seen by the next operation, only the first is there.
fn torn_write(lines: &mut Lines) -> Option<()> {
    for at in 0..lines.len() {
        let line = lines[at].clone();
        let shares = line["input"]["shares"].as_array().cloned().unwrap_or_default();
        if !writes(&line) || shares.len() < 2 {
            continue;
        }
        let second = &shares[1]["share"];
        let (Some(id), Some(before)) = (first_id(&line, second), line["output"]["data"][second.to_string()].as_array())
        else {
            continue;
        };
        let seen = lines.iter().position(|other| {
            let sees = |share: &Value| other["output"]["data"][share.to_string()][0][0].clone();
            let same = other["input"]["reads"] == line["input"]["reads"];
            same && other["key"] == line["key"]
                && succeeded(other)
                && sees(second) == id
                && sees(&shares[0]["share"]) == id
        });
        if let Some(seen) = seen.filter(|_| first_id(&line, &shares[0]["share"]).is_some() && before[0][0] != id) {
            lines[seen]["output"]["data"][second.to_string()] = json!(before);
            return Some(());
        }
    }
    None
}

fn false_absence_of_slot(lines: &mut Lines) -> Option<()> {
    let last = lines.iter().rposition(|line| is(line, "slot", "read") && line["output"]["status"] == 200)?;
    lines[last]["output"] = json!({"status": 404});
    Some(())
}

fn false_absence_of_share(lines: &mut Lines) -> Option<()> {
    let last = lines.iter().rposition(|line| is(line, "share", "read") && line["output"]["status"] == 200)?;
    lines[last]["output"] = json!({"status": 404});
    Some(())
}

fn second_finish(lines: &mut Lines) -> Option<()> {
    let line = lines.iter().find(|line| is(line, "share", "write") && line["output"]["status"] == 201)?.clone();
    lines.push(line);
    Some(())
}

fn second_grant(lines: &mut Lines) -> Option<()> {
    let finished = lines.iter().find(|line| is(line, "share", "write") && line["output"]["status"] == 201)?;
    let granted = |line: &&Value| {
        let same = line["key"] == finished["key"] && line["input"]["upload"] == finished["input"]["upload"];
        same && line["output"]["answer"] == "allocated"
    };
    let mut second = lines.iter().find(granted)?.clone();
    second["input"]["upload"] = json!(999_999_999);
    second["call"] = finished["return"].clone();
    second["return"] = json!(finished["return"].as_u64()? + 1);
    lines.push(second);
    Some(())
}
