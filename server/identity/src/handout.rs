//! What an account's owner is handed: addresses, and a file for his client.

use crate::PublicIdentity;

/// A server as clients are told of it.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// Who it is.
    pub identity: &'a PublicIdentity,
    /// `HOST:PORT` of each of its addresses, the best first; at least one.
    pub addresses: &'a [String],
    /// Its name for people.
    pub nickname: &'a str,
}

/// The addresses of one account. They are secret.
pub struct Handout {
    /// For clients that speak HTTPS: the newest swissnum at every address, then the retiring one.
    pub nurls: Vec<String>,
    /// For clients that speak Foolscap; every client takes the tub id from it.
    pub furl: String,
}

impl std::fmt::Debug for Handout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handout(..)")
    }
}

impl Name<'_> {
    /// The addresses of the account with these swissnums.
    pub fn handout(&self, newest: &str, retiring: Option<&str>) -> Handout {
        let spki_hash = &self.identity.spki_hash;
        let swissnums = std::iter::once(newest).chain(retiring);
        let nurls = swissnums
            .flat_map(|swissnum| {
                self.addresses.iter().map(move |address| format!("pb://{spki_hash}@{address}/{swissnum}#v=1"))
            })
            .collect();
        let hints: Vec<String> = self.addresses.iter().map(|address| format!("tcp:{address}")).collect();
        Handout { nurls, furl: format!("pb://{}@{}/{newest}", self.identity.tub_id, hints.join(",")) }
    }

    /// A file for a client's `private` folder (`gbs.md` 12). JSON strings are YAML strings.
    pub fn servers_yaml(&self, handout: &Handout) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = format!(
            "storage:\n  {}:\n    ann:\n      nickname: {}\n      anonymous-storage-FURL: {}\n      anonymous-storage-NURLs:\n",
            self.identity.server_id,
            quoted(self.nickname),
            quoted(&handout.furl),
        );
        for nurl in &handout.nurls {
            text.push_str(&format!("      - {}\n", quoted(nurl)));
        }
        text.push_str("      grid-manager-certificates: []\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_swissnum_comes_first_at_every_address() {
        let identity =
            PublicIdentity { spki_hash: "S".to_owned(), tub_id: "T".to_owned(), server_id: "v0-X".to_owned() };
        let addresses = ["a.example:443".to_owned(), "b.example:444".to_owned()];
        let name = Name { identity: &identity, addresses: &addresses, nickname: "A \"B\"" };
        let handout = name.handout("new", Some("old"));
        let expected = [
            "pb://S@a.example:443/new#v=1",
            "pb://S@b.example:444/new#v=1",
            "pb://S@a.example:443/old#v=1",
            "pb://S@b.example:444/old#v=1",
        ];
        assert_eq!(handout.nurls, expected);
        assert_eq!(handout.furl, "pb://T@tcp:a.example:443,tcp:b.example:444/new");
        let yaml = name.servers_yaml(&handout);
        assert!(yaml.starts_with("storage:\n  v0-X:\n    ann:\n      nickname: \"A \\\"B\\\"\"\n"), "{yaml}");
        assert_eq!(format!("{handout:?}"), "Handout(..)");
    }
}
