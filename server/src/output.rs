//! What commands print: a table or sentences for people, one JSON document for programs.

use leasehold_config::Size;
use leasehold_core::account::{Account, Usage};
use leasehold_core::clock::Timestamp;
use leasehold_core::expiry::KeepAlive;
use leasehold_core::secret::Swissnum;
use serde_json::{Value, json};

use crate::accounts::{Handout, Shown};

/// For whom output is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON document on one line.
    Json,
}

impl Output {
    /// Prints one or the other.
    pub fn print(self, json: &Value, text: impl FnOnce() -> String) {
        match self {
            Self::Json => println!("{json}"),
            Self::Text => println!("{}", text().trim_end()),
        }
    }
}

/// A moment as people and programs read it: RFC 3339, UTC, to the second.
pub fn time_text(at: Timestamp) -> String {
    // Civil date of a day count (era of 400 years, each year beginning in March).
    let (days, seconds) = (at.seconds().div_euclid(86_400), at.seconds().rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// An account and its usage for programs.
pub fn account_json(account: &Account, usage: &Usage) -> Value {
    json!({
        "account_id": account.id.to_string(),
        "name": account.name,
        "state": account.state.as_str(),
        "used_bytes": usage.used_bytes,
        "reserved_bytes": usage.reserved_bytes,
        "shares": usage.shares,
        "quota_bytes": account.quota_bytes,
        "lease_days": account.lease_days,
        "keep_days": keep_json(account.keep_alive),
        "message": account.message,
        "created_at": time_text(account.created_at),
    })
}

/// How long an account's leases outlive what was granted.
fn keep_json(keep_alive: KeepAlive) -> Value {
    match keep_alive {
        KeepAlive::None => Value::Null,
        KeepAlive::Days(days) => days.into(),
        KeepAlive::Always => "never".into(),
    }
}

fn keep_text(keep_alive: KeepAlive) -> String {
    match keep_alive {
        KeepAlive::None => "its leases end as granted".to_owned(),
        KeepAlive::Days(days) => format!("no lease ends within {days} days of its last use"),
        KeepAlive::Always => "no lease ends".to_owned(),
    }
}

/// All accounts as a table.
pub fn account_table(accounts: &[(Account, Usage)]) -> String {
    let header = ["ID", "NAME", "STATE", "USED", "RESERVED", "QUOTA", "SHARES"].map(str::to_owned);
    let mut rows = vec![header];
    for (account, usage) in accounts {
        rows.push([
            account.id.to_string(),
            account.name.clone(),
            account.state.to_string(),
            Size(usage.used_bytes).to_string(),
            Size(usage.reserved_bytes).to_string(),
            account.quota_bytes.map_or("none".to_owned(), |bytes| Size(bytes).to_string()),
            usage.shares.to_string(),
        ]);
    }
    table(&rows)
}

/// Rows with their columns aligned, two spaces apart.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// One account for programs.
pub fn shown_json(shown: &Shown) -> Value {
    let mut json = account_json(&shown.account, &shown.usage);
    let credentials = shown.credentials.iter().map(|credential| {
        json!({
            "fingerprint": Swissnum::fingerprint(&credential.hash),
            "created_at": time_text(credential.created_at),
            "not_after": credential.not_after.map(time_text),
            "last_used_at": credential.last_used_at.map(time_text),
        })
    });
    json["credentials"] = credentials.collect();
    json
}

/// One account for people.
pub fn shown_text(shown: &Shown) -> String {
    let (account, usage) = (&shown.account, &shown.usage);
    let quota = account.quota_bytes.map_or("none".to_owned(), |bytes| format!("{} ({bytes} bytes)", Size(bytes)));
    let mut text = format!(
        "account     {} (number {})\nstate       {}\nused        {} ({} bytes) in {} shares\nreserved    {}\nquota       {quota}\nlease days  {}\nkept        {}\ncreated     {}\n",
        account.name,
        account.id,
        account.state,
        Size(usage.used_bytes),
        usage.used_bytes,
        usage.shares,
        Size(usage.reserved_bytes),
        account.lease_days,
        keep_text(account.keep_alive),
        time_text(account.created_at),
    );
    if !account.message.is_empty() {
        text.push_str(&format!("message     {}\n", account.message));
    }
    for credential in &shown.credentials {
        let until = credential.not_after.map_or("no end".to_owned(), |at| format!("until {}", time_text(at)));
        let used = credential.last_used_at.map_or("never used".to_owned(), |at| format!("used {}", time_text(at)));
        text.push_str(&format!("credential  {} ({until}, {used})\n", Swissnum::fingerprint(&credential.hash)));
    }
    text
}

/// What to hand to an account's owner, for people.
pub fn handout_text(handout: &Handout) -> String {
    format!(
        "account       {} (number {})\nNURL          {}\nFURL          {}\nservers.yaml  {}\n\nCopy servers.yaml into the `private` folder of a Tahoe-LAFS client and start the client.\n",
        handout.name,
        handout.account_id,
        handout.nurl,
        handout.furl,
        handout.servers_yaml.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_civil_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_392_000, "2026-11-23T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(time_text(Timestamp::from_seconds(seconds)), text);
        }
    }
}
