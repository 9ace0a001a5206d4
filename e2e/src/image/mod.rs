//! Container images without a container engine: static programs packed as OCI archives.
//!
//! An image holds one program and the few files that it looks for, belongs to root, and runs as nobody in particular.
//! The same files give the same bytes, and so the same digest, whenever and wherever they are packed.

mod oci;
pub mod product;
mod tar;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use self::tar::Tar;

/// The user and the group under whom images run: no account of any machine.
pub const USER: u32 = 65_532;

/// Where names come from: files first, then the cluster's name server.
const NAME_SOURCES: &str = "hosts: files dns\n";

/// The certificates of public authorities, where Debian puts them and where programs look.
const PUBLIC_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What an image holds.
#[derive(Clone, Debug)]
pub struct Image {
    /// What it is called, with its tag.
    pub reference: String,
    /// The program in the image that is started.
    pub entrypoint: String,
    /// What is told about it.
    pub labels: BTreeMap<String, String>,
    /// Files by their paths, which begin without a slash.
    files: BTreeMap<String, Source>,
}

#[derive(Clone, Debug)]
enum Source {
    /// A program of this machine.
    Program(PathBuf),
    /// Something to read.
    Text(String),
}

/// An image in a file.
#[derive(Clone, Debug)]
pub struct Packed {
    /// What it is called, with its tag.
    pub reference: String,
    /// Names it for ever: `sha256:` and 64 digits.
    pub digest: String,
    /// The OCI archive.
    pub archive: PathBuf,
}

impl Image {
    /// An image that holds a static program and nothing else.
    pub fn of_program(name: &str, reference: &str, program: &Path) -> Self {
        let files = BTreeMap::from([(name.to_owned(), Source::Program(program.to_owned()))]);
        let (reference, entrypoint) = (reference.to_owned(), format!("/{name}"));
        Self { reference, entrypoint, labels: BTreeMap::new(), files }
    }

    /// Adds what programs that speak to others look for.
    pub fn with_network(mut self) -> Result<Self> {
        let authorities = fs::read_to_string(PUBLIC_AUTHORITIES)
            .with_context(|| format!("read {PUBLIC_AUTHORITIES}; on Debian: apt-get install ca-certificates"))?;
        let passwd = format!("leasehold:x:{USER}:{USER}::/:/sbin/nologin\n");
        for (path, text) in [
            ("etc/nsswitch.conf", NAME_SOURCES.to_owned()),
            ("etc/passwd", passwd),
            (PUBLIC_AUTHORITIES.trim_start_matches('/'), authorities),
        ] {
            self.files.insert(path.to_owned(), Source::Text(text));
        }
        Ok(self)
    }

    /// Writes the image as an OCI archive.
    pub fn pack(&self, archive: &Path) -> Result<Packed> {
        let (bytes, digest) = oci::archive(self, &self.layer()?)?;
        fs::write(archive, bytes).with_context(|| format!("write {}", archive.display()))?;
        Ok(Packed { reference: self.reference.clone(), digest, archive: archive.to_owned() })
    }

    /// The one layer: folders before what is in them, all in the order of their names.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = Tar::default();
        let mut folders = BTreeMap::from([("tmp/".to_owned(), 0o1777)]);
        for path in self.files.keys() {
            let ends = path.match_indices('/').map(|(end, _)| format!("{}/", &path[..end]));
            folders.extend(ends.map(|folder| (folder, 0o755)));
        }
        folders.iter().try_for_each(|(path, mode)| tar.add_folder(path, *mode))?;
        for (path, source) in &self.files {
            match source {
                Source::Text(text) => tar.add(path, 0o644, text.as_bytes())?,
                Source::Program(file) => {
                    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
                    tar.add(path, 0o755, &bytes)?;
                }
            }
        }
        Ok(tar.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_packings_have_one_digest() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let program = folder.path().join("program");
        let mut digests = Vec::new();
        for round in ["first", "second"] {
            // The same bytes in a file of another age.
            fs::write(&program, b"a program")?;
            let image = Image::of_program("program", "localhost/program:1", &program).with_network()?;
            let packed = image.pack(&folder.path().join(round))?;
            digests.push((packed.digest, fs::read(packed.archive)?));
        }
        assert_eq!(digests[0], digests[1]);
        fs::write(&program, b"another program")?;
        let other = Image::of_program("program", "localhost/program:1", &program).pack(&folder.path().join("third"))?;
        assert_ne!(digests[0].0, other.digest);
        Ok(())
    }
}
