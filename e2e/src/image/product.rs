//! The images of this project: built as static programs, then packed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;

use super::{Image, Packed};
use crate::dev::steps::execute;
use crate::dev::tools::cargo;
use crate::process::run_ok;
use crate::venv::workspace_root;

/// A program that is shipped as an image.
struct Product {
    /// The program, and the name of the image.
    program: &'static str,
    package: &'static str,
    title: &'static str,
}

const PRODUCTS: [Product; 2] = [
    Product { program: "leasehold", package: "leasehold-server", title: "Storage for Tahoe-LAFS with accounts" },
    Product { program: "leasehold-operator", package: "leasehold-operator", title: "The operator of Leasehold" },
];

/// Where images are said to come from.
pub const REGISTRY: &str = "localhost";

/// What a program's image is called.
///
/// # Errors
/// The program has not been built.
pub fn reference(program: &str) -> Result<String> {
    Ok(format!("{REGISTRY}/{program}:{}", tag(program)?))
}

/// The tag of a program's image. Another program has another one, so that whoever asks for it by its name gets this very one.
///
/// # Errors
/// The program has not been built.
pub fn tag(name: &str) -> Result<String> {
    let file = program(name);
    let bytes = fs::read(&file).with_context(|| format!("read {}; cargo dev images builds it", file.display()))?;
    Ok(format!("dev-{}", HEXLOWER.encode(&digest(&SHA256, &bytes).as_ref()[..6])))
}

/// Builds all programs and packs their images into the target folder. The same sources, compiler and folder give the
/// same digests.
pub fn build() -> Result<Vec<Packed>> {
    let folder = target_folder();
    let mut build = cargo();
    build.args(["build", "--release", "--target", &target(), "--target-dir"]).arg(&folder);
    for product in &PRODUCTS {
        build.args(["--package", product.package]);
    }
    // An image holds no C library, and says nothing of the folders that it was built in. The target is named so that
    // none of this reaches what runs while building.
    let root = workspace_root();
    let home = env::var_os("CARGO_HOME").map_or_else(default_cargo_home, PathBuf::from);
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        format!("--remap-path-prefix={}=/leasehold", root.display()),
        format!("--remap-path-prefix={}=/cargo", home.display()),
    ];
    build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    execute(&mut build)?;
    PRODUCTS.iter().map(|product| pack(product, &folder)).collect()
}

/// A program as it is in its image; it runs outside as well.
pub fn program(name: &str) -> PathBuf {
    target_folder().join(target()).join("release").join(name)
}

/// Static programs are built apart from others, and images lie beside them.
fn target_folder() -> PathBuf {
    workspace_root().join("target").join("images")
}

fn target() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

fn pack(product: &Product, folder: &Path) -> Result<Packed> {
    let program = program(product.program);
    let mut image = Image::of_program(product.program, &reference(product.program)?, &program).with_network()?;
    let label = |name: &str, value: &str| (format!("org.opencontainers.image.{name}"), value.to_owned());
    image.labels.extend([
        label("title", product.title),
        label("version", env!("CARGO_PKG_VERSION")),
        label("licenses", env!("CARGO_PKG_LICENSE")),
    ]);
    if let Some(revision) = revision() {
        image.labels.extend([label("revision", &revision)]);
    }
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    image.pack(&folder.join(format!("{}.tar", product.program)))
}

/// The commit the workspace is at; `None` where it is no git repository.
fn revision() -> Option<String> {
    let mut command = Command::new("git");
    command.current_dir(workspace_root()).args(["rev-parse", "HEAD"]);
    Some(run_ok(&mut command, Duration::from_secs(20)).ok()?.trim().to_owned())
}

fn default_cargo_home() -> PathBuf {
    env::home_dir().unwrap_or_default().join(".cargo")
}
